"""Fair timing: the candidates take turns, and what is compared is each round's ratio.

A shared machine drifts, and it drifts for everybody in the same round: a ratio within a round survives that,
two medians taken minutes apart do not.  `cases` compares kernels with their references in one process;
`comparison` runs the rows of `grid` against other `libraries`, in `workers` of their own, over the machine's
`floor`; `report` and `chart` tell the result.
"""

from .timing import Quartiles, quartiles, ratios, take_turns

__all__ = ["Quartiles", "quartiles", "ratios", "take_turns"]
