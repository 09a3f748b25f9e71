"""Files that lie and names that are code: refused in one line, before anything is made of them or run."""

from __future__ import annotations

import ast
import gzip
import json
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.table import Table
from matplotlib.figure import Figure
from toy import toy_survey
from toy_results import toy_results, without_images

from margformer_fast.catalogue.work import Work
from margformer_fast.config import ModelConfig
from margformer_fast.data import fits as our_fits
from margformer_fast.data import tables
from margformer_fast.data.fetch.journal import read_arrays, write_arrays
from margformer_fast.data.fetch.targets import read_classes, read_objids
from margformer_fast.data.manifest import MANIFEST, is_store, read_manifest
from margformer_fast.data.npy import map_npy, read_npz
from margformer_fast.data.pickles import load_string_array
from margformer_fast.data.sdss import files as sdss_files
from margformer_fast.data.store import read_store, write_store
from margformer_fast.data.survey import SDSS
from margformer_fast.data.tables import read_table
from margformer_fast.errors import DataError
from margformer_fast.evaluation import report
from margformer_fast.evaluation.figures import FigureGroup
from margformer_fast.evaluation.style import NamedFigure
from margformer_fast.files import read_json, read_record, write_json
from margformer_fast.learning.checkpoint import load_model_directory, load_tensors, save_model, save_tensors
from margformer_fast.nn.inputs import ScaledEncoder

PACKAGE = Path(__file__).parent.parent / "margformer_fast"
HUGE = 10**12


