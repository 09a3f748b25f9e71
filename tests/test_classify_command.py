"""`classify`: each kind of input as the classifier itself sees it, each output as written, and kills."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from test_classifier import Made

from margformer_fast import Classifier, classify, cli
from margformer_fast.catalogue.inputs import open_source
from margformer_fast.catalogue.stamp_column import stamps_of
from margformer_fast.catalogue.work import Work, open_work, work_folder
from margformer_fast.data.store import write_store
from margformer_fast.errors import ConfigError, DataError, OutputError
from margformer_fast.flags import Flag

OUTPUTS = (".fits", ".vot", ".ecsv", ".csv", ".parquet")


@pytest.fixture
def made(tmp_path: Path, rng: np.random.Generator) -> Made:
    return Made(tmp_path / "made", rng)


def table_of(made: Made) -> Table:
    """The survey as a table with features and stamps."""
    survey = made.survey
    table = Table({"objid": survey.objid, "ra": survey.ra, "dec": survey.dec})
    for k, name in enumerate(survey.profile.feature_names):
        table[name] = survey.features[:, k]
    table["stamp"] = survey.stamps.decode()
    return table


def run(*arguments: object) -> int:
    return cli.run(classify.main, [str(each) for each in arguments])


def same(found: Table, made: Made) -> None:
    """Insist that a result is what the classifier says, in order."""
    expected = Classifier.load(made.path).classify(table_of(made))
    np.testing.assert_array_equal(np.asarray(found["objid"]), made.survey.objid)
    np.testing.assert_array_equal(np.asarray(found["ra"]), made.survey.ra)
    np.testing.assert_allclose(np.asarray(found["p_star"]), expected["p_star"], atol=2e-6)
    for name in ("label", "prediction_set"):
        text = np.char.strip(np.ma.filled(found[name], "").astype(str))
        np.testing.assert_array_equal(text, expected[name])
    np.testing.assert_array_equal(np.asarray(found["flag"]), expected["flag"])


def read(path: Path) -> Table:
    if path.suffix == ".parquet":
        from pyarrow import parquet

        columns = parquet.read_table(path).to_pydict()
        return Table(columns)
    return Table.read(path)


@pytest.mark.parametrize("ending", OUTPUTS)
def test_every_output_holds_what_the_classifier_says(made: Made, tmp_path: Path, ending: str) -> None:
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    write_store(tmp_path / "store", made.survey)
    out = tmp_path / f"classes{ending}"
    assert run(made.path, tmp_path / "store", "--out", out, "--chunk", "7") == 0
    found = read(out)
    same(found, made)
    if ending in (".fits", ".ecsv"):
        assert found.meta["LEVEL"] == 0.9
        assert found.meta["SIMTRAIN"] is True
        assert found["ra"].unit == "deg"
    assert not list(tmp_path.glob(".classes*"))  # no working folder is left
    assert run(made.path, tmp_path / "store", "--out", out) == 1  # it is there already
    assert run(made.path, tmp_path / "store", "--out", out, "--overwrite", "--chunk", "100") == 0
    same(read(out), made)  # chunks do not matter


def test_a_fits_table_is_right_to_the_last_block(made: Made, tmp_path: Path) -> None:
    """Its rows are written before astropy knows how many there are."""
    from astropy.io import fits

    write_store(tmp_path / "store", made.survey)
    assert run(made.path, tmp_path / "store", "--out", tmp_path / "a.fits", "--chunk", "5") == 0
    assert (tmp_path / "a.fits").stat().st_size % 2880 == 0
    with fits.open(tmp_path / "a.fits") as hdus:
        hdus.verify("exception")
        assert hdus[1].header["NAXIS2"] == len(made.survey)


@pytest.mark.parametrize("ending", [".fits", ".vot", ".parquet"])
def test_tables_are_classified_as_they_stand(made: Made, tmp_path: Path, ending: str) -> None:
    table, file = table_of(made), tmp_path / f"table{ending}"
    table.rename_column("objid", "OBJ_ID")
    if ending == ".parquet":
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        columns = {name: pa.array(np.asarray(table[name])) for name in table.colnames if name != "stamp"}
        columns["stamp"] = pa.array(
            [each.ravel().tolist() for each in table["stamp"]], pa.list_(pa.float32())
        )
        parquet.write_table(pa.table(columns), file, row_group_size=11)
    else:
        if ending == ".vot":
            table["stamp"] = table["stamp"].reshape(len(table), -1)
        table.write(file, format="votable" if ending == ".vot" else None)
    out = tmp_path / "classes.fits"
    assert run(made.path, file, "--out", out, "--chunk", "9", "--columns", "objid=OBJ_ID") == 0
    same(read(out), made)


def test_features_without_stamps(made: Made, tmp_path: Path) -> None:
    table = table_of(made)
    table.remove_column("stamp")
    table.write(tmp_path / "table.csv")
    assert run(made.path, tmp_path / "table.csv", "--out", tmp_path / "a.csv") == 0
    flag = np.asarray(Table.read(tmp_path / "a.csv")["flag"])
    assert ((flag & Flag.NO_IMAGE) != 0).all()
    assert ((flag & Flag.NOT_CLASSIFIED) == 0).all()


@pytest.mark.parametrize("kind", ["missing feature", "no feature", "unknown name", "no table", "nothing"])
def test_what_cannot_be_classified(made: Made, tmp_path: Path, kind: str) -> None:
    table, columns = table_of(made), {}
    file = tmp_path / "table.fits"
    if kind == "missing feature":
        table.remove_column("deVRad_g")
        message = "no column deVRad_g"
    elif kind == "no feature":
        table = table["objid", "ra"]
        message = "neither features nor stamps"
    elif kind == "unknown name":
        columns, message = {"colour": "x"}, "no model takes"
    else:
        file, message = tmp_path / "table.txt", "of no known kind" if kind == "no table" else "does not exist"
    if kind == "no table":
        file.write_text("what is this")
    elif kind != "nothing":
        table.write(file)
    with pytest.raises(DataError, match=message):
        open_source(file, made.survey.profile, 32, chunk=10, names=columns)


def test_a_name_that_says_no_format(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_store(tmp_path / "store", made.survey)
    assert run(made.path, tmp_path / "store", "--out", tmp_path / "classes.docx") == 2
    assert ".fits, .vot, .ecsv, .csv, .parquet" in capsys.readouterr().err


def test_killed_and_begun_again(made: Made, tmp_path: Path) -> None:
    """Killed when some pieces are done, the same command ends with what one left alone writes."""
    write_store(tmp_path / "store", made.survey)
    out, whole = tmp_path / "classes.csv", tmp_path / "whole.csv"
    assert run(made.path, tmp_path / "store", "--out", whole, "--chunk", "1") == 0
    command = [sys.executable, "-m", "margformer_fast.classify", str(made.path), str(tmp_path / "store")]
    command += ["--out", str(out), "--chunk", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    folder = tmp_path / ".classes.csv.classify"
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(folder.glob("*.npz"))) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = sorted(folder.glob("*.npz"))
    assert 3 <= len(done) < len(made.survey)
    assert not out.exists()
    # A piece whose file was damaged is done again.
    done[0].write_bytes(done[0].read_bytes()[:-40])
    assert (
        run(made.path, tmp_path / "store", "--out", out, "--chunk", "1", "--level", "0.8") == 1
    )  # other settings
    assert run(made.path, tmp_path / "store", "--out", out, "--chunk", "1") == 0
    assert out.read_text() == whole.read_text()
    assert not folder.exists()


def test_a_kill_after_the_last_write(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The output is there and so is the folder: the same command clears up, and says what it would have."""
    write_store(tmp_path / "store", made.survey)
    out, folder = tmp_path / "classes.fits", work_folder(tmp_path / "classes.fits")
    given = [made.path, tmp_path / "store", "--out", out]
    with monkeypatch.context() as patch:
        patch.setattr(Work, "remove", lambda _: None)
        assert run(*given) == 0
    said = capsys.readouterr().out
    written, before = out.stat().st_mtime_ns, out.read_bytes()
    for options, code in (((), 0), (("--level", "0.8"), 1)):
        if not folder.exists():
            with monkeypatch.context() as patch:
                patch.setattr(Work, "remove", lambda _: None)
                assert run(*given, "--overwrite") == 0
            written, before = out.stat().st_mtime_ns, out.read_bytes()
            capsys.readouterr()
        assert run(*given, *options) == code
        assert not folder.exists()
        assert (out.stat().st_mtime_ns, out.read_bytes()) == (written, before), "it is not written again"
        printed = capsys.readouterr()
        if code:
            assert "already exists" in printed.err
        else:
            assert printed.out.splitlines()[1:] == said.splitlines()[1:]  # the first has the rate
    shutil.copyfile(tmp_path / "store" / "catalog.fits", out)  # somebody else's by now
    folder.mkdir()
    (folder / "written.json").write_text('{"device": 1, "inode": 1, "mtime_ns": 1}')
    assert run(*given) == 1
    assert "already exists" in capsys.readouterr().err


