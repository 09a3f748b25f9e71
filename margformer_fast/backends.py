"""Which implementation of an operator runs, and why the others do not.

An operator has several implementations of one meaning. Each says why it cannot run a given problem; an empty
answer means that it can. Who runs is asked for, in this order of precedence, by

1. the ``backend=`` argument of a call,
2. :func:`use_backend`, for a block of code,
3. the environment variable ``MARGFORMER_BACKEND``,

and is ``auto`` otherwise: the first implementation that can. A request is ``"auto"``, a backend for every
operator that has it (``"reference"``), or a list by operator (``"decode=cpp,nt_xent=reference"``). What is
asked for by name runs or raises :class:`~margformer_fast.errors.BackendUnavailable` with every reason; it is
never replaced.

``torch.compile`` sees through all of this: the choice is made when a graph is captured, and made anew when
:func:`use_backend` has changed it since. A captured graph does not notice a change of the environment.
"""

from __future__ import annotations

import importlib
import logging
import os
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from . import _native
from .errors import BackendUnavailable, ConfigError
from .kernels.toolchain import why_no_triton

AUTO = "auto"
ENVIRONMENT_VARIABLE = "MARGFORMER_BACKEND"
FULL_PRECISIONS = ("ieee", "fp32")
"""Of matrix products: by the units of that type alone, or by any means that are as exact."""

_log = logging.getLogger(__name__)
_registry: dict[str, Operator] = {}
_used: set[tuple[str, str]] = set()
_announced: set[tuple[str, str]] = set()
# What use_backend asks for. Of the whole process, because backward passes run on threads of torch's own,
# which a context variable would not reach; a plain global, because torch.compile guards on it.
_block_request = ""


@dataclass(frozen=True)
class Problem:
    """What an implementation needs to know to say whether it can run.

    Parameters
    ----------
    device : str
        ``"cpu"`` or ``"cuda"``.
    dtype : str
        Of the first input, such as ``"float32"``; for raw pixels with its byte order, such as ``">f4"``.
    shapes : tuple of tuple of int
        Of the inputs, in the order of the call.
    contiguous : bool
        Whether every input is C-contiguous.
    needs_grad : bool
        Whether a gradient will be asked for.
    precision : str
        Of matrix products: ``"ieee"`` or ``"fp32"`` for that of the inputs, or a less exact one asked for.
    """

    device: str
    dtype: str = "float32"
    shapes: tuple[tuple[int, ...], ...] = ()
    contiguous: bool = True
    needs_grad: bool = False
    precision: str = "fp32"

    @classmethod
    def of(cls, *tensors: Any, precision: str = "fp32") -> Problem:
        """Describe a call with these torch tensors (torch itself is not imported here)."""
        return cls(
            device=tensors[0].device.type,
            dtype=str(tensors[0].dtype).removeprefix("torch."),
            shapes=tuple(tuple(tensor.shape) for tensor in tensors),
            contiguous=all(tensor.is_contiguous() for tensor in tensors),
            needs_grad=any(tensor.requires_grad for tensor in tensors),
            precision=precision,
        )


def _always(_problem: Problem) -> tuple[str, ...]:
    """Give no reason against running: what a reference implementation says."""
    return ()


def only_full_precision(problem: Problem) -> tuple[str, ...]:
    """Say why code that multiplies in the precision of its inputs cannot run."""
    return () if problem.precision in FULL_PRECISIONS else (f"it does not multiply in {problem.precision}",)


def not_in_memory(problem: Problem) -> tuple[str, ...]:
    """Say why code that takes data in main memory cannot run."""
    return () if problem.device == "cpu" else (f"the data are on {problem.device}",)


def not_compiled(problem: Problem) -> tuple[str, ...]:
    """Say why host functions of the compiled module cannot run."""
    return not_in_memory(problem) + _native.why_not()


def no_triton(problem: Problem) -> tuple[str, ...]:
    """Say why Triton kernels cannot run."""
    return why_no_triton(problem.device)


@dataclass(frozen=True)
class Implementation:
    """One way to run an operator.

    Parameters
    ----------
    name : str
        The backend: ``triton``, ``cuda``, ``cpp`` or ``reference``.
    run : callable
        Takes the operator's arguments. If it throws, that is an error and never a reason to try another.
    why_not : callable
        Takes a :class:`Problem` and returns the reasons why it cannot run, none if it can. A problem without
        shapes asks whether it can run on that device at all.
    """

    name: str
    run: Callable[..., Any]
    why_not: Callable[[Problem], tuple[str, ...]] = _always


