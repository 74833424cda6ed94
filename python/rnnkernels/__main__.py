"""`python -m rnnkernels` is the command `rnnkernels`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