def test_two_at_one_output_refuse_each_other(tmp_path: Path) -> None:
    with (
        open_work(tmp_path / "out.csv", {"level": 0.9}, {"date": "x"}),
        pytest.raises(OutputError, match="another process is at work"),
        open_work(tmp_path / "out.csv", {"level": 0.9}, {"date": "x"}),
    ):
        pass


def test_finished_pieces_are_of_one_input(tmp_path: Path) -> None:
    with pytest.raises(KeyError), open_work(tmp_path / "out.fits", {"input": 1}, {"date": "then"}):
        raise KeyError  # failed before its first piece: nothing is in the way of another input
    with open_work(tmp_path / "out.fits", {"input": 2}, {"date": "now"}) as work:
        assert work.record == {"date": "now"}
        work.save(0, {"flag": np.zeros(3, np.int32)})
    with open_work(tmp_path / "out.fits", {"input": 2}, {"date": "later"}) as work:
        assert work.record == {"date": "now"}
    with (
        pytest.raises(DataError, match="was begun with another input"),
        open_work(tmp_path / "out.fits", {"input": 3}, {}),
    ):
        pass


def test_stamps_in_every_form(rng: np.random.Generator) -> None:
    image = rng.normal(size=(4, 5, 8, 8)).astype(np.float32)
    shape = (5, 8, 8)
    forms = [
        image,
        list(image),
        [each.ravel().tolist() for each in image],
        [each.tolist() for each in image],
        [each.astype("<f4").tobytes() for each in image],
        np.array([None, *image], dtype=object)[1:],
    ]
    for form in forms:
        np.testing.assert_array_equal(stamps_of(form, shape), image)
    broken = stamps_of([None, image[0].ravel()[:-1], b"abc", "text", image[1]], shape)
    assert np.isnan(broken[:4]).all()
    np.testing.assert_array_equal(broken[4], image[1])