def refused(read: Callable[[], object], path: Path | str, *, megabytes: float = 4) -> str:
    """Return the message of a refusal that names the file, is one line, and took hardly any memory."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            read()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(str(path)), message
    assert message.isprintable()
    assert peak < megabytes * 1e6
    return message


def npy(shape: object, descr: str = "<f8", data: bytes = bytes(16)) -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


# ---- sizes that are only said ----


@pytest.mark.parametrize("shape", [f"({HUGE},)", f"({HUGE}, {HUGE})", f"(0, {1 << 62}, 9)", "(-1,)", "(3"])
def test_array_larger_than_its_file(tmp_path, shape):
    path = tmp_path / "a.npy"
    path.write_bytes(npy(shape))
    for read in (map_npy, read_objids, lambda p: read_classes(p, 3)):
        refused(lambda read=read: read(path), path)
    for descr in ("<U6", "|O"):
        path.write_bytes(npy(shape, descr))
        refused(lambda: load_string_array(path), path)


def test_archive_of_arrays(tmp_path):
    path = tmp_path / "a.npz"

    def archive(packing: int, *members: tuple[str, bytes]) -> None:
        with zipfile.ZipFile(path, "w", packing) as out:
            for name, content in members:
                out.writestr(name, content)

    archive(zipfile.ZIP_STORED, ("objid.npy", npy(f"({HUGE},)")))
    assert "8,000,000,000,000, as its header says" in refused(lambda: read_npz(path, 1 << 20), path)
    archive(zipfile.ZIP_DEFLATED, ("objid.npy", npy("(10000000,)", data=bytes(80_000_000))))
    assert "its members are larger than the file" in refused(lambda: read_npz(path, 1 << 30), path)
    archive(zipfile.ZIP_DEFLATED, ("objid.npy", npy("(2,)")))
    assert "is compressed, repeated or no array" in refused(lambda: read_npz(path, 1 << 30), path)
    archive(zipfile.ZIP_STORED, ("x.npy", npy("(2,)", "|O")))
    assert "holds values of type '|O'" in refused(lambda: read_npz(path, 1 << 20), path)
    assert "expected at most 10" in refused(lambda: read_npz(path, 10), path)


def test_members_that_lie_over_each_other(tmp_path):
    """Many entries of one place make a small file large: together they may be no larger than it."""
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("a.npy", npy("(1000,)", data=bytes(8000)))
        first = out.getinfo("a.npy")
        for k in range(3):
            again = zipfile.ZipInfo(f"{k}.npy")
            again.header_offset, again.file_size, again.compress_size = (
                0,
                first.file_size,
                first.compress_size,
            )
            again.CRC = first.CRC
            out.filelist.append(again)
            out.NameToInfo[again.filename] = again
    assert "its members are larger than the file" in refused(lambda: read_npz(path, 1 << 20), path)


def cards(*lines: str) -> bytes:
    return "".join(line.ljust(80) for line in [*lines, "END"]).encode().ljust(2880)


PRIMARY = cards(
    "SIMPLE  =                    T", "BITPIX  =                    8", "NAXIS   =                    0"
)


def bintable(columns: int | str, rows: int = 1, width: int = 8, form: str = "D") -> bytes:
    return PRIMARY + cards(
        "XTENSION= 'BINTABLE'",
        "BITPIX  =                    8",
        "NAXIS   =                    2",
        f"NAXIS1  = {width:20}",
        f"NAXIS2  = {rows:20}",
        "PCOUNT  =                    0",
        "GCOUNT  =                    1",
        f"TFIELDS = {columns:>20}",
        f"TFORM1  = '{form}'",
    )


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (bintable(1, rows=HUGE), "the data are cut short"),
        (bintable((1 << 63) - 1) + bytes(2880), "TFIELDS is 9223372036854775807; expected 0 to 999"),
        (bintable("'x'") + bytes(2880), "TFIELDS is 'x'"),
        (bintable(1, form=f"{HUGE}D") + bytes(2880), "its columns have 8,000,000,000,000 bytes; expected 8"),
        (bintable(1, form="9") + bytes(2880), "TFORM1 is '9'"),
        (bintable(2) + bytes(2880), "TFORM2 is None"),
    ],
)
def test_tables_that_promise_what_they_have_not(tmp_path, table, said):
    path = tmp_path / "t.fits"
    path.write_bytes(table)
    for read in (read_table, our_fits.check_hdus):
        message = refused(lambda read=read: read(path), path)
        assert said in message
        assert "HDU 1" in message
    packed = tmp_path / "t.fits.gz"
    packed.write_bytes(gzip.compress(table))
    assert said in refused(lambda: read_table(packed), packed, megabytes=16)
    with pytest.raises(DataError, match="HDU 1"):
        sdss_files.find_hdu(table, "XTENSION", "BINTABLE", path)


def test_image_that_promises_what_it_has_not(tmp_path):
    path = tmp_path / "i.fits"
    head = [
        "SIMPLE  =                    T",
        "BITPIX  =                  -64",
        "NAXIS   =                    1",
    ]
    path.write_bytes(cards(*head, f"NAXIS1  = {HUGE:20}"))
    assert "the data are cut short" in refused(lambda: our_fits.map_image(path), path)


def test_a_catalogue_with_rows_of_any_length(tmp_path):
    """A fuzzer's finding: a column of variable length became an array of objects, and a survey of them."""
    path = tmp_path / "store"
    write_store(path, toy_survey(4, np.random.default_rng(0)))
    catalogue = path / "catalog.fits"
    raw = catalogue.read_bytes()
    at = raw.index(b"TFORM5  = 'D")
    catalogue.write_bytes(raw[:at] + b"TFORM5  = '1PD(9)'".ljust(80) + raw[at + 80 :])
    assert "is object of shape (4,); expected a number a row" in refused(lambda: read_store(path), catalogue)


def test_packed_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(sdss_files, "MAX_BYTES", 1 << 20)
    path = tmp_path / "t.fits.gz"
    path.write_bytes(gzip.compress(bytes(50 << 20)))
    message = refused(lambda: read_table(path), path, megabytes=16)
    assert "holds more than a field can have; expected up to 1,048,576 bytes" in message
    plain = tmp_path / "plain.fits"
    with open(plain, "wb") as file:
        file.truncate(1 << 40)
    refused(lambda: sdss_files.read_bytes(plain), plain, megabytes=16)


