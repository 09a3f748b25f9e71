"""How an operator becomes one of torch's: a schema, a fake, and no say for autocast."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch

NAMESPACE = "margformer_fast"

P = ParamSpec("P")
R = TypeVar("R")


def without_autocast(run: Callable[P, R]) -> Callable[P, R]:
    """Let `run`, whose first argument is a tensor, multiply in the precision it chose itself.

    Autocast would otherwise reach the products inside: an operator's inner calls are dispatched like any
    other, in the backward too if that is called within the autocast block.
    """

    @wraps(run)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        tensor: Any = args[0]
        with torch.autocast(tensor.device.type, enabled=False):
            return run(*args, **kwargs)

    return guarded


def product_precision(x: torch.Tensor) -> str:
    """Return in what plain PyTorch would multiply `x`, under autocast if that is on.

    ``"bf16"``, ``"tf32"`` where a GPU is allowed it, else ``"fp32"``, which stands for the type of `x`, and
    for float32 where that is float16.
    """
    device = x.device.type
    if x.dtype == torch.bfloat16 or (
        x.dtype == torch.float32
        and torch.is_autocast_enabled(device)
        and torch.get_autocast_dtype(device) == torch.bfloat16
    ):
        return "bf16"
    return "tf32" if device == "cuda" and torch.backends.cuda.matmul.allow_tf32 else "fp32"


def register(name: str, schema: str, fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Register the decorated function as ``torch.ops.margformer_fast.<name>``.

    To ``torch.compile`` it is one opaque node, to autograd a function without derivative until
    ``.register_autograd`` is called on what is returned. One such operator holds all backends of a meaning:
    which one runs is an argument, so that what was chosen when a graph was captured stays chosen.

    Parameters
    ----------
    name : str
        Without the namespace.
    schema : str
        Arguments and results in torch's notation, such as ``"(Tensor x, float eps) -> Tensor"``. No result
        may share memory with an argument or another result.
    fake : callable
        Takes the arguments and returns empty results of the right shapes and dtypes.

    Returns
    -------
    callable
        Turns a function into a ``torch.library.CustomOpDef``, which is called like the function.

    Examples
    --------
    >>> @register("halve", "(Tensor x) -> Tensor", torch.empty_like)
    ... def halve(x):
    ...     return x / 2
    """

    def decorate(run: Callable[..., Any]) -> Any:
        @without_autocast
        @wraps(run)
        def on_its_device(tensor: torch.Tensor, *args: Any) -> Any:
            # Kernels are launched on the current device.
            with torch.cuda.device_of(tensor):  # type: ignore[no-untyped-call]
                return run(tensor, *args)

        op = torch.library.custom_op(f"{NAMESPACE}::{name}", on_its_device, mutates_args=(), schema=schema)
        op.register_fake(fake)
        return op

    return decorate