def test_pairs_of_names() -> None:
    with pytest.raises(ConfigError, match="NAME=COLUMN"):
        classify.main(["model", "input", "--out", "x.csv", "--columns", "objid"])


def test_positions_on_frames(made: Made, tmp_path: Path, real_data: Path) -> None:
    """A real field from frames and positions alone: what is on it is classified, what is not is kept."""
    from margformer_fast.data.sdss.catalogue import read_catalogue

    folder = real_data / "sdss" / "94-1-12"
    catalogue = read_catalogue(next(folder.glob("photoObj*")))
    rows = np.flatnonzero(catalogue.is_source & ~catalogue.is_parent)[:40]
    table = Table({"ra": catalogue.ra[rows], "dec": catalogue.dec[rows]})
    table.add_row((10.0, 20.0))
    table.write(tmp_path / "list.csv")
    arguments = [made.path, folder, "--positions", tmp_path / "list.csv", "--ebv", "0.07"]
    assert run(*arguments, "--out", tmp_path / "a.fits", "--draw", tmp_path / "field.png") == 0
    found = Table.read(tmp_path / "a.fits")
    assert sorted(found["objid"]) == list(range(41))
    nowhere = np.asarray(found["flag"]) & Flag.NOT_CLASSIFIED != 0
    assert found["objid"][nowhere].tolist()[-1] == 40
    assert nowhere.sum() < 8  # at most those at the edge
    assert (tmp_path / "field.png").read_bytes().startswith(b"\x89PNG")
    assert run(*arguments[:4], "--out", tmp_path / "b.fits") == 0  # extinction unknown: missing, and flagged
    assert ((np.asarray(Table.read(tmp_path / "b.fits")["flag"]) & Flag.FEATURE_MISSING) != 0).all()


def test_a_table_without_rows(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table_of(made)[:0].write(tmp_path / "empty.fits")
    assert run(made.path, tmp_path / "empty.fits", "--out", tmp_path / "a.fits") == 1
    assert "has no row" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir() if "a.fits" in each.name] == []


