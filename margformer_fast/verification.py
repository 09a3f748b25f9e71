"""Every operator, on every backend usable here, in every precision, held to float64.

Two kinds of operators. Those on tensors compute: their values and gradients are compared with the reference
in float64, beside plain PyTorch in the same precision. Those on files and stamps mostly move bytes: their
results are compared with the reference's, bit by bit where no sum is taken.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .backends import Operator, Problem, operators
from .config import AugmentConfig
from .errors import BackendUnavailable
from .ops.augment_patchify import augment_patchify
from .ops.cross_attention import cross_attention
from .ops.decode import Scaling, decode
from .ops.decode_on_device import RawLayout, decode_on_device
from .ops.decode_patchify import decode_patchify
from .ops.encoder import encoder
from .ops.encoder_layer import encoder_layer
from .ops.feed_forward import feed_forward
from .ops.fits_header import parse_header
from .ops.layers import Layer
from .ops.nt_xent import nt_xent, nt_xent_of_rank
from .ops.patchify import patchify
from .ops.profile_fit import fit_profiles
from .ops.read_cutouts import read_cutouts
from .ops.resident_stamps import ResidentStamps
from .ops.self_attention import self_attention
from .ops.stamps import Stamps
from .reference.cross_attention import cross_attention as plain_cross_attention
from .reference.encoder import encoder as plain_encoder
from .reference.encoder_layer import encoder_layer as plain_encoder_layer
from .reference.feed_forward import feed_forward as plain_feed_forward
from .reference.nt_xent import nt_xent as plain_nt_xent
from .reference.self_attention import self_attention as plain_self_attention
from .reference.weights import AttentionWeights, FeedForwardWeights

GATES = {"fp32": 1e-5, "tf32": 2e-3, "bf16": 1e-2}
"""Largest error by precision of the products: the norm of the difference over the norm of the truth."""

FLOORS = {"fp32": 5e-7, "tf32": 2e-4, "bf16": 2e-3}
"""What plain PyTorch's own error may be exceeded by: a few roundings, which may fall either way."""


@dataclass(frozen=True)
class Result:
    """How far one backend is from the truth.

    Parameters
    ----------
    operator, backend, precision : str
        What ran; the precision is ``"bits"`` for operators that move bytes.
    value_error, gradient_error : float or None
        Relative error of the result, and the largest of the gradients; for bits the share of values that
        differ. None if there is none to compare.
    plain_value_error, plain_gradient_error : float or None
        The same of plain PyTorch in this precision.
    passed : bool
        Whether all errors are within their limits.
    """

    operator: str
    backend: str
    precision: str
    value_error: float
    plain_value_error: float | None
    gradient_error: float | None
    plain_gradient_error: float | None
    passed: bool


@dataclass(frozen=True)
class _Computed:
    """An operator on tensors: inputs in float64, the operator, and plain PyTorch."""

    shapes: tuple[tuple[int, ...], ...]
    run: Callable[[Any, str, str], torch.Tensor]  # inputs, backend, precision
    plain: Callable[[Any], torch.Tensor]
    autocasts: bool  # whether bf16 comes by autocast; else the operator is told


@dataclass(frozen=True)
class _Moved:
    """An operator on bytes; `run` draws its own data, the same for each backend."""

    run: Callable[[np.random.Generator, torch.device, str], np.ndarray]
    tolerance: float = 0.0  # relative to the largest value


T, D, H, K, M = 65, 64, 8, 64, 256
_BLOCK = ((7, T, D), (D,), (D,))  # tokens, scale and offset of the norm
_ATTENTION = ((T, K), (T, K), (D, D), (D,))
_LAYER = (
    *((D,), (D,), (D, D), (D, D), (D, D), *_ATTENTION),
    *((D,), (D,), (M, D), (M,), (D, M), (D,)),
)


def _layers(tensors: Sequence[torch.Tensor]) -> list[Layer]:
    """Return weights by layers and halves."""
    cut = len(AttentionWeights._fields)
    each = [tensors[first : first + len(_LAYER)] for first in range(0, len(tensors), len(_LAYER))]
    return [(AttentionWeights(*layer[:cut]), FeedForwardWeights(*layer[cut:])) for layer in each]


def _given(function: Callable[..., torch.Tensor], **fixed: Any) -> Callable[[Any], torch.Tensor]:
    """Return a function of the inputs alone."""
    return lambda inputs: function(*inputs, **fixed)


