"""Decode: every backend against one pixel at a time, bit for bit, wherever and however the pixels lie."""

from __future__ import annotations

import itertools
import struct
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from margformer_fast import _native
from margformer_fast.backends import use_backend
from margformer_fast.errors import BackendUnavailable, ConfigError, DataError
from margformer_fast.ops.decode import PIXEL_TYPES, Scaling, decode
from margformer_fast.ops.decode_on_device import RawLayout, decode_on_device

BACKENDS = ("reference", "cpp")
DTYPES = [np.dtype(order + name) for name, order in itertools.product(PIXEL_TYPES, "<>")]
SCALINGS = [Scaling(), Scaling(blank=3), Scaling(bzero=32768.0, blank=-32768), Scaling(-0.37, 1e3, 7)]
QUIET_NAN = 0x7FC00000


def random_pixels(rng: np.random.Generator, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Random bits (as floats: NaN payloads, infinities, denormals, beyond float32) and small numbers."""
    bits = np.frombuffer(rng.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)
    small = rng.integers(0, 9, shape).astype(dtype)
    return np.where(rng.random(shape) < 0.5, bits, small).astype(dtype)


def layouts(array: np.ndarray) -> dict[str, np.ndarray]:
    """The same kind of pixels in layouts that no reader would call dense."""
    return {
        "dense": array,
        "reversed": array[::-1, ::-1, ::-1, ::-1],
        "channel last": array.transpose(0, 3, 1, 2),
        "every second": array[::2, :, ::2, 1::2],
        "repeated": np.broadcast_to(array[:1, :, :1], array.shape),
        "one axis": array[:, 0, 0, 0],
        "two axes": array[:, :, 1, 1],
        "three axes": array[:, 1].transpose(0, 2, 1),
    }


def expected_bits(pixel: np.generic, dtype: np.dtype, scaling: Scaling) -> int:
    """One pixel by the words of the FITS standard, in Python's own arithmetic."""
    if dtype.kind == "f" and dtype.itemsize == 4 and scaling.bscale == 1 and scaling.bzero == 0:
        return int.from_bytes(pixel.tobytes(), sys.byteorder)  # a scalar of NumPy is native
    if dtype.kind != "f" and scaling.blank is not None and int(pixel) == scaling.blank:
        return QUIET_NAN
    value = scaling.bzero + scaling.bscale * float(pixel)
    with np.errstate(all="ignore"):
        single = np.float32(value)
    return QUIET_NAN if np.isnan(single) else struct.unpack("=I", struct.pack("=f", single))[0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.str)
@pytest.mark.parametrize("scaling", SCALINGS, ids=str)
def test_every_pixel_by_hand(
    rng: np.random.Generator, backend: str, dtype: np.dtype, scaling: Scaling
) -> None:
    for name, array in layouts(random_pixels(rng, dtype, (7, 3, 5, 6))).items():
        rows = rng.integers(0, len(array), 4)
        out = decode(array, rows, scaling, backend=backend)
        wanted = [expected_bits(pixel, dtype, scaling) for pixel in array[rows].ravel()]
        assert out.dtype == np.float32
        assert out.flags.c_contiguous, name
        assert out.shape == (4, *array.shape[1:]), name
        np.testing.assert_array_equal(out.view(np.uint32).ravel(), wanted, err_msg=name)


@settings(max_examples=80, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    dtype=st.sampled_from(DTYPES),
    scaling=st.sampled_from(SCALINGS),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_backends_agree_on_any_view(
    shape: list[int], dtype: np.dtype, scaling: Scaling, seed: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    step = st.sampled_from([1, 2, 3, -1, -2])
    view = random_pixels(rng, dtype, tuple(2 * size for size in shape))
    view = view[tuple(slice(None, None, data.draw(step)) for _ in shape)]
    view = view.transpose(data.draw(st.permutations(range(view.ndim))))
    rows = rng.integers(0, len(view), data.draw(st.integers(0, 20)))
    cpp, reference = (decode(view, rows, scaling, backend=backend) for backend in ("cpp", "reference"))
    assert cpp.tobytes() == reference.tobytes()
    assert cpp.shape == reference.shape


def test_pixels_at_odd_addresses(rng: np.random.Generator) -> None:
    """A memory map may begin anywhere: nothing may rely on alignment."""
    for dtype, shift in itertools.product(DTYPES, (1, 2, 3, 5)):
        raw = rng.bytes(shift + 60 * dtype.itemsize)
        array = np.ndarray((5, 3, 4, 1), dtype, raw, shift)
        cpp, reference = (
            decode(array, None, Scaling(2.0), backend=backend) for backend in ("cpp", "reference")
        )
        assert cpp.tobytes() == reference.tobytes()


def test_payload_of_a_nan_is_kept(rng: np.random.Generator) -> None:
    bits = np.array([0x7F800001, 0xFFC12345, 0x7FC00000, 0xFF800001], ">u4")
    for backend in BACKENDS:
        kept = decode(bits.view(">f4"), None, backend=backend).view(np.uint32)
        np.testing.assert_array_equal(kept, bits.astype(np.uint32))
        scaled = decode(bits.view(">f4"), None, Scaling(bzero=1.0), backend=backend).view(np.uint32)
        np.testing.assert_array_equal(scaled, QUIET_NAN)


def test_blank_of_a_float_image_is_ignored() -> None:
    for backend in BACKENDS:
        np.testing.assert_array_equal(
            decode(np.array([1, 2], ">f4"), None, Scaling(blank=1), backend=backend), [1, 2]
        )


def test_blank_that_the_type_cannot_hold() -> None:
    pixels = np.array([255, 0], "u1")
    for backend in BACKENDS:
        np.testing.assert_array_equal(decode(pixels, None, Scaling(blank=-1), backend=backend), [255, 0])


def test_many_threads_give_what_one_gives(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large enough for several threads to start; repeated, and on more threads than rows."""
    array = random_pixels(rng, np.dtype(">i2"), (401, 5, 32, 33))
    rows = rng.permutation(401)
    outs = []
    for threads in ("1", "2", "7", "7", "1000"):
        monkeypatch.setenv("MARGFORMER_NUM_THREADS", threads)
        outs.append(decode(array, rows, Scaling(0.1, 5.0, 1), backend="cpp").tobytes())
    assert set(outs) == {decode(array, rows, Scaling(0.1, 5.0, 1), backend="reference").tobytes()}


def test_no_hole_is_left_and_no_input_is_touched(rng: np.random.Generator) -> None:
    array = rng.integers(-99, 99, (50, 5, 9, 7)).astype(">i4")
    rows = rng.integers(0, 50, 31)
    before = array.tobytes(), rows.tobytes()
    out = np.full((31, 5, 9, 7), np.nan, np.float32)
    _native.compiled().decode(array, rows, out, 1.0, 0.0, None, 2)
    assert not np.isnan(out).any()
    assert before == (array.tobytes(), rows.tobytes())


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_to_decode(backend: str) -> None:
    array = np.ones((4, 5, 3, 3), ">f4")
    assert decode(array, [], backend=backend).shape == (0, 5, 3, 3)
    assert decode(array[:0], [], backend=backend).shape == (0, 5, 3, 3)
    assert decode(array[:0], None, backend=backend).shape == (0, 5, 3, 3)
    assert decode(array[:, :, :0], [1, 2], backend=backend).shape == (2, 5, 0, 3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("row", [-1, 4, 2**62, -(2**63)])
def test_row_outside(backend: str, row: int) -> None:
    with pytest.raises(
        DataError, match=rf"row {row} \(at place 1\) is outside; expected 0 or more, less than 4"
    ):
        decode(np.ones((4, 5, 3, 3), ">f4"), np.array([0, row]), backend=backend)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0.5], "rows are float64"),
        ([[0]], r"of shape \(1, 1\)"),
        ([True], "rows are bool"),
        (0, r"of shape \(\)"),
    ],
)
def test_rows_of_the_wrong_kind(rows: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decode(np.ones((4, 5, 3, 3), ">f4"), np.asarray(rows))


@pytest.mark.parametrize("dtype", ["u2", "i1", "f2", "c8", "?", "S4", "u8"])
def test_pixels_of_no_fits_type(dtype: str) -> None:
    with pytest.raises(DataError, match="cannot be decoded; expected one of FITS: uint8, int16"):
        decode(np.zeros((1, 2, 3, 3), dtype))


@pytest.mark.parametrize("shape", [(), (1, 1, 1, 1, 1)])
def test_pixels_with_too_few_or_many_axes(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="expected 1 to 4 dimensions"):
        decode(np.zeros(shape, ">f4"))


def test_backends_are_those_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.ones((4, 2, 3, 3), ">f4")
    with pytest.raises(
        ConfigError, match="decode: there is no backend 'cuda'; expected auto or one of cpp, ref"
    ):
        decode(array, backend="cuda")
    monkeypatch.setattr(_native, "_why_not", "the compiled module is broken")
    with pytest.raises(BackendUnavailable, match=r"cpp: the compiled module is broken \| reference: can run"):
        decode(array, backend="cpp")
    with use_backend("decode=cpp"), pytest.raises(BackendUnavailable):
        decode(array)
    np.testing.assert_array_equal(decode(array), 1.0)


# --- on tensors of bytes, which on a machine without a GPU lie in main memory


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.str)
def test_layout_finds_the_pixels_again(rng: np.random.Generator, dtype: np.dtype) -> None:
    for name, array in layouts(random_pixels(rng, dtype, (6, 3, 5, 4))).items():
        raw, layout = RawLayout.describe(array)
        layout.check_inside(len(raw))
        assert layout.view(raw).tobytes() == array.tobytes(), name
        if name != "every second":
            with pytest.raises(DataError, match="the pixels take bytes"):
                layout.check_inside(len(raw) - 1)


def on(device: str, array: np.ndarray) -> tuple[torch.Tensor, RawLayout]:
    raw, layout = RawLayout.describe(array)
    return torch.from_numpy(raw.copy()).to(device), layout


@pytest.mark.parametrize("backend", BACKENDS)
def test_tensors_in_main_memory(rng: np.random.Generator, backend: str) -> None:
    check_on_device(rng, "cpu", backend)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["cuda", "reference"])
def test_tensors_on_the_gpu(rng: np.random.Generator, backend: str) -> None:
    check_on_device(rng, "cuda", backend)


def check_on_device(rng: np.random.Generator, device: str, backend: str) -> None:
    for dtype, scaling in itertools.product(DTYPES, SCALINGS):
        for name, array in layouts(random_pixels(rng, dtype, (7, 3, 5, 6))).items():
            raw, layout = on(device, array)
            rows = rng.integers(0, len(array), 11)
            out = decode_on_device(raw, torch.from_numpy(rows).to(device), layout, scaling, backend=backend)
            assert out.device.type == device
            assert (
                out.cpu().numpy().tobytes() == decode(array, rows, scaling, backend="reference").tobytes()
            ), f"{dtype.str} {scaling} {name}"


@pytest.mark.gpu
def test_gpu_leaves_no_hole_at_odd_addresses_and_beyond_one_grid(rng: np.random.Generator) -> None:
    array = rng.integers(-9, 9, (3, 1, 1, 5)).astype(">i2")
    raw, layout = RawLayout.describe(array)
    shifted = torch.from_numpy(np.concatenate([np.zeros(1, np.uint8), raw])).cuda()[1:]
    rows = rng.integers(0, 3, 70_001)
    out = [decode_on_device(shifted, torch.from_numpy(rows).cuda(), layout, backend="cuda") for _ in range(2)]
    np.testing.assert_array_equal(out[0].cpu().numpy(), decode(array, rows, backend="reference"))
    assert torch.equal(out[0], out[1])


@pytest.mark.gpu
def test_gpu_works_on_the_current_stream(rng: np.random.Generator) -> None:
    array = rng.normal(size=(512, 5, 32, 32)).astype(">f4")
    raw, layout = on("cuda", array)
    rows = torch.from_numpy(rng.permutation(512)).cuda()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        twice = decode_on_device(raw, rows, layout, check_rows=False, backend="cuda") * 2
    stream.synchronize()
    np.testing.assert_array_equal(twice.cpu().numpy(), decode(array, rows.cpu().numpy()) * 2)


@pytest.mark.parametrize(
    ("device", "backend"),
    [("cpu", "reference"), ("cpu", "cpp"), pytest.param("cuda", "cuda", marks=pytest.mark.gpu)],
)
def test_unchecked_row_outside_is_nan(device: str, backend: str) -> None:
    raw, layout = on(device, np.arange(12, dtype=">i4").reshape(3, 1, 2, 2))
    rows = torch.tensor([2, -1, 3, 0, 2**62], device=device)
    with pytest.raises(DataError, match=r"rows reach from -1 to 4611686018427387904; expected 0 to 2"):
        decode_on_device(raw, rows, layout, backend=backend)
    out = decode_on_device(raw, rows, layout, check_rows=False, backend=backend).cpu()
    np.testing.assert_array_equal(out[:, 0, 1, 1], [11, np.nan, np.nan, 3, np.nan])
    assert torch.isnan(out[[1, 2, 4]]).all()


def test_tensors_of_the_wrong_kind() -> None:
    raw, layout = on("cpu", np.zeros((3, 1, 2, 2), ">f4"))
    rows = torch.arange(3)
    for bad_raw, bad_rows, message in (
        (raw.float(), rows, "raw is a tensor of torch.float32"),
        (raw[::2], rows, "raw is a tensor of torch.uint8"),
        (raw[None], rows, r"raw is a tensor of torch.uint8 and shape \(1, 48\)"),
        (raw, rows.int(), "rows is a tensor of torch.int32"),
        (raw, rows.to("meta"), "raw is on cpu, rows are on meta; expected one device"),
        (raw[1:], rows, "the pixels take bytes 0 to 48; expected 0 to 47, the size of the buffer"),
    ):
        with pytest.raises(DataError, match=message):
            decode_on_device(bad_raw, bad_rows, layout)
    with pytest.raises(BackendUnavailable, match="cuda: the data are on cpu"):
        decode_on_device(raw, rows, layout, backend="cuda")


def test_layout_of_the_wrong_kind() -> None:
    with pytest.raises(DataError, match="expected 1 to 4 axes, as many strides"):
        RawLayout(">f4", (1, 2), (4,))
    with pytest.raises(DataError, match="cannot be decoded"):
        RawLayout(">f2", (1,), (2,))
