"""Strings out of pickled .npy files: what NumPy writes is read, the rest refused, nothing run."""

from __future__ import annotations

import io
import os
import pickle
import random
import re
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from margformer_fast.data import pickles
from margformer_fast.data.pickles import holds_strings, load_string_array
from margformer_fast.errors import DataError

NAMES = ("GALAXY", "QSO", "STAR", "", "naïve ☆", "x" * 300)


def write(path: Path, payload: bytes, shape: tuple[int, ...] = (3,), dtype: str = "|O") -> Path:
    """Write a .npy file with a header that NumPy would write and any payload."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    path.write_bytes(header.getvalue() + payload)
    return path


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_string_array(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("n", [0, 1, 2, 257, 3001])
def test_every_protocol(tmp_path, rng, protocol, n):
    array = np.array([NAMES[k] for k in rng.integers(len(NAMES), size=n)], object)
    loaded = load_string_array(write(tmp_path / "y.npy", pickle.dumps(array, protocol), (n,)))
    assert loaded.dtype.kind == "U"
    assert loaded.tolist() == array.tolist()


def test_what_numpy_saves(tmp_path, rng):
    array = np.array([NAMES[k] for k in rng.integers(3, size=1000)], object)
    path = tmp_path / "y.npy"
    np.save(path, array, allow_pickle=True)
    assert load_string_array(str(path)).tolist() == array.tolist()
    np.save(path, array.astype(str))
    assert load_string_array(path).tolist() == array.tolist()
    np.save(path, array.astype(">U6"))
    assert load_string_array(path).tolist() == array.tolist()
    assert load_string_array(path).dtype.isnative


def test_pickles_of_older_numpy(tmp_path):
    new = pickle.dumps(np.array(["STAR", "QSO", "STAR"], object), 3)
    old = new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != new
    assert load_string_array(write(tmp_path / "y.npy", old)).tolist() == ["STAR", "QSO", "STAR"]


def test_holds_strings(tmp_path):
    path = tmp_path / "a.npy"
    for array, expected in ((np.zeros(3), False), (np.array(["a"]), True), (np.array(["a"], object), True)):
        np.save(path, array, allow_pickle=True)
        assert holds_strings(path) is expected
    with pytest.raises(DataError, match="cannot be read"):
        holds_strings(tmp_path / "none.npy")


# ---- hostile pickles ----


class Bomb:
    """Unpickles into whatever call it is given."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def marker(tmp_path):
    """A file that a hostile pickle makes if it is run."""
    path = tmp_path / "pwned"
    yield path
    assert not path.exists(), "the pickle was executed"


@pytest.mark.parametrize("protocol", range(6))
def test_code_is_not_run(tmp_path, marker, protocol):
    bombs = {
        "system": Bomb(os.system, f"touch {marker}"),
        "eval": Bomb(eval, f"open({str(marker)!r}, 'w')"),
        "open": Bomb(open, str(marker), "w"),
        "import": Bomb(__import__, "os"),
        "numpy.load": Bomb(np.load, str(marker)),
        "getattr": Bomb(getattr, "", "join"),
    }
    for name, bomb in bombs.items():
        outer = pickle.dumps(bomb, protocol)
        inner = pickle.dumps(np.array(["STAR", bomb, "QSO"], object), protocol)
        for payload in (outer, inner):
            message = refused(write(tmp_path / "y.npy", payload))
            assert "the pickle in it holds a reference to '" in message, name
            assert "was not executed" in message


def test_the_fixture_would_notice(tmp_path):
    """The bombs above are live: run by the pickle module, the first makes its file."""
    path = tmp_path / "made"
    pickle.loads(pickle.dumps(Bomb(os.system, f"touch {path}")))
    assert path.exists()


def test_allowed_names_cannot_be_called_otherwise(tmp_path):
    """The names an array needs, used for something else: each stands for nothing but its part of an array."""
    dtype = b"cnumpy\ndtype\n"
    reconstruct = b"cnumpy._core.multiarray\n_reconstruct\n"
    cases = {
        "an array that is not of objects": dtype + b"(X\x02\x00\x00\x00i8\x89\x88tR.",
        "a call of 'numpy.ndarray'": b"cnumpy\nndarray\n(I1000000000000\ntR.",
        "REDUCE applied to a value of type str": b"X\x01\x00\x00\x00a)R.",
        "REDUCE applied to None": reconstruct + b"NR.",
        "BUILD applied to a value of type list": b"]Nb.",
        "a dtype where the array should be": dtype + b"(X\x02\x00\x00\x00O8\x89\x88tR.",
        "an array where the array should be": reconstruct + b")R.",
        "a reference to 'numpy.dtype' where": dtype + b".",
        "a reference to 'numpy.dtype.type'": b"\x8c\x05numpy\x8c\x0adtype.type\x93.",
        "a reference to '?'": b"NN\x93.",
    }
    for expected, payload in cases.items():
        message = refused(write(tmp_path / "y.npy", payload))
        assert (
            expected.replace("REDUCE", "the instruction REDUCE").replace("BUILD", "the instruction BUILD")
            in message
        )


