"""Calls of the compiled module that turn raw stamps into patch tokens, for the operators that do."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .. import _native
from ..backends import Problem
from ..config import AugmentConfig
from .resident_stamps import ResidentStamps
from .stamps import Stamps

AnyStamps = Stamps | ResidentStamps | torch.Tensor
"""What operators on stamps take; a tensor is images of shape (N, C, S, S)."""


def described(stamps: AnyStamps) -> Stamps | ResidentStamps:
    """Return stamps that say where their pixels lie; what lies on the host is a :class:`Stamps`."""
    if isinstance(stamps, torch.Tensor):
        on_host = stamps.device.type == "cpu"
        return Stamps((stamps.detach().numpy(),)) if on_host else ResidentStamps.of_tensor(stamps)
    if isinstance(stamps, ResidentStamps) and stamps.device.type == "cpu":
        return Stamps((stamps.layout.view(stamps.raw.numpy()),), stamps.scaling)
    return stamps


def problem_of(stamps: Stamps | ResidentStamps, num_rows: int) -> Problem:
    """Describe a call with these stamps to backends."""
    if isinstance(stamps, Stamps):
        first = stamps.parts[0]
        return Problem("cpu", first.dtype.str, (first.shape, (num_rows,)), first.flags.c_contiguous)
    return Problem(stamps.device.type, stamps.layout.dtype, (stamps.layout.shape, (num_rows,)))


def as_images(stamps: Stamps | ResidentStamps, indices: np.ndarray | torch.Tensor | None) -> torch.Tensor:
    """Return stamps as float32 images; pixels without a finite value are zero. For reference paths."""
    if isinstance(stamps, Stamps):
        image = torch.from_numpy(stamps.decode(_on_host(indices), backend="reference"))
    else:
        image = stamps.decode(indices, backend="reference")
    return torch.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0)


def tokens_on_host(
    stamps: Stamps,
    indices: np.ndarray | torch.Tensor | None,
    objid: np.ndarray | torch.Tensor | None,
    config: AugmentConfig,
    *,
    seed: int = 0,
    epoch: int = 0,
    num_views: int = 1,
    patch_size: int,
) -> torch.Tensor:
    """Run the C++ code on all cores that torch uses; `objid` None leaves stamps as they are."""
    rows = np.ascontiguousarray(stamps.rows_of(_on_host(indices)))
    out = torch.empty(_shape(stamps, num_views, len(rows), patch_size))
    noise, settings = _settings(config, stamps.num_bands)
    objid = _on_host(objid)
    _native.compiled().views(
        parts=list(stamps.parts),
        rows=rows,
        objid=None if objid is None else np.ascontiguousarray(objid, np.int64),
        out=out.numpy(),
        bscale=stamps.scaling.bscale,
        bzero=stamps.scaling.bzero,
        blank=stamps.scaling.blank,
        settings=settings,
        noise=noise,
        seed=seed,
        epoch=epoch,
        num_views=num_views,
        patch=patch_size,
        threads=_native.num_threads(),
    )
    return out


def tokens_on_device(
    stamps: ResidentStamps,
    indices: np.ndarray | torch.Tensor | None,
    objid: np.ndarray | torch.Tensor | None,
    config: AugmentConfig,
    *,
    seed: int = 0,
    epoch: int = 0,
    num_views: int = 1,
    patch_size: int,
) -> torch.Tensor:
    """Queue the CUDA kernel on the current stream; `objid` None leaves stamps as they are."""
    device, dtype = stamps.device, np.dtype(stamps.layout.dtype)
    rows = stamps.rows(indices)
    out = torch.empty(_shape(stamps, num_views, len(rows), patch_size), device=device)
    noise, settings = _settings(config, stamps.num_bands)
    # Kept until the call returns: the allocator hands memory out again in the order of the stream.
    ids = None if objid is None else torch.as_tensor(objid, dtype=torch.int64).to(device, non_blocking=True)
    sigma = torch.from_numpy(noise).to(device, non_blocking=True)
    _native.compiled().views_cuda(
        first=stamps.raw.data_ptr() + stamps.layout.offset,
        kind=dtype.kind,
        item_size=dtype.itemsize,
        swapped=not dtype.isnative,
        shape=stamps.layout.shape,
        strides=stamps.layout.strides,
        rows=rows.data_ptr(),
        objid=0 if ids is None else ids.data_ptr(),
        num_rows=len(rows),
        out=out.data_ptr(),
        bscale=stamps.scaling.bscale,
        bzero=stamps.scaling.bzero,
        blank=stamps.scaling.blank,
        settings=settings,
        noise=sigma.data_ptr(),
        seed=seed,
        epoch=epoch,
        num_views=num_views,
        patch=patch_size,
        device=device.index,
        stream=torch.cuda.current_stream(device).cuda_stream,
    )
    return out


def why_not_cuda(problem: Problem) -> tuple[str, ...]:
    """Say why the CUDA kernel cannot run."""
    return _native.cuda_why_not() if problem.device == "cuda" else (f"the data are on {problem.device}",)


def _on_host(values: np.ndarray | torch.Tensor | None) -> np.ndarray | None:
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else values


def _shape(
    stamps: Stamps | ResidentStamps, num_views: int, num_rows: int, patch_size: int
) -> tuple[int, ...]:
    """Return (V, N, P, L)."""
    return (num_views, num_rows, (stamps.size // patch_size) ** 2, patch_size**2 * stamps.num_bands)


def _settings(config: AugmentConfig, num_bands: int) -> tuple[np.ndarray, Any]:
    """Return the noise of each band and the settings as the compiled module takes them."""
    noise = np.array(config.noise_by_band(num_bands), np.float32)
    settings = _native.compiled().ViewSettings(
        mode=config.mode,
        interpolation=config.interpolation,
        border=config.border,
        max_angle_deg=config.max_angle_deg,
        max_shift=config.max_shift,
        flips=config.flips,
        jitter=config.jitter,
        has_noise=bool(noise.any()),
        standardise=config.standardise,
    )
    return noise, settings
