"""A character language model on the fused kernels: the parts behind `rnnkernels train` and `sample`.

`corpus` turns files into training and held-out ids, `model` is the network with one flat parameter
buffer, `training` runs truncated back-propagation through time, `sampling` writes text, `checkpoint`
keeps a run in a safetensors file.  The command line in `rnnkernels.cli` only parses, shows and saves.
"""

from .corpus import Corpus, InputError, Streams, Vocabulary, read_files, standard_library
from .model import CELLS, CharModel
from .sampling import Sampler
from .training import Config, Trainer, evaluate

__all__ = [
    "CELLS",
    "CharModel",
    "Config",
    "Corpus",
    "InputError",
    "Sampler",
    "Streams",
    "Trainer",
    "Vocabulary",
    "evaluate",
    "read_files",
    "standard_library",
]