def test_instructions_that_arrays_do_not_need(tmp_path):
    for name, payload in {
        "INST": b"(ios\nsystem\n.",
        "OBJ": b"(cnumpy\ndtype\no.",
        "NEWOBJ": b"cnumpy\ndtype\n)\x81.",
        "EXT1": b"\x82\x01.",
        "PERSID": b"Pfile\n.",
        "EMPTY_DICT": b"}.",
        "DUP": b"N2.",
        "BINFLOAT": b"G" + bytes(8) + b".",
        "EMPTY_SET": b"\x8f.",
    }.items():
        assert f"the instruction {name}" in refused(write(tmp_path / "y.npy", payload))


def test_broken_stacks(tmp_path):
    for payload in (
        b"R.",
        b"0.",
        b".",
        b"t.",
        b"a.",
        b"e.",
        b"\x85.",
        b"N\x86.",
        b"NN\x87.",
        b"h\x05.",
        b"q\x00.",
        b"b.",
    ):
        assert "nothing to act on" in refused(write(tmp_path / "y.npy", payload)) or payload == b"0."
    assert "broken instruction" in refused(write(tmp_path / "y.npy", b""))
    assert "broken instruction" in refused(write(tmp_path / "y.npy", b"\xff\xff."))


def test_other_contents(tmp_path):
    for content, found in (
        ([1, 2, 3], "a value of type int in row 0"),
        (["STAR", None, "QSO"], "None in row 1"),
        (["STAR", "QSO", b"STAR"], "a value of type bytes in row 2"),
        (["STAR", ["QSO"], "STAR"], "a value of type list in row 1"),
    ):
        array = np.empty(3, object)
        array[:] = content
        assert found in refused(write(tmp_path / "y.npy", pickle.dumps(array, 3)))
    assert "a value of type list where the array should be" in refused(
        write(tmp_path / "y.npy", pickle.dumps(["a", "b", "c"], 3))
    )
    numbers = pickle.dumps(np.arange(3), 3)
    assert "an array that is not of objects" in refused(write(tmp_path / "y.npy", numbers))
    square = np.array([["a", "b"], ["c", "d"]], object)
    assert "holds an array of shape (2, 2)" in refused(
        write(tmp_path / "y.npy", pickle.dumps(square, 3), (2, 2))
    )
    assert "not one-dimensional" in refused(write(tmp_path / "y.npy", pickle.dumps(square, 3), (4,)))
    assert "holds values of type '<f8'; expected strings" in refused(
        write(tmp_path / "y.npy", bytes(24), dtype="<f8")
    )


def test_lengths_must_agree(tmp_path):
    payload = pickle.dumps(np.array(["STAR", "QSO", "STAR"], object), 3)
    assert "3 items for shape (3,) while the file's header says (4,)" in refused(
        write(tmp_path / "y.npy", payload, (4,))
    )
    assert refused(write(tmp_path / "y.npy", payload, (10**18,)))
    assert "has 20 bytes of data; expected 24" in refused(write(tmp_path / "y.npy", bytes(20), dtype="<U2"))
    assert "no character" in refused(write(tmp_path / "y.npy", b"\xff" * 12, dtype="<U1"))
    assert "type '<U0'; expected strings" in refused(write(tmp_path / "y.npy", b"", dtype="<U0"))


def test_huge_lengths_allocate_nothing(tmp_path):
    """A length of terabytes in a file of a few bytes is refused, not reserved."""
    tracemalloc.start()
    for payload in (
        b"X" + struct.pack("<I", 2**32 - 1) + b"abc.",
        b"\x8d" + struct.pack("<Q", 2**62) + b"abc.",
        b"\x8d" + struct.pack("<Q", 2**64 - 1) + b"abc.",
        b"B" + struct.pack("<I", 2**32 - 1) + b"abc.",
        b"\x8a\xff\x01.",
        b"r" + struct.pack("<I", 2**32 - 1) + b".",
        b"\x95" + struct.pack("<Q", 2**62) + b"N.",
    ):
        refused(write(tmp_path / "y.npy", payload))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