def test_checkpoint_larger_than_its_file(tmp_path):
    path = tmp_path / "m.safetensors"
    header = {"a": {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4 * HUGE]}}
    for value in (header, {"a": {**header["a"], "data_offsets": [0, 4]}}):
        text = json.dumps({**value, "__metadata__": {"about": "{}"}}).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
        assert "is not a whole checkpoint" in refused(lambda: load_tensors(path), path)
    path.write_bytes(struct.pack("<Q", 1 << 60) + bytes(100))
    refused(lambda: load_tensors(path), path)


TINY = ModelConfig(slots=2, depth=1, dim=8, num_heads=2, hidden=8, patch_size=16)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model"
    save_model(path, ScaledEncoder(TINY, 2), ("GALAXY", "STAR"), SDSS, True)
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"depth": 10**9}}, "describes a model of 272,000,010,272 weights or more"),
        ({"model": {"hidden": 10**12}}, "describes a model of"),
        ({"model": {"slots": 10**15}}, "describes a model of"),
        ({"model": {"dim": "8"}}, "dim is '8'; expected int"),
        ({"model": {"depth": True}}, "depth is True; expected int"),
        ({"model": {"num_features": 10**9}}, "num_features is 1000000000; expected 24"),
        ({"model": 3}, "ModelConfig is 3; expected settings by name"),
        ({"classes": ["STAR"] * 3}, "classes are"),
        ({"classes": "STAR"}, "classes are 'STAR'"),
        ({"survey": ["sdss"]}, "survey is"),
        ({"bands": "ugriz"}, "bands are 'ugriz'"),
    ],
)
def test_model_larger_than_its_weights(saved, tmp_path, change, said):
    config = json.loads((saved / "config.json").read_text())
    for key, value in change.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    write_json(tmp_path / "config.json", config)
    (tmp_path / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    weights = 2 * (tmp_path / "model.safetensors").stat().st_size / 1e6  # the file, and what it holds
    refusal = refused(lambda: load_model_directory(tmp_path), tmp_path / "config.json", megabytes=weights + 1)
    assert said in refusal


def test_weights_without_end():
    """Read whole, so a device is refused before."""
    assert "is no regular file" in refused(lambda: load_tensors(Path("/dev/zero")), "/dev/zero")


# ---- JSON ----


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[" * 100_000, "it is nested too deeply"),
        (b'{"a": ' * 100_000, "it is nested too deeply"),
        (b"[NaN]", "it holds NaN"),
        (b"[1e999]", "it holds 1e999, which is too large"),
        (b"[" + b"9" * 5000 + b"]", "does not hold JSON"),
        (b'"\\ud800"', "it holds half of a character"),
        (b"\xff", "does not hold JSON"),
        (b'{"a": 1', "does not hold JSON"),
    ],
)
def test_json(tmp_path, text, said):
    path = tmp_path / "x.json"
    path.write_bytes(text)
    assert said in refused(lambda: read_json(path), path)


def test_json_of_gigabytes(tmp_path):
    path = tmp_path / MANIFEST
    with open(path, "wb") as file:
        file.truncate(8 << 30)
    message = refused(lambda: read_json(path), path, megabytes=150)
    assert "has 8,589,934,592 bytes; expected at most 67,108,864 of JSON" in message
    assert not is_store(tmp_path)


def test_records_of_another_shape(tmp_path):
    path = tmp_path / "run.json"
    for value in ([], "x", {}, {"settings": 3}):
        write_json(path, value)
        message = refused(lambda: read_record(path, "settings", mend="Choose another --out."), path)
        assert message.endswith("expected an object with settings. Choose another --out.")