def test_a_damaged_page_of_parquet(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table, file = table_of(made), tmp_path / "table.parquet"
    columns = {name: pa.array(np.asarray(table[name])) for name in table.colnames if name != "stamp"}
    parquet.write_table(pa.table(columns), file, row_group_size=11)
    content = bytearray(file.read_bytes())
    content[4:400] = bytes(396)  # the first pages; the footer, which tells of columns, is whole
    file.write_bytes(content)
    assert run(made.path, file, "--out", tmp_path / "a.csv") == 1
    assert "table.parquet: is damaged" in capsys.readouterr().err
    assert not (tmp_path / "a.csv").exists()


def cut_outs(made: Made, folder: Path, layout: str) -> Path:
    """Write the stamps as files, and return what `classify` is given."""
    folder.mkdir()
    for objid, stamp in zip(made.survey.objid, made.survey.stamps.decode(), strict=True):
        if layout == "{id}.fits":
            fits.PrimaryHDU(stamp).writeto(folder / f"{objid}.fits")
        else:
            for band, plane in zip("ugriz", stamp, strict=True):
                fits.PrimaryHDU(plane).writeto(folder / f"{objid}-{band}.fits")
    return folder if layout == "{id}.fits" else folder / layout


@pytest.mark.parametrize("layout", ["{id}.fits", "{id}-{band}.fits"])
def test_cut_outs_and_a_table_of_their_features(made: Made, tmp_path: Path, layout: str) -> None:
    table = table_of(made)
    table.remove_column("stamp")
    table["deVRad_g"] /= 60  # in a unit of its own
    table["deVRad_g"].unit = "arcmin"
    table.write(tmp_path / "table.fits")
    given = cut_outs(made, tmp_path / "stamps", layout)
    arguments = (made.path, given, "--features", tmp_path / "table.fits", "--chunk", 7)
    assert run(*arguments, "--out", tmp_path / "a.ecsv") == 0
    same(Table.read(tmp_path / "a.ecsv"), made)


def test_no_object_of_cut_outs_or_of_their_table_is_lost(
    made: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = table_of(made)
    table.remove_column("stamp")
    table[:-2].write(tmp_path / "table.csv")  # two files have no row
    folder = cut_outs(made, tmp_path / "stamps", "{id}.fits")
    objid = made.survey.objid
    (folder / f"{objid[0]}.fits").unlink()
    (folder / f"{objid[1]}.fits").write_bytes(b"SIMPLE  =                    T")
    fits.PrimaryHDU(np.zeros((5, 16, 16), np.float32)).writeto(folder / f"{objid[2]}.fits", overwrite=True)
    arguments = (made.path, folder, "--features", tmp_path / "table.csv", "--out", tmp_path / "a.fits")
    with caplog.at_level("WARNING"):
        assert run(*arguments) == 0
    assert "2 of" in caplog.text
    assert f"{objid[1]}.fits" in caplog.text
    found = Table.read(tmp_path / "a.fits")
    assert sorted(found["objid"]) == sorted(objid)
    np.testing.assert_array_equal(found["objid"][:-2], objid[:-2])
    flag = dict(zip(found["objid"].tolist(), found["flag"].tolist(), strict=True))
    for k, name in enumerate(objid.tolist()):
        assert bool(flag[name] & Flag.NO_IMAGE) == (k < 3)
        assert bool(flag[name] & Flag.NO_FEATURES) == (k >= len(objid) - 2)
    # Without a table, and with names that are no numbers.
    (folder / f"{objid[3]}.fits").rename(folder / "a star.fits")
    assert run(made.path, folder, "--out", tmp_path / "b.csv") == 0
    alone = Table.read(tmp_path / "b.csv")
    assert "a star" in alone["objid"]
    assert len(alone) == len(objid) - 1
    assert ((np.asarray(alone["flag"]) & Flag.NO_FEATURES) != 0).all()


def test_cut_outs_that_do_not_fit(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "stamps"
    folder.mkdir()
    for name in "ab":
        fits.PrimaryHDU(np.zeros((5, 16, 16), np.float32)).writeto(folder / f"{name}.fits")
    assert run(made.path, folder, "--out", tmp_path / "a.csv") == 1
    assert "has 16 x 16 pixels; expected 32 x 32, as the model was trained on" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="--features goes with cut-outs"):
        classify.main(["simulated-sg", str(folder), "--out", "a", "--features", "b", "--positions", "c"])
    for name in "abc":  # a file a band, given as if each were an object; one is damaged besides
        content = fits.PrimaryHDU(np.zeros((32, 32), np.float32))
        content.writeto(folder / f"{name}.fits", overwrite=True)
    (folder / "a.fits").write_bytes(b"junk")
    assert run(made.path, folder, "--out", tmp_path / "a.csv") == 1
    assert "there are 1 planes" in capsys.readouterr().err
    table_of(made)["objid", "ra", "dec", *made.survey.profile.feature_names].write(tmp_path / "table.csv")
    arguments = (made.path, folder, "--out", tmp_path / "a.csv", "--features", tmp_path / "table.csv")
    assert run(*arguments) == 1
    assert "names none of the 3 cut-outs" in capsys.readouterr().err
    frames = tmp_path / "frames"
    frames.mkdir()
    (frames / "frame-r-000094-1-0012.fits.bz2").touch()
    assert run(made.path, frames, "--out", tmp_path / "a.csv") == 1
    assert "SDSS frames need --positions" in capsys.readouterr().err
    assert not (tmp_path / "a.csv").exists()
