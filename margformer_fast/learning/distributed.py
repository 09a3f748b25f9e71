"""Several processes that train one model, as ``torchrun`` starts them: what each does and what they exchange.

Every process, a rank, holds the whole model and all objects. Of each batch it does its own rows; losses and
gradients are sums over ranks, so the steps are those of one process with the joint batch, but for rounding.
One process alone is a world of size 1: the same code, and nothing is exchanged.

Why gradients are summed here, in one flat tensor after the backward, and not by ``DistributedDataParallel``:
ranks may hold unequal numbers of objects, so that the gradient is a sum of shares and no mean over ranks;
parts of a model may get no gradient in a stage; checkpoints and recorded steps see the model itself and no
wrapper; and the models are small (a few MB of gradients), so there is little to hide behind the backward.

Shapes: N objects of a batch, n of them on this rank, P parameters.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib import import_module
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.distributed as dist
from torch import nn

from ..errors import ConfigError, MargformerError
from ..reference.random import derive_seed

_CPU = torch.device("cpu")
_log = logging.getLogger(__name__)

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

# Ranks wait for the first while it trains a baseline, which may take hours. A rank that dies is noticed by
# its closed connections and by torchrun, not by the clock.
_LONGEST_WAIT = timedelta(days=1)

# By so much the other ranks hold back when they fail: what fails everywhere is told by the first.
_FIRST_SPEAKS_SECONDS = 0.5


@dataclass(frozen=True)
class Share:
    """Which objects of a batch are this rank's, and how ranks bring theirs together.

    Parameters
    ----------
    parts : tuple of (int, ndarray of int)
        Number of a part within the batch, and its rows. This rank does these parts, which follow each other.
    rank : int
        Of this process.
    sizes : tuple of int
        How many objects each rank has.
    seed : int
        Of the dropout of this batch.
    is_cut : bool
        Whether the batch has several parts, whoever does them.
    """

    parts: tuple[tuple[int, np.ndarray], ...]
    rank: int
    sizes: tuple[int, ...]
    seed: int
    is_cut: bool

    @property
    def rows(self) -> np.ndarray:
        """Rows of this rank, shape (n,)."""
        return np.concatenate([rows for _, rows in self.parts])

    @property
    def first(self) -> int:
        """How many objects of the batch the ranks before this one have."""
        return sum(self.sizes[: self.rank])

    @property
    def is_whole(self) -> bool:
        """Whether this rank has the whole batch, so that nothing is to be gathered."""
        return self.sizes[self.rank] == sum(self.sizes)

    def in_parts(self, run: Callable[[np.ndarray], torch.Tensor]) -> torch.Tensor:
        """Return ``run(rows)`` of this rank's parts, joined along the first axis.

        Dropout inside `run` is drawn from a seed of the batch and the part. So it does not depend on which
        rank does the part, nor on how many ranks there are, as long as the number of parts stays.

        Parameters
        ----------
        run : callable
            Takes rows, returns a tensor with one entry a row.
        """
        results = []
        for number, rows in self.parts:
            if self.is_cut:
                torch.manual_seed(derive_seed(self.seed, number))
            results.append(run(rows))
        return results[0] if len(results) == 1 else torch.cat(results)

    def mean(self, value_n: torch.Tensor) -> torch.Tensor:
        """Return this rank's share, shape (), of the mean over the batch; shares of all ranks add up to it.

        Divided by the size of the batch and not by that of the share: ranks have unequal numbers of objects.
        """
        return value_n.mean() if self.is_whole else value_n.sum() / sum(self.sizes)

    def gather(self, own_n: torch.Tensor) -> torch.Tensor:
        """Return what all ranks have, shape (N, ...), in the order of the batch; not differentiated.

        Parameters
        ----------
        own_n : Tensor, shape (n, ...)
            One entry for each of this rank's objects.
        """
        # Ranks gather tensors of one size: short ones are filled up, and cut again.
        longest = own_n.new_zeros(max(self.sizes), *own_n.shape[1:])
        longest[: len(own_n)] = own_n
        gathered = [torch.empty_like(longest) for _ in self.sizes]
        with _lost_ranks_named():
            dist.all_gather(gathered, longest)
        return torch.cat([each[:size] for each, size in zip(gathered, self.sizes, strict=True)])


@dataclass(frozen=True)
class World:
    """The processes that train together, seen from one of them.

    Parameters
    ----------
    rank, size : int
        Number of this process, and how many there are.
    local_rank : int
        Number of this process among those of its host.
    device : torch.device
        Where this process computes.
    parts : int
        Into how many parts a batch is cut; a multiple of `size`. See :meth:`Share.in_parts`.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = _CPU
    parts: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the first rank, which alone writes, shows progress and reports."""
        return self.rank == 0

    def cut(self, rows: np.ndarray) -> Share:
        """Cut a batch into parts of nearly equal size, and give each rank as many of them.

        The batch itself does not depend on the number of ranks. A batch with fewer objects than parts is left
        to the first rank.

        Parameters
        ----------
        rows : ndarray of int, shape (N,)
            Objects of the batch, the same on every rank; at least one.
        """
        if len(rows) < self.parts:
            parts, sizes = [rows], [len(rows)] + [0] * (self.size - 1)
            owned = range(1) if self.is_main else range(0)
        else:
            parts, each = np.array_split(rows, self.parts), self.parts // self.size
            sizes = [sum(map(len, parts[r * each : (r + 1) * each])) for r in range(self.size)]
            owned = range(self.rank * each, (self.rank + 1) * each)
        numbered = tuple((number, parts[number]) for number in owned)
        return Share(numbered, self.rank, tuple(sizes), torch.initial_seed(), is_cut=len(parts) > 1)

    def works_on(self, rows: np.ndarray) -> bool:
        """Return whether this rank has a share of the batch `rows`."""
        return self.is_main or len(rows) >= self.parts

    def total(self, share: torch.Tensor | None) -> float:
        """Return the sum over ranks of a number each, the same on all.

        Parameters
        ----------
        share : Tensor, shape (), or None
            This rank's; None for nothing.
        """
        return self._sums([0.0 if share is None else share.item()])[0]

    def add_up(self, loss: torch.Tensor | None, parameters: Sequence[nn.Parameter]) -> float:
        """Return the sum of the ranks' losses, and leave the sums of their gradients in ``parameter.grad``.

        A parameter without a gradient on any rank is left without one, as the optimizer passes over it then.
        If the loss or a gradient of any rank is not finite, neither is what all of them get.

        Parameters
        ----------
        loss : Tensor, shape (), or None
            This rank's share, after its backward; None if it has none of the batch.
        parameters : sequence of nn.Parameter
            All of one dtype, the same on every rank.
        """
        value = 0.0 if loss is None else _value(loss, [p.grad for p in parameters if p.grad is not None])
        if self.size == 1:
            return value
        value, *holders = self._sums([value, *(float(p.grad is not None) for p in parameters)])
        held = [p for p, count in zip(parameters, holders, strict=True) if count > 0]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in held])
        with _lost_ranks_named():
            dist.all_reduce(flat)
        parts = torch.split(flat, [p.numel() for p in held])
        for parameter, gradient in zip(held, parts, strict=True):
            parameter.grad = gradient.view_as(parameter)
        return value

    def from_main(self, tensors: dict[str, torch.Tensor], about: Any) -> tuple[dict[str, torch.Tensor], Any]:
        """Return the first rank's tensors and its JSON-able `about`; those of other ranks are not looked at.

        They arrive in main memory.
        """
        if self.size == 1:
            return tensors, about
        data = b""
        if self.is_main:
            text = torch.frombuffer(bytearray(json.dumps(about).encode()), dtype=torch.uint8)
            ready = {f"tensor/{name}": each.detach().cpu().contiguous() for name, each in tensors.items()}
            data = safetensors.torch.save({**ready, "about": text})
        length = torch.tensor(len(data))
        with _lost_ranks_named():
            dist.broadcast(length, 0)
            sent = torch.frombuffer(bytearray(data or int(length)), dtype=torch.uint8)
            dist.broadcast(sent, 0)
        if self.is_main:
            return tensors, about
        received = safetensors.torch.load(sent.numpy().tobytes())
        about = json.loads(received.pop("about").numpy().tobytes())
        return {name.removeprefix("tensor/"): each for name, each in received.items()}, about

    def completed(self, array: np.ndarray) -> np.ndarray:
        """Fill in what other ranks computed: entries that are zero here and not there. Changed in place.

        A sum with zeros, so that every rank has the very numbers that one of them computed.
        """
        if self.size > 1:
            with _lost_ranks_named():
                dist.all_reduce(torch.from_numpy(array))
        return array

    def wait(self) -> None:
        """Wait until every rank is here."""
        self._sums([0.0])

    def _sums(self, values: list[float]) -> list[float]:
        """Return sums over ranks in float64, through main memory."""
        if self.size == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64)
        with _lost_ranks_named():
            dist.all_reduce(total)
        return total.tolist()


def _value(loss: torch.Tensor, gradients: Sequence[torch.Tensor]) -> float:
    """Return the loss, or NaN if a gradient is not finite, in one transfer, as the loss alone would take."""
    norm = nn.utils.get_total_norm(gradients) if gradients else torch.zeros_like(loss)
    value, size = torch.stack([each.detach().double().reshape(()) for each in (loss, norm)]).tolist()
    return value if math.isfinite(size) or not math.isfinite(value) else math.nan


_current = World()


def current() -> World:
    """Return the processes that train together now; a world of size 1 outside of :func:`joined`."""
    return _current


@contextmanager
def _being(world: World) -> Iterator[World]:
    global _current
    before, _current = _current, world
    try:
        yield world
    finally:
        _current = before


@contextmanager
def cutting(parts: int) -> Iterator[None]:
    """Cut batches into so many parts within the block, or into one a rank if ranks cannot share them evenly.

    Parameters
    ----------
    parts : int
        As at the first start of a run. Another number means other dropout, and nothing else.
    """
    before = _current
    if parts % before.size:
        _log.warning(
            "%d processes cannot share %d parts of a batch evenly: it is cut into %d, and dropout is drawn "
            "anew. Start with --parts to go on exactly with other numbers of processes.",
            before.size,
            parts,
            before.size,
        )
        parts = before.size
    with _being(replace(before, parts=parts)):
        yield


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Join the other processes that ``torchrun`` started; alone, do nothing.

    Tensors in main memory travel by gloo, those of a GPU by nccl. At the end ranks wait for each other.
    When the block fails on a rank, one rank says why, the others end without a word, and none as if it had
    succeeded.

    Parameters
    ----------
    device : torch.device
        Where to compute. ``cuda`` means the GPU with the number of the process on its host.

    Yields
    ------
    World
        Also what :func:`current` returns within the block.

    Raises
    ------
    ConfigError
        If the environment is not as ``torchrun`` leaves it, or all processes would share one GPU.
    MargformerError
        If the other processes cannot be reached, or one of them has ended.
    SystemExit
        On a rank whose failure another one tells of.
    """
    rank, size, local_rank = _places()
    if size == 1:
        with _being(World(device=device)) as world:
            yield world
        return
    if device.type == "cuda":
        device = _own_gpu(device, local_rank)
        torch.cuda.set_device(device)
    with _lost_ranks_named():
        # Optimizers import it. Imported while there is a group it holds on to that, whose threads then live
        # until Python ends, and may abort a process that has done its work.
        import_module("torch._dynamo")

        # Not at the top: a torch without torch.distributed has no such module, and still trains alone.
        from torch.distributed.rendezvous import rendezvous

        store, _, _ = next(rendezvous("env://", rank, size, timeout=_LONGEST_WAIT))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=_LONGEST_WAIT,
        )
    package_log = logging.getLogger(__package__.partition(".")[0])
    level = package_log.level
    if rank > 0:  # one log: what is worth a warning is so on every rank
        package_log.setLevel(logging.ERROR)
    try:
        with _being(World(rank, size, local_rank, device, parts=size)) as world:
            yield world
            world.wait()
    except BaseException as error:
        if not _is_first_to_fail(store, rank):
            raise SystemExit(getattr(error, "exit_code", 1)) from None
        if isinstance(error, MargformerError) and rank > 0:
            error.args = (f"process {rank} of {size}: {error}",)
        raise
    finally:
        package_log.setLevel(level)
        dist.destroy_process_group()


