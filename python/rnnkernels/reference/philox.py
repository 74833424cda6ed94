"""Philox 4x32-10 counter-based random numbers and the dropout mask drawn from them.

Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.  The same bits come from
csrc/core/philox.h: a mask depends on the key, the layer and the element's index, and on nothing else.
"""

from __future__ import annotations

import numpy as np

from ..types import Array

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
_WORD = np.uint64(32)


def philox4x32(counter: Array, key: int) -> Array:
    """Ten rounds of Philox 4x32.

    Parameters
    ----------
    counter
        (..., 4) uint32.
    key
        64 bits, the low word first.

    Returns
    -------
    Array
        (..., 4) uint32, random.
    """
    c0, c1, c2, c3 = np.moveaxis(counter, -1, 0)
    k0, k1 = np.array([key & 0xFFFFFFFF, key >> 32], np.uint32)
    with np.errstate(over="ignore"):  # the keys wrap, as they must
        for _ in range(10):
            p0 = _MULTIPLIERS[0] * c0.astype(np.uint64)
            p1 = _MULTIPLIERS[1] * c2.astype(np.uint64)
            c0, c1 = (p1 >> _WORD).astype(np.uint32) ^ c1 ^ k0, p1.astype(np.uint32)
            c2, c3 = (p0 >> _WORD).astype(np.uint32) ^ c3 ^ k1, p0.astype(np.uint32)
            k0, k1 = k0 + _WEYL[0], k1 + _WEYL[1]
    return np.stack([c0, c1, c2, c3], axis=-1)


def dropout_mask(key: int, layer: int, shape: tuple[int, ...], p: float) -> Array:
    """Which elements a dropout of rate p keeps, after a layer of a stack.

    Element e (its flat index in C order) takes word e % 4 of the block with the counter
    (low word of e // 4, high word of e // 4, layer, 0), shifted right by 8: it is kept if this number of 24
    bits is at least round(p * 2**24).

    Returns
    -------
    Array
        Booleans of that shape, True where kept.
    """
    size = int(np.prod(shape, dtype=np.int64))
    block = np.arange((size + 3) // 4, dtype=np.uint64)
    counter = np.zeros((len(block), 4), np.uint32)
    counter[:, 0], counter[:, 1], counter[:, 2] = block & np.uint64(0xFFFFFFFF), block >> _WORD, layer
    u = philox4x32(counter, key).reshape(-1)[:size] >> np.uint32(8)
    return np.asarray(u >= round(p * 2**24)).reshape(shape)
