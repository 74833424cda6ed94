"""Readable NumPy references: the definition that every kernel of the library is tested against.

Same names, signatures and results as the kernels in ``rnnkernels``; any NumPy floating-point dtype; nobody
optimises them.  Imports numpy and ``rnnkernels.types`` alone.
"""

from .gru import gru_backward, gru_forward
from .heads import (
    linear_backward,
    linear_cross_entropy_backward,
    linear_cross_entropy_forward,
    linear_forward,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
)
from .int8 import int8_stack, round_to_int8
from .lstm import lstm_backward, lstm_forward
from .philox import dropout_mask, philox4x32
from .rnn import rnn_backward, rnn_forward
from .stack import stack_backward, stack_forward

__all__ = [
    "dropout_mask",
    "gru_backward",
    "gru_forward",
    "int8_stack",
    "linear_backward",
    "linear_cross_entropy_backward",
    "linear_cross_entropy_forward",
    "linear_forward",
    "lstm_backward",
    "lstm_forward",
    "philox4x32",
    "round_to_int8",
    "rnn_backward",
    "rnn_forward",
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy_forward",
    "stack_backward",
    "stack_forward",
]