def require_one_process(command: str) -> None:
    """Insist that a command that is not made for several processes was not started in several.

    Raises
    ------
    ConfigError
        If it was.
    """
    _, size, _ = _places()
    if size > 1:
        raise ConfigError(
            f"{command} was started in {size} processes",
            expected="one",
            mend="Start it without torchrun; `torchrun -m margformer_fast.train` trains in several.",
        )


def _places() -> tuple[int, int, int]:
    """Return rank, number of ranks and rank on this host from the environment; 0, 1 and 0 without."""
    told = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    if not {"RANK", "WORLD_SIZE"} & set(told) or told.get("WORLD_SIZE") == "1":
        return 0, 1, 0
    numbers = [int(told[name]) if told.get(name, "").isdecimal() else -1 for name in _VARIABLES[:3]]
    rank, size, local_rank = numbers
    if len(told) < len(_VARIABLES) or not 0 <= local_rank <= rank < size:
        raise ConfigError(
            " ".join(f"{name}={told.get(name, '')}" for name in _VARIABLES) + " name no process of a group",
            where="environment",
            expected="all of them, with LOCAL_RANK <= RANK < WORLD_SIZE",
            mend="Start several processes by torchrun, or unset RANK and WORLD_SIZE to start one.",
        )
    return rank, size, local_rank


def _own_gpu(device: torch.device, local_rank: int) -> torch.device:
    """Return the GPU of a process; each has its own."""
    count = torch.cuda.device_count()
    if device.index is not None or local_rank >= count:
        raise ConfigError(
            f"process {local_rank} of this host has no GPU of its own on {device}",
            expected=f"--device auto or cuda, and at most {count} processes on this host",
            mend="Give torchrun --nproc-per-node the number of GPUs, or use --device cpu.",
        )
    return torch.device("cuda", local_rank)


def _is_first_to_fail(store: Any, rank: int) -> bool:
    """Return whether this rank is the one to tell why; asked once by each rank that fails."""
    if rank > 0:
        time.sleep(_FIRST_SPEAKS_SECONDS)
    try:
        return bool(store.add("failed", 1) == 1)
    except RuntimeError:  # the store went with the process that held it, which has failed before
        return False


@contextmanager
def _lost_ranks_named() -> Iterator[None]:
    """Say in one line that others cannot be reached; torch has no exception of its own for it."""
    try:
        yield
    except RuntimeError as error:
        raise MargformerError(
            f"lost touch with the other processes ({str(error).splitlines()[0]})",
            mend="What ended one of them stands above, if it could say so; go on with --resume.",
        ) from error
