"""What a step keeps in memory between its forward and its backward."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch


def bytes_kept(forward: Callable[[], object], owned: Iterable[torch.Tensor] = ()) -> int:
    """Return the bytes that autograd keeps for the backward of `forward`.

    A storage counts once however many views of it are kept; those of `owned`, such as weights and inputs,
    which are there in any case, do not count.

    Parameters
    ----------
    forward : callable
        Computes what will be differentiated; what it returns is dropped.
    owned : iterable of Tensor
        What exists already.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in owned}
    # Kept alive until all are counted, so that no address is given out twice.
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(storage.nbytes() for storage in kept.values())
