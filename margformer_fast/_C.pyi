"""What the compiled module offers. `_native.py` alone imports it."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

class BuildInfo(TypedDict):
    version: str
    source_hash: str
    compiler: str
    build_type: str
    cuda: bool
    cuda_why_not: str
    cuda_compiler: str
    cuda_architectures: str

_Value = bool | int | float | str | tuple[str, str] | None

def build_info() -> BuildInfo: ...
def decode(
    array: np.ndarray,
    rows: NDArray[np.int64],
    out: NDArray[np.float32],
    bscale: float,
    bzero: float,
    blank: int | None,
    threads: int,
) -> None: ...

class ViewSettings:
    def __init__(
        self,
        *,
        mode: str,
        interpolation: str,
        border: str,
        max_angle_deg: float,
        max_shift: float,
        flips: bool,
        jitter: float,
        has_noise: bool,
        standardise: bool,
    ) -> None: ...

def views(
    *,
    parts: list[np.ndarray],
    rows: NDArray[np.int64],
    objid: NDArray[np.int64] | None,
    out: NDArray[np.float32],
    bscale: float,
    bzero: float,
    blank: int | None,
    settings: ViewSettings,
    noise: NDArray[np.float32],
    seed: int,
    epoch: int,
    num_views: int,
    patch: int,
    threads: int,
) -> None: ...

# values (a pair is why one cannot be read, and where), text, bitpix, shape, data offset and size, next offset
def parse_header(
    buffer: memoryview, offset: int
) -> tuple[dict[str, _Value], str, int, tuple[int, ...], int, int, int]: ...

# the first path, from `begin` on, that cannot be read as planned; the number of paths if there is none
def read_cutouts(
    paths: list[str],
    *,
    begin: int,
    hdus: Sequence[int],
    bitpix: int,
    shape: Sequence[int],
    bscale: float,
    bzero: float,
    blank: int | None,
    decode: bool,
    max_file_size: int,
    out: NDArray[np.uint8],
    threads: int,
) -> int: ...

# Kinds of processors that this one is of and that there is code for, the best first.
def targets() -> list[str]: ...

# Arrays of either type of floats, of one type in a call. An empty `target` chooses the best.
_Floats = NDArray[np.float32] | NDArray[np.float64]

def nt_xent_workspace(
    z: _Floats, *, num_own: int, halves: bool, backward: bool, threads: int, target: str
) -> int: ...
def nt_xent_sums(
    z: _Floats,
    group: NDArray[np.int32] | None,
    out: _Floats,
    workspace: NDArray[np.uint8],
    *,
    first_row: int,
    temperature: float,
    halves: bool,
    threads: int,
    target: str,
) -> None: ...
def nt_xent_gradient(
    z: _Floats,
    group: NDArray[np.int32] | None,
    log_total: _Floats,
    dz: _Floats,
    workspace: NDArray[np.uint8],
    *,
    first_row: int,
    temperature: float,
    halves: bool,
    threads: int,
    target: str,
) -> None: ...

# variances and fluxes of Gaussians
_Profile = tuple[Sequence[float], Sequence[float]]

def fit_profiles(
    images: _Floats,
    centre: NDArray[np.float64],
    covariance: NDArray[np.float64],
    share: NDArray[np.float64],
    noise: NDArray[np.float64],
    gain: NDArray[np.float64],
    *,
    reference: int,
    flux: NDArray[np.float64],
    shape: NDArray[np.float64],
    chi2: NDArray[np.float64],
    amplitude: NDArray[np.float64],
    steps: NDArray[np.int64],
    spheroid: _Profile,
    disc: _Profile,
    starts: Sequence[float],
    limits: dict[str, float],
    threads: int,
    target: str,
) -> None: ...

# weights of attention and of the feed-forward half; either may be missing
_Layer = tuple[Sequence[_Floats] | None, Sequence[_Floats] | None]

def encode(
    x: _Floats,
    layers: Sequence[_Layer],
    out: _Floats,
    *,
    first_token: bool,
    num_heads: int,
    seed: int | None,
    dropped_levels: int,
    halves: bool,
    threads: int,
    target: str,
) -> None: ...
def encode_back(
    x: _Floats,
    layers: Sequence[_Layer],
    grad: _Floats,
    dx: _Floats,
    d_attention: Sequence[_Floats],
    d_feed_forward: Sequence[_Floats],
    *,
    num_heads: int,
    seed: int | None,
    dropped_levels: int,
    halves: bool,
    threads: int,
    target: str,
) -> None: ...

# The rest is there only if build_info()["cuda"].
def cuda_devices() -> tuple[int, str]: ...
def decode_cuda(
    *,
    first: int,
    kind: str,
    item_size: int,
    swapped: bool,
    shape: tuple[int, int, int, int],
    strides: tuple[int, int, int, int],
    rows: int,
    num_rows: int,
    out: int,
    bscale: float,
    bzero: float,
    blank: int | None,
    device: int,
    stream: int,
) -> None: ...