def _computed() -> dict[str, _Computed]:
    tau = 0.1
    return {
        "cross_attention": _Computed(
            (*_BLOCK, (D, D), (D, D), (D, D), *_ATTENTION),
            lambda x, backend, _: cross_attention(*x, num_heads=H, backend=backend),
            _given(plain_cross_attention, num_heads=H, dropout=0.0),
            autocasts=True,
        ),
        "self_attention": _Computed(
            (*_BLOCK, (3 * D, D), *_ATTENTION),
            lambda x, backend, _: self_attention(*x, num_heads=H, backend=backend),
            _given(plain_self_attention, num_heads=H, num_queries=T),
            autocasts=True,
        ),
        "feed_forward": _Computed(
            (*_BLOCK, (M, D), (M,), (D, M), (D,)),
            lambda x, backend, _: feed_forward(*x, backend=backend),
            _given(plain_feed_forward, dropout=0.0),
            autocasts=True,
        ),
        "encoder_layer": _Computed(
            ((7, T, D), *_LAYER),
            lambda x, backend, _: encoder_layer(x[0], *_layers(x[1:])[0], num_heads=H, backend=backend),
            lambda x: plain_encoder_layer(x[0], *_layers(x[1:])[0], H, 0.0),
            autocasts=True,
        ),
        "encoder": _Computed(
            ((7, T, D), *_LAYER, *_LAYER),
            lambda x, backend, _: encoder(x[0], _layers(x[1:]), num_heads=H, backend=backend),
            lambda x: plain_encoder(x[0], _layers(x[1:]), H, 0.0),
            autocasts=True,
        ),
        "nt_xent": _Computed(
            ((67, 48), (67, 48)),
            lambda x, backend, precision: nt_xent(*x, temperature=tau, precision=precision, backend=backend),
            _given(plain_nt_xent, temperature=tau),
            autocasts=False,
        ),
        "nt_xent_of_rank": _Computed(
            ((67, 48), (67, 48)),
            lambda x, backend, precision: nt_xent_of_rank(
                *x, temperature=tau, first=0, gather=lambda z: z, precision=precision, backend=backend
            ),
            _given(plain_nt_xent, temperature=tau),
            autocasts=False,
        ),
        "patchify": _Computed(
            ((3, 5, 32, 32),),
            lambda x, backend, _: patchify(x[0], 4, backend=backend),
            lambda x: patchify(x[0], 4, backend="reference"),
            autocasts=True,
        ),
    }


def _raw(rng: np.random.Generator, dtype: str = ">f4") -> np.ndarray:
    """Draw raw pixels of 20 stamps, some without a value."""
    value = rng.normal(0, 1000, (20, 5, 32, 32))
    if dtype[-2] == "f":
        value[rng.random(value.shape) < 0.01] = np.nan
    return value.astype(dtype)


def _views(config: AugmentConfig) -> Callable[[np.random.Generator, torch.device, str], np.ndarray]:
    def run(rng: np.random.Generator, device: torch.device, backend: str) -> np.ndarray:
        stamps = Stamps((_raw(rng),))
        source = ResidentStamps.upload(stamps, device) if device.type == "cuda" else stamps
        objid = rng.integers(0, 2**62, 20)
        key = {"seed": 1, "epoch": 2, "num_views": 2, "patch_size": 4}
        return augment_patchify(source, None, objid, config, backend=backend, **key).cpu().numpy()

    return run


def _decode_patchify(rng: np.random.Generator, device: torch.device, backend: str) -> np.ndarray:
    stamps = Stamps((_raw(rng),))
    source = ResidentStamps.upload(stamps, device) if device.type == "cuda" else stamps
    return decode_patchify(source, patch_size=4, backend=backend).cpu().numpy()


def _decode(rng: np.random.Generator, _device: torch.device, backend: str) -> np.ndarray:
    return decode(_raw(rng, ">i2"), rng.permutation(20), Scaling(0.5, 7.0, 3), backend=backend)


def _decode_on_device(rng: np.random.Generator, device: torch.device, backend: str) -> np.ndarray:
    raw, layout = RawLayout.describe(_raw(rng))
    rows = torch.from_numpy(rng.permutation(20)).to(device)
    there = torch.from_numpy(raw.copy()).to(device)
    return decode_on_device(there, rows, layout, backend=backend).cpu().numpy()


def _image(rng: np.random.Generator) -> bytes:
    """A FITS file with one stamp."""
    from astropy.io import fits

    hdu = fits.PrimaryHDU(_raw(rng)[0])
    return hdu.header.tostring().encode() + hdu.data.astype(">f4").tobytes()


def _fits_header(rng: np.random.Generator, _device: torch.device, backend: str) -> np.ndarray:
    header = parse_header(_image(rng), 0, backend=backend)
    return np.frombuffer(f"{header.shape} {header.data_offset} {header.text}".encode(), np.uint8)


def _read_cutouts(rng: np.random.Generator, _device: torch.device, backend: str) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{n}.fits" for n in range(3)]
        for path in paths:
            path.write_bytes(_image(rng))
        return read_cutouts([str(path) for path in paths], [0], backend=backend)[0]


def _profile_fit(rng: np.random.Generator, device: torch.device, backend: str) -> np.ndarray:
    """Fit round blobs in noise; in float64, where all backends take the same steps."""
    pixel = np.arange(24)
    width = rng.uniform(2, 4, (6, 2, 1, 1))
    images = np.exp(-((pixel[:, None] - 11.7) ** 2 + (pixel - 11.2) ** 2) / width**2)
    images += 0.02 * rng.standard_normal(images.shape)
    given = [images, np.full((6, 2, 2), 11.5), np.tile([1.5, 0, 1.5], (6, 2, 1, 1)), np.ones((6, 2, 1))]
    given += [np.full((6, 2), 0.02), np.full((6, 2), 500.0)]
    tensors = [torch.from_numpy(each).to(device) for each in given]
    found = fit_profiles(*tensors, reference_band=0, backend=backend)
    return torch.cat([found.flux, found.shape.flatten(1)], dim=1).cpu().numpy()


