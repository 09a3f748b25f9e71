"""Random numbers that are a function of their key: the Philox counter-based generator.

Drawing from a counter instead of a stream makes an augmentation depend on (seed, epoch, object, view)
alone: not on batch order, batch size, number of workers, backend, or where a run was interrupted.
"""

from __future__ import annotations

import numpy as np

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Philox4x32-10 (Salmon et al. 2011, SC'11, doi 10.1145/2063384.2063405).

    Parameters
    ----------
    counter : ndarray of uint32, shape (..., 4)
        Counters; each gives four independent words.
    key : tuple of two ints in [0, 2**32)
        The key.

    Returns
    -------
    ndarray of uint32, shape (..., 4)
        Uniform random words.
    """
    c0, c1, c2, c3 = (counter[..., i].astype(np.uint64) for i in range(4))
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0 = (p1 >> _HALF) ^ c1 ^ np.uint64(k0)
        c2 = (p0 >> _HALF) ^ c3 ^ np.uint64(k1)
        c1, c3 = p1 & _LOW, p0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


FOR_GEOMETRY = 0
FOR_NOISE = 1
FOR_GAINS = 2
FOR_PHOTOMETRY = 64
"""What the words of a view are for: each purpose is a stream of its own. Gains take four bands a purpose,
photometry one purpose for choices and one for every four deviates."""


def draw(seed: int, epoch: int, objid: np.ndarray, view: int, purpose: int = FOR_GEOMETRY) -> np.ndarray:
    """Four random words for each object.

    Parameters
    ----------
    seed : int
        Seed of the run, in [0, 2**64).
    epoch : int
        Epoch, in [0, 2**32).
    objid : ndarray of int64, shape (N,)
        Identifiers of the objects.
    view : int
        Which view of the object, in [0, 2**24).
    purpose : int
        What the words are for, in [0, 2**8).

    Returns
    -------
    ndarray of uint32, shape (N, 4)
    """
    bits = np.asarray(objid, dtype=np.int64).view(np.uint64)
    counter = np.empty((len(bits), 4), np.uint32)
    counter[:, 0] = bits & _LOW
    counter[:, 1] = bits >> _HALF
    counter[:, 2] = epoch
    counter[:, 3] = view | purpose << 24
    return philox(counter, (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))


def uniform(words: np.ndarray) -> np.ndarray:
    """Map random words to float64 in [0, 1), using 24 bits so that float32 code draws the same."""
    return (words >> np.uint32(8)).astype(np.float64) * 2.0**-24


def normals(key: np.ndarray, count: int) -> np.ndarray:
    """Draw standard normal deviates (Box & Muller 1958).

    Parameters
    ----------
    key : ndarray of uint32, shape (2,)
        Which stream.
    count : int
        How many of its first elements.

    Returns
    -------
    ndarray of float64, shape (count,)
        From words of 24 bits each, so none is beyond 5.77.
    """
    counter = np.zeros((-(-count // 4), 4), np.uint32)
    counter[:, 0] = np.arange(len(counter))
    word = philox(counter, (int(key[0]), int(key[1])))
    radius = np.sqrt(-2.0 * np.log(uniform(word[:, 0::2]) + 2.0**-24))  # the logarithm of (0, 1]
    turn = 2.0 * np.pi * uniform(word[:, 1::2])
    return np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=-1).reshape(-1)[:count]


def derive_seed(seed: int, *labels: int) -> int:
    """Return a seed in [0, 2**63) for one purpose: the run's seed and up to four numbers below 2**32."""
    counter = np.zeros(4, np.uint32)
    counter[: len(labels)] = labels
    words = philox(counter, (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))
    return int(words[0]) << 31 ^ int(words[1])
