"""Gradient clipping and the four optimisers that recurrent networks are trained with, in plain NumPy.

Parameters are lists or dicts of arrays and change in place.  The one difference from torch.optim: weight
decay is decoupled everywhere (Loshchilov & Hutter 2019), so Adam with weight_decay is torch.optim.AdamW.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np

from .types import Array, is_floating

Arrays: TypeAlias = Sequence[Array] | Mapping[str, Array]


def clip_grad_norm(grads: Any, max_norm: float) -> float:
    """Scale gradients, in place, so that the norm of all of them together is at most ``max_norm``.

    As torch.nn.utils.clip_grad_norm_: multiplied by max_norm / (norm + 1e-6) where that is below 1, so that a
    norm that is not finite leaves no gradient usable; the returned value tells.

    Parameters
    ----------
    grads
        An array, or lists, tuples and dicts of them in any nesting; None stands for no gradient.
    max_norm
        Above 0; inf measures and changes nothing.

    Returns
    -------
    float
        The Euclidean norm before clipping, summed in float64 or wider.

    Raises
    ------
    ValueError
        For a max_norm that is not above 0, or a read-only array.
    TypeError
        For a leaf that is no floating-point array.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm: expected a number above 0, got {max_norm}")
    arrays = list(_leaves(grads))
    for array in arrays:
        if not is_floating(array):
            got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise TypeError(f"grads: expected floating-point NumPy arrays, got {got}")
    norm = math.sqrt(sum(float(np.square(a, dtype=np.result_type(a, np.float64)).sum()) for a in arrays))
    scale = max_norm / (norm + 1e-6)
    if not scale >= 1:
        for array in arrays:  # the scale is not rounded to 16 bits, where it could be 0
            wide = np.result_type(array, np.float32)
            np.multiply(array, scale, out=array, dtype=wide, casting="unsafe")
    return norm


class Optimizer(ABC):
    """What the optimisers share: named parameters, their state, weight decay.

    Parameters
    ----------
    params
        A list of arrays or a dict of them (a layer's ``state_dict()``), updated in place by ``step``.  Of
        float32 or wider: in 16 bits small steps are lost, so optimise float32 copies (docs/accuracy.md).
    lr
        Step size; the attribute ``lr`` may be changed between steps.
    weight_decay
        Each step first multiplies the parameters by 1 - lr * weight_decay.

    Raises
    ------
    ValueError
        For a negative or non-finite lr or weight_decay, or a read-only parameter.
    TypeError
        For a parameter that is no floating-point array, or one of 16 bits.
    """

    _slots: ClassVar[tuple[str, ...]] = ()  # arrays that are kept for each parameter, zero at first

    def __init__(self, params: Arrays, lr: float, weight_decay: float) -> None:
        _expect("lr", lr, 0 <= lr < math.inf, "a finite number >= 0")
        _expect("weight_decay", weight_decay, 0 <= weight_decay < math.inf, "a finite number >= 0")
        self.lr, self.weight_decay, self._steps = lr, weight_decay, 0
        self._params = _named(params)
        for name, p in self._params.items():
            if not is_floating(p):
                raise TypeError(
                    f"params[{name}]: expected a floating-point NumPy array, got {type(p).__name__}"
                )
            if p.dtype.itemsize < 4:
                raise TypeError(f"params[{name}]: expected float32 or wider, got {p.dtype}")
            if not p.flags.writeable:
                raise ValueError(f"params[{name}]: expected a writeable array, got a read-only one")
        self._state = {
            f"{slot}.{name}": np.zeros_like(p) for name, p in self._params.items() for slot in self._slots
        }

    def step(self, grads: Arrays) -> None:
        """Update the parameters, in place.

        Parameters
        ----------
        grads
            A gradient for each parameter, in a list or dict like theirs.

        Raises
        ------
        ValueError
            For a missing or unknown name, or a gradient of another shape; no parameter has changed.
        TypeError
            For a gradient that is no array or of another dtype; no parameter has changed.
        """
        named = _named(grads)
        _expect_same_names("grads", named, self._params)
        for name, p in self._params.items():
            _expect_like(f"grads[{name}]", named[name], p)
        self._steps += 1
        for name, p in self._params.items():
            if self.weight_decay:
                p *= 1 - self.lr * self.weight_decay
            self._update(p, named[name], *(self._state[f"{slot}.{name}"] for slot in self._slots))

    @abstractmethod
    def _update(self, p: Array, g: Array, *state: Array) -> None:
        """Update one parameter and its slots, in place."""

    def state_dict(self) -> dict[str, Array]:
        """Copies of all that the next steps depend on besides the parameters and the options, by name."""
        return {"step": np.array(self._steps)} | {name: array.copy() for name, array in self._state.items()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Go on from a ``state_dict()``.

        Raises
        ------
        ValueError
            For a missing or unknown name, or another shape; nothing has changed.
        TypeError
            For what is no array or of another dtype; nothing has changed.
        """
        _expect_same_names("state", state, {"step": None, **self._state})
        for name, array in self._state.items():
            _expect_like(f"state[{name}]", state[name], array)
        self._steps = int(state["step"])
        for name, array in self._state.items():
            array[...] = state[name]


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015); with ``weight_decay`` AdamW (Loshchilov & Hutter 2019).

    Parameters
    ----------
    params, lr, weight_decay
        As in ``Optimizer``.
    betas
        Decay rates of the running means of the gradient and of its square, in [0, 1).
    eps
        Added to the root of the mean square.
    """

    _slots = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Arrays,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, weight_decay)
        for beta in betas:
            _expect("betas", betas, 0 <= beta < 1, "numbers in [0, 1)")
        self.betas, self.eps = betas, eps

    def _update(self, p: Array, g: Array, *state: Array) -> None:
        (m, v), (beta1, beta2) = state, self.betas
        m += (1 - beta1) * (g - m)
        v *= beta2
        v += (1 - beta2) * g * g
        root = np.sqrt(v)  # root / sqrt(1 - beta2^t) + eps, without another array
        root *= 1 / math.sqrt(1 - beta2**self._steps)
        root += self.eps
        p -= self.lr / (1 - beta1**self._steps) * m / root


