"""NT-Xent in the compiled module: every kind of processor against float64, blocks, threads, bounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from nt_xent_cases import TARGETS, poisoned_memory, skip_unless_usable

from margformer_fast import _native
from margformer_fast.kernels.nt_xent_compiled import gradient_of_negatives, log_sum_of_negatives

# Error of sums, and of the weights of a gradient; the rows below have no more digits than bfloat16.
LIMITS = {
    ("float32", "fp32"): (2**-20, 2**-20),
    ("float32", "bf16"): (2**-20, 2**-7),
    ("float64", "fp32"): (2**-48, 2**-48),
}
# In pairs, with blocks of 64: parts of one, one, two, an odd number with a ragged end, an even one.
SIZES = (2, 9, 64, 65, 128, 157, 256)


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    with poisoned_memory():
        yield


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    skip_unless_usable(request.param)
    return str(request.param)


def unit_rows(rng: np.random.Generator, n: int, dim: int) -> torch.Tensor:
    """Rows of n pairs around a few centres, such as bfloat16 holds; some are equal, one is zero."""
    centres = rng.normal(size=(max(2, n // 8), dim))
    z = centres[rng.integers(0, len(centres), 2 * n)] + 0.7 * rng.normal(size=(2 * n, dim))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    z[n] = z[0]
    z[-1] = 0
    return torch.from_numpy(z).bfloat16().double()


def exact(
    z_MD: torch.Tensor, group_N: torch.Tensor | None, temperature: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The sums, totals that may go with them, and the gradient, of all rows in float64."""
    s_MM = z_MD @ z_MD.T / temperature
    number_N = torch.arange(len(z_MD) // 2) if group_N is None else group_N
    number_M = number_N.repeat_interleave(2)
    s_MM[number_M[:, None] == number_M] = -torch.inf
    sums_M = s_MM.logsumexp(1)
    partners_M = torch.linspace(-1, 1, len(z_MD)).double() / temperature
    totals_M = torch.logaddexp(sums_M, partners_M).float().double()
    weights_MM = (s_MM - totals_M[:, None]).exp() + (s_MM - totals_M).exp()
    return sums_M, totals_M, weights_MM @ z_MD


def check(
    z_MD: torch.Tensor,
    group_N: torch.Tensor | None,
    rows: range,
    temperature: float,
    kind: tuple[str, str],
    target: str,
) -> None:
    own, dtype = slice(rows.start, rows.stop), getattr(torch, kind[0])
    sums_M, totals_M, gradient_MD = exact(z_MD, group_N, temperature)
    of_sums, of_weights = LIMITS[kind]
    limit = of_sums * (1 + 1 / temperature)
    call = (z_MD.to(dtype), group_N, rows, temperature, kind[1])
    got = log_sum_of_negatives(*call, target)
    torch.testing.assert_close(got.double(), sums_M[own], rtol=limit, atol=limit)
    got = gradient_of_negatives(*call, totals_M.to(dtype), target)
    assert got.shape == (len(rows), z_MD.shape[1])
    assert (got.double() - gradient_MD[own]).norm() <= (limit + of_weights) * gradient_MD[own].norm()


@pytest.mark.parametrize("temperature", [0.01, 1 / 60, 0.1, 10.0])
@pytest.mark.parametrize("kind", LIMITS, ids=str)
def test_against_float64(
    rng: np.random.Generator, target: str, kind: tuple[str, str], temperature: float
) -> None:
    for n in SIZES:
        z = unit_rows(rng, n, int(rng.integers(1, 140)))
        numbers = rng.integers(-(2**60), 2**60, max(2, n // 3))
        group = torch.from_numpy(rng.choice(numbers, n))
        check(z, None, range(2 * n), temperature, kind, target)
        check(z, group, range(2 * n), temperature, kind, target)


@pytest.mark.parametrize("temperature", [0.01, 0.1])
@pytest.mark.parametrize("kind", LIMITS, ids=str)
def test_some_of_the_rows(
    rng: np.random.Generator, target: str, kind: tuple[str, str], temperature: float
) -> None:
    z = unit_rows(rng, 210, 37)
    group = torch.from_numpy(rng.integers(0, 50, 210))
    for rows in (range(128), range(30, 32), range(2, 418), range(126, 258), range(128, 256), range(400, 420)):
        check(z, None, rows, temperature, kind, target)
        check(z, group, rows, temperature, kind, target)
    assert log_sum_of_negatives(z, None, range(30, 30), temperature, "fp32", target).shape == (0,)


@pytest.mark.parametrize("dim", [1, 2, 16, 31, 32, 33, 64, 65, 128, 300])
def test_dims(rng: np.random.Generator, target: str, dim: int) -> None:
    z = unit_rows(rng, 70, dim)
    for kind in LIMITS:
        check(z, None, range(140), 0.2, kind, target)


def test_factors_are_rounded_to_the_nearest_even(rng: np.random.Generator, target: str) -> None:
    z = torch.from_numpy(rng.normal(size=(80, 51)) / 8).float()
    z[:, 0] = 1 + torch.tensor([1, 3]).repeat(40) * 2**-8  # halfway
    answers = []
    for rows in (z, z.bfloat16().float()):
        call = (rows, None, range(80), 0.3, "bf16")
        sums = log_sum_of_negatives(*call, target)
        answers.append((sums, gradient_of_negatives(*call, torch.ones(80), target)))
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))


@pytest.mark.parametrize("temperature", [0.01, 0.1])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("n", "rows"), [(700, (0, 1400)), (768, (0, 1536)), (700, (50, 900))])
def test_same_bits_on_any_number_of_threads(
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    n: int,
    rows: tuple[int, int],
    precision: str,
    temperature: float,
) -> None:
    """An odd and an even number of blocks, and rows that are not all."""
    z = unit_rows(rng, n, 96).float()
    totals = exact(z.double(), None, temperature)[1].float()
    answers = []
    for threads in (1, 2, 3, 7, 7):
        monkeypatch.setenv(_native.THREADS_VARIABLE, str(threads))
        call = (z, None, range(*rows), temperature, precision)
        answers.append((log_sum_of_negatives(*call), gradient_of_negatives(*call, totals)))
    for sums, gradient in answers[1:]:
        assert torch.equal(sums, answers[0][0])
        assert torch.equal(gradient, answers[0][1])