class Operator:
    """An operator and its implementations, in the order in which ``auto`` tries them.

    Constructing it registers it under its name.

    Parameters
    ----------
    name : str
        Its stem, the same in every layer.
    implementations : tuple of Implementation
        Fastest first; the reference, which can always run, last.
    """

    def __init__(self, name: str, implementations: tuple[Implementation, ...]) -> None:
        self.name = name
        self.implementations = implementations
        _registry[name] = self

    @property
    def backends(self) -> tuple[str, ...]:
        """Names of the implementations."""
        return tuple(implementation.name for implementation in self.implementations)

    @property
    def used(self) -> tuple[str, ...]:
        """Names of the implementations that calls of this process were given, for the record of a run."""
        return tuple(name for name in self.backends if (self.name, name) in _used)

    def why_not(self, problem: Problem) -> dict[str, tuple[str, ...]]:
        """Return each backend's reasons not to run `problem`; none means that it can."""
        return {each.name: tuple(each.why_not(problem)) for each in self.implementations}

    def resolve(self, problem: Problem, backend: str = AUTO) -> Implementation:
        """Return the implementation that runs `problem`.

        Parameters
        ----------
        problem : Problem
            The call.
        backend : str
            The call's ``backend=`` argument. ``"auto"`` leaves the choice to :func:`use_backend` and the
            environment, and then to us; any other name is a must.

        Raises
        ------
        BackendUnavailable
            If a named backend cannot run, with every candidate's reasons.
        ConfigError
            If the request in force cannot be understood.
        """
        request = _block_request or os.environ.get(ENVIRONMENT_VARIABLE, "")
        wanted = _wanted(request, self.name) if backend == AUTO and request else backend
        if wanted not in (AUTO, *self.backends):
            raise ConfigError(
                f"there is no backend {wanted!r}",
                where=self.name,
                expected=f"auto or one of {', '.join(self.backends)}",
            )
        lost: list[tuple[str, tuple[str, ...]]] = []
        for implementation in self.implementations:
            if wanted not in (AUTO, implementation.name):
                continue
            reasons = implementation.why_not(problem)
            if not reasons:
                _record(self.name, implementation.name, wanted, _told(lost))
                return implementation
            lost.append((implementation.name, reasons))
        who = "no backend can" if wanted == AUTO else f"backend {wanted!r} cannot"
        raise BackendUnavailable(
            f"{who} run {problem} ({_told(list(self.why_not(problem).items()))})",
            where=self.name,
            mend="`python -m margformer_fast.info` tells what is usable here.",
        )


def _told(reasons: Sequence[tuple[str, tuple[str, ...]]]) -> str:
    """Return backends and their reasons as text."""
    return " | ".join(f"{name}: {'; '.join(why) or 'can run'}" for name, why in reasons)


def _record(operator: str, winner: str, wanted: str, lost: str) -> None:
    """Remember who runs an operator; if it was left to us, say so once, and why those before it do not."""
    _used.add((operator, winner))
    if wanted == AUTO and (operator, winner) not in _announced:
        _announced.add((operator, winner))
        _log.info("%s runs on %s%s", operator, winner, f" ({lost})" if lost else "")


def operators() -> dict[str, Operator]:
    """Return every operator of the package by name.

    Operators register when their module is imported, so this imports all of them: the one place that looks
    up the tree, by name and on demand, because a request for an operator that does not exist must be refused.
    """
    package = importlib.import_module(f"{__package__}.ops")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_registry.items()))


@lru_cache(maxsize=32)
def _parse(request: str) -> Mapping[str, str]:
    """Turn a request into the backend wanted by operator name.

    Raises
    ------
    ConfigError
        If it names an operator or backend that does not exist.
    """
    if request in ("", AUTO):
        return {}
    known = operators()
    wanted: dict[str, str] = {}
    for item in request.split(","):
        name, separator, backend = (part.strip() for part in item.partition("="))
        if not separator:
            having = [each for each, operator in known.items() if name in operator.backends]
            if not having:
                names = sorted({backend for operator in known.values() for backend in operator.backends})
                raise ConfigError(
                    f"no operator has a backend {name!r}", expected=f"auto or one of {', '.join(names)}"
                )
            wanted.update(dict.fromkeys(having, name))
        elif name not in known:
            raise ConfigError(f"there is no operator {name!r}", expected=f"one of {', '.join(known)}")
        elif backend != AUTO and backend not in known[name].backends:
            raise ConfigError(
                f"operator {name!r} has no backend {backend!r}",
                expected=f"auto or one of {', '.join(known[name].backends)}",
            )
        else:
            wanted[name] = backend
    return wanted


def _wanted(request: str, operator: str) -> str:
    """Return the backend that a request asks of one operator."""
    try:
        return _parse(request).get(operator, AUTO)
    except ConfigError as error:
        if _block_request:
            raise
        where = f"{ENVIRONMENT_VARIABLE}={request}"
        raise ConfigError(error.what, where=where, expected=error.expected) from error


# torch.compile calls these two when it captures a graph and keeps the answer; this is the mark that
# torch.compiler.assume_constant_result sets, and torch is not imported here.
_record._dynamo_marked_constant = True  # type: ignore[attr-defined]  # noqa: SLF001
_wanted._dynamo_marked_constant = True  # type: ignore[attr-defined]  # noqa: SLF001


@contextmanager
def use_backend(request: str) -> Iterator[None]:
    """Ask for backends within a ``with`` block, over what the environment asks for.

    Parameters
    ----------
    request : str
        ``"auto"``, a backend such as ``"reference"``, or a list such as ``"decode=cpp,nt_xent=reference"``.

    Raises
    ------
    ConfigError
        If it names an operator or backend that does not exist.
    """
    global _block_request
    _parse(request)
    before, _block_request = _block_request, request
    try:
        yield
    finally:
        _block_request = before