class RMSprop(Optimizer):
    """RMSprop (Tieleman & Hinton 2012) as in PyTorch: the root is taken before eps is added.

    Parameters
    ----------
    params, lr, weight_decay
        As in ``Optimizer``.
    alpha
        Decay rate of the running mean of the squared gradient, in [0, 1).
    eps
        Added to the root of the mean square.
    """

    _slots = ("square_avg",)

    def __init__(
        self,
        params: Arrays,
        lr: float = 1e-2,
        *,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, weight_decay)
        _expect("alpha", alpha, 0 <= alpha < 1, "a number in [0, 1)")
        self.alpha, self.eps = alpha, eps

    def _update(self, p: Array, g: Array, *state: Array) -> None:
        (v,) = state
        v *= self.alpha
        v += (1 - self.alpha) * g * g
        p -= self.lr * g / (np.sqrt(v) + self.eps)


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan & Singer 2011).

    Parameters
    ----------
    params, lr, weight_decay
        As in ``Optimizer``.
    eps
        Added to the root of the summed squares.
    """

    _slots = ("sum",)

    def __init__(
        self, params: Arrays, lr: float = 1e-2, *, eps: float = 1e-10, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, lr, weight_decay)
        self.eps = eps

    def _update(self, p: Array, g: Array, *state: Array) -> None:
        (v,) = state
        v += g * g
        p -= self.lr * g / (np.sqrt(v) + self.eps)


class SGD(Optimizer):
    """Stochastic gradient descent with momentum in PyTorch's form: v = momentum v + g, p = p - lr v.

    Parameters
    ----------
    params, lr, weight_decay
        As in ``Optimizer``.
    momentum
        In [0, 1); 0 is plain descent.
    """

    _slots = ("momentum_buffer",)

    def __init__(
        self, params: Arrays, lr: float = 1e-3, *, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, lr, weight_decay)
        _expect("momentum", momentum, 0 <= momentum < 1, "a number in [0, 1)")
        self.momentum = momentum

    def _update(self, p: Array, g: Array, *state: Array) -> None:
        (v,) = state
        v *= self.momentum
        v += g
        p -= self.lr * v


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, Mapping):
        tree = tree.values()
    if tree is None:
        return
    if isinstance(tree, Iterable) and not isinstance(tree, np.ndarray | str):
        for branch in tree:
            yield from _leaves(branch)
    else:
        yield tree


def _named(arrays: Arrays) -> dict[str, Array]:
    return dict(arrays) if isinstance(arrays, Mapping) else {str(k): a for k, a in enumerate(arrays)}


def _expect(name: str, value: Any, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name}: expected {expected}, got {value}")


def _expect_same_names(argument: str, got: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for name in [*expected, *got]:
        if name not in got:
            raise ValueError(f"{argument}: expected an array {name!r}, got none")
        if name not in expected:
            raise ValueError(f"{argument}: expected {len(expected)} arrays, got one more, {name!r}")


def _expect_like(name: str, got: Any, like: Array) -> None:
    if not isinstance(got, np.ndarray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(got).__name__}")
    if got.dtype != like.dtype:
        raise TypeError(f"{name}: expected {like.dtype}, got {got.dtype}")
    if got.shape != like.shape:
        raise ValueError(f"{name}: expected {like.shape}, got {got.shape}")
