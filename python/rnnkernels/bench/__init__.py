"""Fair timing: the candidates take turns, and what is compared is each round's ratio.

A shared machine drifts, and it drifts for everybody in the same round: a ratio within a round survives that,
two medians taken minutes apart do not.  `cases` holds what `rnnkernels bench` runs; the repository's
benchmarks against other libraries reuse `take_turns`.
"""

from .timing import Quartiles, quartiles, ratios, take_turns

__all__ = ["Quartiles", "quartiles", "ratios", "take_turns"]