@pytest.mark.parametrize("value", ["x", "nan", -1, 0, None, [], "9" * 400])
def test_manifest_numbers(tmp_path, value):
    """A fuzzer's finding: a scale that is no number ended in Python's error."""
    write_store(tmp_path / "s", toy_survey(4, np.random.default_rng(0)))
    path = tmp_path / "s" / MANIFEST
    said = json.loads(path.read_text())
    said["profile"]["pixel_scale_arcsec"] = value
    write_json(path, said)
    assert "is of the wrong kind" in refused(lambda: read_manifest(path.parent), path)


@pytest.mark.parametrize("sign", ["", "-"])
def test_whole_numbers_that_no_float_holds(tmp_path, sign):
    """A fuzzer's finding: in a calibration and in a model's settings they ended in Python's error."""
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"n": int(sign + "9" * 308)}))
    assert read_json(path) == {"n": int(sign + "9" * 308)}
    path.write_text(path.read_text().replace("9}", "99}"))
    assert "does not hold JSON (it holds " in refused(lambda: read_json(path), path)


# ---- what would be followed ----


def test_votable_that_fetches(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("1,2")
    table = Table({"ra": [1.0]})
    path = tmp_path / "t.vot"
    table.write(path, format="votable", tabledata_format="binary")
    whole = path.read_text()
    assert "<STREAM" in whole
    assert len(read_table(path)) == 1
    path.write_text(whole.replace("<STREAM", f'<STREAM href="file://{secret}"'))
    assert "takes its rows from another place" in refused(lambda: read_table(path), f"{path}, line ")
    path.write_text(whole.replace("?>", '?>\n<!DOCTYPE v [<!ENTITY x SYSTEM "file:///etc/hostname">]>', 1))
    assert "defines an entity" in refused(lambda: read_table(path), f"{path}, line ")
    path.write_text(whole[: len(whole) // 2])
    assert "is no whole XML" in refused(lambda: read_table(path), path)


def test_a_table_of_another_kind_than_its_name(tmp_path):
    path = tmp_path / "t.csv"
    for content in (gzip.compress(b"ra,dec\n" * 10), b"PK\x03\x04 and so on", b"BZh9"):
        path.write_bytes(content)
        assert "is packed; expected text. Unpack it first." in refused(lambda: read_table(path), path)
    assert "is a table of no known kind" in refused(lambda: read_table(tmp_path / "t.h5"), tmp_path / "t.h5")


def test_ecsv_nested_without_end(tmp_path):
    """A fuzzer's finding: the time that YAML takes grows with the square of the depth."""
    path = tmp_path / "t.ecsv"
    path.write_text("# %ECSV 1.0\n# ---\n# datatype:\n# - {name: " + "[" * 3000 + "\nra\n1\n")
    assert "is too long or too deeply nested" in refused(lambda: read_table(path), f"{path}, line 4")


def test_ecsv_with_a_type_that_multiplies(tmp_path):
    """A fuzzer's finding: NumPy takes it for a million numbers a value, and a small file took all memory."""
    path = tmp_path / "t.ecsv"
    path.write_text("# %ECSV 1.0\n# ---\n# datatype:\n# - {name: n, datatype: 1000000int64}\nn\n1\n")
    assert "unexpected datatype '1000000int64'" in refused(lambda: read_table(path), path)


def test_text_tables_have_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_TEXT_BYTES", 10)
    path = tmp_path / "t.csv"
    path.write_text("ra,dec\n1,2\n")
    assert "has 11 bytes; expected at most 10" in refused(lambda: read_table(path), path)


def test_a_line_without_end_is_not_read_whole(tmp_path):
    path = tmp_path / "list.csv"
    with open(path, "wb") as file:
        file.truncate(1 << 31)
    assert "is no list of objects" in refused(lambda: read_objids(path), f"{path}, line 1")


def test_escapes_that_python_warns_of(tmp_path):
    """A fuzzer's finding: a header and a pickle with an odd escape made Python warn."""
    path = tmp_path / "y.npy"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path.write_bytes(npy("(1,)", "|O", b"S'\\q'\n."))
        refused(lambda: load_string_array(path), path)
        path.write_bytes(npy("(1,)", "\\q"))
        refused(lambda: map_npy(path), path)


# ---- damage ----


def flips(whole: bytes, count: int, rng: np.random.Generator) -> list[bytes]:
    """Return copies with one bit flipped, at random places, and cut off, at random places too."""
    found = []
    for _ in range(count):
        data = bytearray(whole)
        data[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        found.append(bytes(data))
    return found + [whole[: rng.integers(len(whole))] for _ in range(count)]


def test_any_bit_of_a_checkpoint(tmp_path, rng):
    path = tmp_path / "m.safetensors"
    tensors = {"a": torch.arange(50.0).reshape(5, 10), "b": torch.zeros(0), "c": torch.tensor(True)}
    save_tensors(path, tensors, {"key": {"seed": 1}})
    assert load_tensors(path)[1] == {"key": {"seed": 1}}
    for raw in flips(path.read_bytes(), 300, rng):
        path.write_bytes(raw)
        assert "is not a whole checkpoint" in refused(lambda: load_tensors(path), path)


def test_checkpoints_from_before_there_was_a_checksum(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "m.safetensors"
    save_file({"a": torch.ones(2)}, path, metadata={"about": "{}"})
    assert load_tensors(path)[0]["a"].tolist() == [1, 1]
    save_file({"a": torch.ones(2)}, path, metadata={"about": "{}", "sha255": ""})
    assert "its metadata are about, sha255" in refused(lambda: load_tensors(path), path)


def test_any_bit_of_an_archive(tmp_path, rng):
    """What an archive holds has a checksum: a change is seen, or hit no array."""
    path = tmp_path / "000000.npz"
    rows = {"p": rng.normal(size=(3, 2)), "name": np.array(["a", "bb", "c"])}
    write_arrays(path, rows)
    for raw in flips(path.read_bytes(), 200, rng):
        path.write_bytes(raw)
        for read in (read_arrays, lambda p: Work(p.parent, {}).load(0, 3)):
            try:
                found = read(path)
            except DataError:
                continue
            for name, values in (found or {}).items():
                # Names are in no checksum; a piece is asked for its columns by name.
                if name in rows:
                    assert values.tobytes() == rows[name].tobytes()


def test_cut_anywhere(tmp_path, rng):
    path = tmp_path / "a.npy"
    np.save(path, rng.normal(size=(4, 3)))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(lambda: map_npy(path), path)
    path = tmp_path / "a.json"
    write_json(path, {"a": [1, 2.5, "x"]})
    whole = path.read_bytes().rstrip()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(lambda: read_json(path), path)


# ---- names ----

NASTY = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"


def test_names_in_a_report_are_text(tmp_path, monkeypatch):
    picture = NamedFigure("empty", f"Of {NASTY}", f"Shows {NASTY}.", Figure(figsize=(1, 1)))
    monkeypatch.setattr(report, "report_figures", lambda *_: [FigureGroup(NASTY, (picture,))])
    header, test, outcomes = toy_results(np.random.default_rng(0), n=30, runs=1)
    hostile = replace(
        header,
        source=f"survey {NASTY}",
        preset=NASTY,
        settings={"command": f"train --data {NASTY}", NASTY: {NASTY: NASTY}},
        versions={NASTY: NASTY},
        backends={NASTY: NASTY},
    )
    paths = report.write_report(tmp_path / "out", hostile, without_images(test), outcomes)
    page = paths.html.read_text(encoding="utf-8")
    assert page.count("&lt;script&gt;") >= 6
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "onerror=alert(2)>" not in page


def test_messages_cannot_write_to_the_terminal():
    error = DataError("holds \x1b[2J\x1b]0;title\x07 and\r\nmore\ud800", where="a\x00b", expected="x\u202ey")
    assert str(error) == "a?b: holds ?[2J?]0;title? and  more?; expected x?y"
    assert error.what.startswith("holds \x1b")


# ---- the source ----

BANNED = {
    *("eval", "exec", "compile", "__import__", "execfile"),
    "safe_open",  # leaves memory behind: tests/test_soak.py
    *("torch.load", "torch.hub.load", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"),
    *(
        "np.loadtxt",
        "np.genfromtxt",
        "np.fromfile",
        "np.load",
        "numpy.load",
        "pandas.read_pickle",
        "joblib.load",
    ),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "shutil.unpack_archive", "tempfile.mktemp"),
}
BANNED_MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "shelve",
    "marshal",
    "joblib",
    "telnetlib",
    "ftplib",
}

ONLY_IN = {
    # Readers that astropy or json would be led by: one place each, with the checks.
    "Table.read": {"data/tables.py"},
    "json.load": set(),
    "json.loads": {
        "files.py",  # parse_json, which all others use
        "data/selection.py",  # of its own text, and a file of the package
        "data/survey_tables.py",  # a file of the package
        "data/templates.py",  # a file of the package
        "data/store.py",  # of its own text
        "data/fetch/journal.py",  # a line each, bounded by the journal; and its own text
        "data/fetch/partial.py",  # beside a file in the making; what is not understood is begun anew
        "data/fetch/deposit.py",  # an answer with a limit
        "data/fetch/fields.py",  # a member of a piece with its SHA-256 in the journal
        "learning/distributed.py",  # from a process of the same run
    },
    "safetensors.torch.load": {"learning/checkpoint.py", "learning/distributed.py"},
}


def calls(tree: ast.AST):
    """Yield (dotted name, call) of every call in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            parts, at = [], node.func
            while isinstance(at, ast.Attribute):
                parts.append(at.attr)
                at = at.value
            if isinstance(at, ast.Name):
                yield ".".join(reversed([*parts, at.id])), node


def complaints(source: str, name: str) -> list[str]:
    """Return what a module does that no module may."""
    found = []
    tree = ast.parse(source)
    for called, node in calls(tree):
        if called in BANNED:
            found.append(f"{name}:{node.lineno}: {called}")
        for keyword in node.keywords:
            value = keyword.value.value if isinstance(keyword.value, ast.Constant) else "?"
            if (keyword.arg == "shell" and value is not False) or (keyword.arg == "allow_pickle" and value):
                found.append(f"{name}:{node.lineno}: {called} with {keyword.arg}={value}")
        if called in ONLY_IN and name not in ONLY_IN[called]:
            found.append(f"{name}:{node.lineno}: {called}, which has a place of its own")
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        found += [f"{name}:{node.lineno}: imports {each}" for each in names if each in BANNED_MODULES]
        found += [f"{name}:{node.lineno}: imports {each}" for each in names if each in BANNED]
    return found


def test_nothing_in_the_package_runs_what_it_reads():
    modules = sorted(PACKAGE.rglob("*.py"))
    assert len(modules) > 150
    found = []
    for path in modules:
        found += complaints(path.read_text(encoding="utf-8"), str(path.relative_to(PACKAGE)))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        *("eval('1')", "torch.load(p)", "import pickle", "from pickle import loads", "os.system('x')"),
        *("subprocess.run('x', shell=True)", "subprocess.run('x', shell=flag)", "np.load(p)", "yaml.load(f)"),
        *("np.save(p, a, allow_pickle=True)", "Table.read(p)", "json.load(f)", "from torch import load"),
    ],
)
def test_the_walk_sees_it(line):
    assert complaints(line, "x.py")


def test_every_module_of_the_list_is_there():
    for called, names in ONLY_IN.items():
        for name in names:
            assert called in {c for c, _ in calls(ast.parse((PACKAGE / name).read_text()))}, (called, name)