def workspace(z: np.ndarray, **given: Any) -> int:
    given = {"num_own": len(z), "halves": False, "backward": True, "threads": 1, "target": "", **given}
    return int(_native.compiled().nt_xent_workspace(z, **given))


def test_threads_are_used_where_they_pay() -> None:
    """Each has a place of its own to work in; there is none for more than blocks can meet at a time."""
    large, small = np.zeros((1536, 96), np.float32), np.zeros((64, 96), np.float32)
    sizes = [workspace(large, threads=threads) for threads in (1, 2, 3, 6, 7)]
    assert sizes[0] < sizes[1] < sizes[2] < sizes[3] == sizes[4]
    assert workspace(small, threads=7) == workspace(small)


@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_nan_is_not_swallowed(rng: np.random.Generator, target: str, temperature: float) -> None:
    z = unit_rows(rng, 100, 20).float()
    z[77, 3] = torch.nan
    sums = log_sum_of_negatives(z, None, range(200), temperature, "fp32", target)
    assert sums.isfinite().nonzero().tolist() == [[76]]  # its partner, of which it is no negative
    gradient = gradient_of_negatives(z, None, range(200), temperature, "fp32", torch.zeros(200), target)
    assert gradient[:, 3].isnan().all()


@pytest.mark.parametrize("halves", [False, True])
def test_nothing_is_written_outside(rng: np.random.Generator, target: str, halves: bool) -> None:
    n, dim = 157, 33
    z = unit_rows(rng, n, dim).float().numpy()
    out, dz = np.full(2 * n + 2, 7, np.float32), np.full((2 * n + 2, 64), 7, np.float32)
    shared = {"halves": halves, "threads": 2, "target": target}
    size = workspace(z, **shared)
    space = np.full(size + 4096, 7, np.uint8)
    arguments = {"first_row": 0, "temperature": 0.1, **shared}
    module = _native.compiled()
    module.nt_xent_sums(z, None, out[1:-1], space[:size], **arguments)
    module.nt_xent_gradient(z, None, out[1:-1].copy(), dz[1:-1], space[:size], **arguments)
    assert out[0] == out[-1] == 7
    assert (dz[[0, -1]] == 7).all()
    assert (space[size:] == 7).all()
    assert (dz[1:-1] != 7).all()
    assert (dz[1:-1, dim:] == 0).all()


BOTH = {"z": ((6, 5), "f4"), "group": ((3,), "i4"), "workspace": ((1 << 20,), "u1")}
ARRAYS = {
    "nt_xent_sums": {**BOTH, "out": ((4,), "f4")},
    "nt_xent_gradient": {**BOTH, "log_total": ((6,), "f4"), "dz": ((4, 32), "f4")},
}


def call(name: str, changed: dict[str, Any], **given: Any) -> None:
    arrays = {each: np.zeros(shape, dtype) for each, (shape, dtype) in {**ARRAYS[name], **changed}.items()}
    arguments = {"first_row": 2, "temperature": 0.1, "halves": False, "threads": 1, "target": "", **given}
    getattr(_native.compiled(), name)(**arrays, **arguments)


@pytest.mark.parametrize(
    ("changed", "given", "message"),
    [
        ({"z": ((5, 5), "f4")}, {}, "z is"),
        ({"z": ((6,), "f4")}, {}, "z is"),
        ({"group": ((4,), "i4")}, {}, "group is"),
        ({"out": ((5,), "f4")}, {}, "own rows are pairs of z"),
        ({"dz": ((5, 32), "f4")}, {}, "own rows are pairs of z"),
        ({}, {"first_row": 4}, "own rows are pairs of z"),
        ({}, {"first_row": 1}, "own rows are pairs of z"),
        ({}, {"first_row": -2}, "own rows are pairs of z"),
        ({}, {"temperature": 0.0}, "temperature"),
        ({}, {"temperature": float("nan")}, "temperature"),
        ({}, {"target": "none"}, "no such kind"),
        ({"workspace": ((1000,), "u1")}, {}, "the workspace is too small"),
        ({"dz": ((4, 5), "f4")}, {}, "rows of dz are padded"),
        ({"dz": ((128,), "f4")}, {}, "dz has two axes"),
        ({"log_total": ((4,), "f4")}, {}, "log_total is"),
    ],
    ids=str,
)
def test_refusals(changed: dict[str, Any], given: dict[str, Any], message: str) -> None:
    for name, arrays in ARRAYS.items():
        if changed.keys() <= arrays.keys():
            call(name, {})
            with pytest.raises(ValueError, match=message):
                call(name, changed, **given)


@pytest.mark.parametrize("name", ["z", "group", "out", "workspace"])
def test_nothing_is_converted(name: str) -> None:
    """A converted copy would be written instead of what was given."""
    with pytest.raises(TypeError, match="incompatible function arguments"):
        call("nt_xent_sums", {name: (ARRAYS["nt_xent_sums"][name][0], "i8")})