def test_memo_bomb(tmp_path):
    """A tuple of itself twice, forty times over, is 2**40 items to whoever walks it."""
    payload = b"X\x01\x00\x00\x00a" + b"".join(b"q%ch%c\x86" % (k, k) for k in range(40)) + b"."
    assert "a value of type tuple where the array should be" in refused(write(tmp_path / "y.npy", payload))
    array = pickle.dumps(np.array(["a", "b", "c"], object), 2)
    assert array.count(b"X\x01\x00\x00\x00a") == 1
    inside = array.replace(b"X\x01\x00\x00\x00a", payload[:-1])
    assert "a value of type tuple in row 0" in refused(write(tmp_path / "y.npy", inside))


def test_list_that_holds_itself(tmp_path):
    assert "a value of type list where" in refused(write(tmp_path / "y.npy", b"]q\x00h\x00a."))


def test_a_long_string_many_times(tmp_path, monkeypatch):
    """One long string, referred to often, would be written out at full width for every row."""
    monkeypatch.setattr(pickles, "MAX_BYTES", 1 << 20)
    array = np.array(["x" * 5000] * 1000, object)
    payload = pickle.dumps(array, 3)
    assert len(payload) < 10_000
    assert "1,000 strings of up to 5,000 characters" in refused(write(tmp_path / "y.npy", payload, (1000,)))
    assert "bytes; expected at most 1,048,576" in refused(write(tmp_path / "y.npy", bytes(1 << 21)))


def test_truncated_anywhere(tmp_path):
    path = tmp_path / "y.npy"
    np.save(path, np.array(["STAR", "QSO", "GALAXY"], object), allow_pickle=True)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        refused(path)


def test_random_damage_never_escapes(tmp_path, rng, marker):
    """Whatever a file holds: strings, or the one error."""
    path = tmp_path / "y.npy"
    np.save(path, np.array(["STAR", "QSO", "GALAXY"] * 20, object), allow_pickle=True)
    whole = path.read_bytes()
    for _ in range(400):
        content = bytearray(whole)
        for place in rng.integers(len(content), size=rng.integers(1, 6)):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            loaded = load_string_array(path)
        except DataError:
            continue
        assert loaded.dtype.kind == "U"
        assert loaded.shape == (60,)


def test_random_instructions_never_escape(tmp_path, rng):
    source = random.Random(int(rng.integers(2**31)))
    words = [
        b"(",
        b"t",
        b"]",
        b"N",
        b"R",
        b"b",
        b"q\x00",
        b"h\x00",
        b"\x86",
        b"a",
        b"e",
        b"\x94",
        b"l",
        b"\x93",
    ]
    words += [
        b"cnumpy\ndtype\n",
        b"cnumpy._core.multiarray\n_reconstruct\n",
        b"X\x02\x00\x00\x00O8",
        b"K\x03",
    ]
    for _ in range(400):
        payload = b"".join(source.choices(words, k=source.randrange(30))) + b"."
        refused(write(tmp_path / "y.npy", payload))


def test_what_is_no_npy_file(tmp_path):
    path = tmp_path / "y.npy"
    for content in (b"", b"\x93NUMPY", b"PK\x03\x04", b"\x93NUMPY\x03\x00" + bytes(100), pickle.dumps(["a"])):
        path.write_bytes(content)
        assert "is not a .npy file of one array" in refused(path)
    hostile = b"{'descr': '|O', 'fortran_order': False, 'shape': (__import__('os'),)}"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(hostile)) + hostile)
    assert "is not a .npy file of one array" in refused(path)
    with pytest.raises(DataError, match=re.escape("none.npy: cannot be read (No such file")):
        load_string_array(tmp_path / "none.npy")


@pytest.mark.parametrize(
    ("name", "counts"),
    [("y_exp1", (79_999, 80_000, 80_000)), ("y_exp2", (50_000, 50_000, 49_996))],
)
def test_published_labels(real_data, name, counts):
    labels = load_string_array(real_data / "margnet" / f"{name}.npy")
    assert labels.shape == (sum(counts),)
    for label, count in zip(("GALAXY", "QSO", "STAR"), counts, strict=True):
        assert np.count_nonzero(labels == label) == count
