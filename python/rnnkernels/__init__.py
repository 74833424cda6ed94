"""Fused LSTM, GRU and vanilla RNN kernels, forward and back-propagation through time, on NumPy arrays and on
arrays of a GPU.

Level 0 is one call a layer, with a readable twin of the same name in ``rnnkernels.reference``; level 1 are
the layers LSTM, GRU and RNN, under PyTorch's names.
"""

from . import cuda, init, optim, reference
from ._core import __version__
from .functional import (
    gru_backward,
    gru_forward,
    linear_backward,
    linear_cross_entropy_backward,
    linear_cross_entropy_forward,
    linear_forward,
    lstm_backward,
    lstm_forward,
    pack,
    rnn_backward,
    rnn_forward,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
    stack_backward,
    stack_forward,
)
from .layers import GRU, LSTM, RNN
from .optim import clip_grad_norm
from .options import config, get_include, get_num_threads, info, set_num_threads

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "__version__",
    "clip_grad_norm",
    "config",
    "cuda",
    "get_include",
    "get_num_threads",
    "gru_backward",
    "gru_forward",
    "info",
    "init",
    "linear_backward",
    "linear_cross_entropy_backward",
    "linear_cross_entropy_forward",
    "linear_forward",
    "lstm_backward",
    "lstm_forward",
    "optim",
    "pack",
    "reference",
    "rnn_backward",
    "rnn_forward",
    "set_num_threads",
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy_forward",
    "stack_backward",
    "stack_forward",
]
