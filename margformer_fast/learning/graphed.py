"""A training step recorded once as a CUDA graph and replayed: at small batches the host is what it waits for.

A graph repeats the same kernels on the same addresses. So inputs are copied into buffers of its own, it is
made for one shape of inputs, and nothing in it may ask the device for a number. The first steps of a shape
run as usual, and are steps of the training like any other; they leave everything that is made on first use
behind, and no step is spent on warming up. Dropout draws from the device's default generator, whose state
every replay moves on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from ..errors import ConfigError

Run = Callable[[], torch.Tensor]
"""Does a step on given inputs, and returns its loss."""

Signature = tuple[tuple[torch.Size, torch.dtype], ...]


class Recorder(Protocol):
    """How work is run, and recorded to be run again."""

    def run(self, work: Run) -> torch.Tensor:
        """Run `work` now, where it could also be recorded."""

    def record(self, work: Run) -> tuple[Callable[[], object], torch.Tensor]:
        """Record `work` without running it; return what replays it, and where its result will be."""


class CudaRecorder:
    """Runs work on a stream of its own and records it as CUDA graphs, which share their memory.

    Parameters
    ----------
    device : torch.device
        A CUDA device.

    Raises
    ------
    ConfigError
        If the device is no CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        if device.type != "cuda":
            raise ConfigError(
                f"a step on {device} cannot be recorded as a CUDA graph",
                expected="a CUDA device",
                mend="Run the step itself; there is nothing to gain by a graph elsewhere.",
            )
        # Gradients are summed on the stream that first made them: all steps of a model share one.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, work: Run) -> torch.Tensor:
        """Run on the stream, in order with the current one."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = work()
        current.wait_stream(self._stream)
        return result

    def record(self, work: Run) -> tuple[Callable[[], object], torch.Tensor]:
        """Record a graph; see :class:`Recorder`."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            result = work()
        return graph.replay, result


@dataclass(frozen=True)
class _Recorded:
    inputs: tuple[torch.Tensor, ...]
    replay: Callable[[], object]
    loss: torch.Tensor
    gradients: tuple[torch.Tensor | None, ...]


class GraphedStep:
    """Loss and gradients of a step, by a recorded graph where the inputs have a shape that came before.

    Calling it with the inputs of a step returns the loss, detached, and leaves fresh gradients in
    ``parameter.grad``: as ``zero_grad``, forward and backward would, and with an optimizer also its step.

    Parameters
    ----------
    loss : callable
        Takes the inputs, and returns the mean loss. It must not look at the value of a tensor.
    parameters : sequence of nn.Parameter
        What is trained.
    optimizer : torch.optim.Optimizer, optional
        Recorded with the rest if given. It must be capturable, with its learning rate in a tensor, because a
        number would be recorded as it is.
    warm_up : int
        Steps of a shape that run as usual before it is recorded.
    max_graphs : int
        Shapes that are recorded; others run as usual. Two are enough for batches of nearly equal size.
    recorder : Recorder, optional
        Of CUDA graphs on the parameters' device by default.

    Raises
    ------
    ConfigError
        If parameters are not on a CUDA device, the optimizer is not capturable, or a number is out of range.

    Notes
    -----
    Gradients belong to the recorded graph: the next step of the same shape writes over them.
    """

    def __init__(
        self,
        loss: Callable[..., torch.Tensor],
        parameters: Sequence[nn.Parameter],
        *,
        optimizer: torch.optim.Optimizer | None = None,
        warm_up: int = 3,
        max_graphs: int = 2,
        recorder: Recorder | None = None,
    ) -> None:
        # One at least: what is made on first use, such as an optimizer's state, must not be recorded.
        for name, value, least in (("warm_up", warm_up, 1), ("max_graphs", max_graphs, 0)):
            if value < least:
                raise ConfigError(f"{name} is {value}", expected=f"{least} or more")
        if not parameters:
            raise ConfigError("there is no parameter to train")
        if optimizer is not None:
            _require_capturable(optimizer)
        self._loss, self._parameters, self._optimizer = loss, tuple(parameters), optimizer
        self._warm_up, self._max_graphs = warm_up, max_graphs
        self._recorder = CudaRecorder(parameters[0].device) if recorder is None else recorder
        self._seen: dict[Signature, int] = {}
        self._recorded: dict[Signature, _Recorded] = {}

    @property
    def num_graphs(self) -> int:
        """How many shapes were recorded."""
        return len(self._recorded)

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Do a step.

        Parameters
        ----------
        *inputs : Tensor
            What `loss` takes; in other places than the device of the parameters they are copied there.

        Returns
        -------
        Tensor, shape ()
            The loss before the step.

        Raises
        ------
        ConfigError
            If an input needs a gradient: its own would be lost.
        """
        if any(each.requires_grad for each in inputs):
            raise ConfigError("an input of a recorded step needs a gradient", expected="inputs without")
        device = self._parameters[0].device
        signature = tuple((each.shape, each.dtype) for each in inputs)
        if signature not in self._recorded:
            seen = self._seen.get(signature, 0)
            if seen < self._warm_up or self.num_graphs >= self._max_graphs:
                self._seen[signature] = seen + 1
                placed = tuple(each.to(device) for each in inputs)
                return self._recorder.run(lambda: self._step(placed))
            self._recorded[signature] = self._record(
                tuple(torch.empty_like(x, device=device) for x in inputs)
            )
        recorded = self._recorded[signature]
        for buffer, each in zip(recorded.inputs, inputs, strict=True):
            buffer.copy_(each, non_blocking=True)
        recorded.replay()
        for parameter, gradient in zip(self._parameters, recorded.gradients, strict=True):
            parameter.grad = gradient
        # A copy: the next replay writes over the loss.
        return recorded.loss.clone()

    def _step(self, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        for parameter in self._parameters:
            parameter.grad = None
        loss = self._loss(*inputs)
        loss.backward()  # type: ignore[no-untyped-call]
        if self._optimizer is not None:
            self._optimizer.step()
        return loss.detach()

    def _record(self, buffers: tuple[torch.Tensor, ...]) -> _Recorded:
        replay, loss = self._recorder.record(lambda: self._step(buffers))
        return _Recorded(buffers, replay, loss, tuple(parameter.grad for parameter in self._parameters))


def _require_capturable(optimizer: torch.optim.Optimizer) -> None:
    """Insist that an optimizer's step can be recorded.

    Raises
    ------
    ConfigError
        If a group is not capturable, or its learning rate is a number.
    """
    for group in optimizer.param_groups:
        if not group.get("capturable") or not isinstance(group["lr"], torch.Tensor):
            raise ConfigError(
                "the optimizer's step cannot be recorded",
                expected="capturable=True and a learning rate in a tensor",
                mend="Make it so, or leave it out and call its step() after each recorded one.",
            )