def _moved() -> dict[str, tuple[_Moved, ...]]:
    return {
        "augment_patchify": (
            _Moved(_views(AugmentConfig())),
            _Moved(_views(AugmentConfig(mode="composed", interpolation="bilinear")), 2e-6),
            _Moved(_views(AugmentConfig(standardise=True)), 2e-6),
        ),
        "decode_patchify": (_Moved(_decode_patchify),),
        "decode": (_Moved(_decode),),
        "decode_on_device": (_Moved(_decode_on_device),),
        "parse_header": (_Moved(_fits_header),),
        "profile_fit": (_Moved(_profile_fit, 1e-6),),
        "read_cutouts": (_Moved(_read_cutouts),),
    }


def verify(device: torch.device, *, seed: int) -> Iterator[Result]:
    """Hold every operator to its reference, on every backend that can run on a device.

    Parameters
    ----------
    device : torch.device
        Where tensors lie.
    seed : int
        Of the inputs.

    Yields
    ------
    Result
        One for each operator, backend and precision. What a backend refuses is left out;
        ``python -m margformer_fast.info`` says why it does.
    """
    computed, moved = _computed(), _moved()
    for name, operator in operators().items():
        if name in computed:
            yield from _verify_computed(operator, computed[name], device, seed)
        for case in moved.get(name, ()):
            yield from _verify_moved(operator, case, device, seed)


def cases() -> set[str]:
    """Return the names of the operators that :func:`verify` knows."""
    return {*_computed(), *_moved()}


def _usable(operator: Operator, device: torch.device) -> list[str]:
    return [backend for backend, why in operator.why_not(Problem(device.type)).items() if not why]


def _verify_moved(operator: Operator, case: _Moved, device: torch.device, seed: int) -> Iterator[Result]:
    expected = case.run(np.random.default_rng(seed), torch.device("cpu"), "reference")
    for backend in _usable(operator, device):
        got = case.run(np.random.default_rng(seed), device, backend)
        if case.tolerance:
            off = np.abs(got - expected).max() / np.abs(expected).max()
            precision = "fp32"
        else:
            same = (got == expected) | ((got != got) & (expected != expected))
            off, precision = 1.0 - same.mean(), "bits"
        yield Result(
            operator.name, backend, precision, float(off), None, None, None, bool(off <= case.tolerance)
        )


def _verify_computed(
    operator: Operator, case: _Computed, device: torch.device, seed: int
) -> Iterator[Result]:
    generator = torch.Generator().manual_seed(seed)
    exact = [
        torch.randn(shape, generator=generator, dtype=torch.float64)
        / (shape[-1] ** 0.5 if len(shape) == 2 else 1)
        for shape in case.shapes
    ]
    inputs = [each.to(device) for each in exact]
    single = [each.float() for each in inputs]
    truth = _value_and_gradients(case.plain, inputs)
    for precision in GATES:
        if precision == "tf32" and device.type != "cuda":
            continue  # a host has no such units
        with _precision_of_torch(precision, device):
            plain = _errors(_value_and_gradients(case.plain, single), truth)
        for backend in _usable(operator, device):

            def run(each: Sequence[torch.Tensor], backend: str = backend, precision: str = precision) -> Any:
                return case.run(each, backend, precision)

            context = _precision_of_torch(precision if case.autocasts else "fp32", device)
            try:
                with context:
                    value, gradient = _errors(_value_and_gradients(run, single), truth)
            except BackendUnavailable:
                continue  # not in this precision
            limits = [_limit(precision, each) for each in plain]
            passed = value <= limits[0] and gradient <= limits[1]
            yield Result(operator.name, backend, precision, value, plain[0], gradient, plain[1], passed)


def _limit(precision: str, plain: float) -> float:
    """Return how large an error may be: twice plain PyTorch's, within the gate if plain PyTorch is."""
    floor = FLOORS[precision]
    return min(2 * plain + floor, max(GATES[precision], plain + floor))


def _value_and_gradients(
    run: Callable[[Sequence[torch.Tensor]], torch.Tensor], inputs: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return a result, and the gradients of its sum with weights that are always the same."""
    leaves = [each.detach().clone().requires_grad_() for each in inputs]
    out = run(leaves)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad((out * weight.to(out)).sum(), leaves)
    return out.detach(), list(gradients)


def _errors(
    got: tuple[torch.Tensor, list[torch.Tensor]], truth: tuple[torch.Tensor, list[torch.Tensor]]
) -> tuple[float, float]:
    """Return the relative error of the value, and the largest of the gradients."""

    def error(each: torch.Tensor, exact: torch.Tensor) -> float:
        return float((each.double() - exact).norm() / exact.norm())

    return error(got[0], truth[0]), max(map(error, got[1], truth[1]))


@contextmanager
def _precision_of_torch(precision: str, device: torch.device) -> Iterator[None]:
    """Let torch itself multiply in a precision."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
