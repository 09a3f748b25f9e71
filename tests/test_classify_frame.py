"""`classify_frame` as LSDB, Dask and Spark call it: types, indices, empty frames, one model a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_classifier import Made
from test_classify_command import run, table_of

from margformer_fast import Classifier, classify_frame, classify_meta

pd = pytest.importorskip("pandas")


@pytest.fixture
def made(tmp_path: Path, rng: np.random.Generator) -> Made:
    return Made(tmp_path / "made", rng)


def frame_of(made: Made) -> pd.DataFrame:
    table = table_of(made)
    columns = {name: np.asarray(table[name]) for name in table.colnames if name != "stamp"}
    columns["stamp"] = [each.astype("<f4").tobytes() for each in table["stamp"]]
    return pd.DataFrame(columns)


def test_a_frame_is_classified_as_arrays_are(made: Made, rng: np.random.Generator) -> None:
    frame = frame_of(made)
    frame.index = pd.Index(rng.permutation(1000)[: len(frame)], name="_healpix_29")
    found = classify_frame(frame, model=made.path)
    expected = Classifier.load(made.path).classify(table_of(made))
    assert found.index.equals(frame.index)
    assert found.index.name == "_healpix_29"
    np.testing.assert_allclose(found["p_star"], expected["p_star"], atol=2e-6)
    assert found["label"].tolist() == list(expected["label"])
    meta = classify_meta(made.path)
    assert (found.dtypes == meta.dtypes).all()
    assert len(meta) == 0
    empty = classify_frame(frame.iloc[:0], model=made.path)
    assert (empty.dtypes == meta.dtypes).all()
    assert empty.index.name == "_healpix_29"
    # In any parts, as partitions come.
    parts = pd.concat([classify_frame(part, model=made.path) for part in (frame[:3], frame[3:4], frame[4:])])
    pd.testing.assert_frame_equal(parts, found, atol=1e-5)


def test_a_model_is_read_once(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    load = Classifier.load
    monkeypatch.setattr(Classifier, "load", lambda *a, **k: reads.append(a) or load(*a, **k))
    frame = frame_of(made)
    for _ in range(3):
        classify_frame(frame, model=made.path)
    assert len(reads) == 1


@pytest.fixture
def hats_catalogue(made: Made, tmp_path: Path, rng: np.random.Generator) -> Path:
    """The survey spread over the sky as a HATS catalogue of some partitions."""
    lsdb = pytest.importorskip("lsdb")
    pytest.importorskip("hats")
    frame = frame_of(made)
    frame["ra"], frame["dec"] = rng.uniform(0, 360, len(frame)), rng.uniform(-80, 80, len(frame))
    catalogue = lsdb.from_dataframe(
        frame, ra_column="ra", dec_column="dec", lowest_order=1, highest_order=3, partition_rows=10
    )
    catalogue.to_hats(tmp_path / "sky", catalog_name="sky")
    return tmp_path / "sky"


@pytest.mark.filterwarnings("ignore")
def test_lsdb_and_the_command_agree(made: Made, hats_catalogue: Path, tmp_path: Path) -> None:
    import lsdb

    catalogue = lsdb.open_catalog(hats_catalogue)
    lazy = catalogue.map_partitions(classify_frame, model=str(made.path), meta=classify_meta(made.path))
    found = lazy.compute().sort_values("objid")
    assert len(found) == len(made.survey)
    assert run(made.path, hats_catalogue, "--out", tmp_path / "classes") == 0
    written = lsdb.open_catalog(tmp_path / "classes")
    again = written.compute().sort_values("objid")
    np.testing.assert_array_equal(again["objid"], made.survey.objid)
    np.testing.assert_allclose(again["p_star"].to_numpy(float), found["p_star"].to_numpy(float), atol=2e-6)
    assert again["label"].tolist() == found["label"].tolist()
    # It is a catalogue: a search by place finds what is there.
    ra, dec = float(again["ra"].iloc[0]), float(again["dec"].iloc[0])
    near = written.cone_search(ra, dec, radius_arcsec=1).compute()
    assert again["objid"].iloc[0] in near["objid"].tolist()


@pytest.mark.filterwarnings("ignore")
def test_a_hats_run_killed_and_begun_again(made: Made, hats_catalogue: Path, tmp_path: Path) -> None:
    import lsdb

    command = [sys.executable, "-m", "margformer_fast.classify", str(made.path), str(hats_catalogue)]
    command += ["--out", str(tmp_path / "classes")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    folder = tmp_path / ".classes.classify"
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(folder.glob("*.npz")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run(made.path, hats_catalogue, "--out", tmp_path / "classes", "--overwrite") == 0
    found = lsdb.open_catalog(tmp_path / "classes").compute()
    assert sorted(found["objid"].tolist()) == made.survey.objid.tolist()
    # An older catalogue is replaced, when told to; a folder of something else never.
    (tmp_path / "classes" / "old").touch()
    assert run(made.path, hats_catalogue, "--out", tmp_path / "classes", "--overwrite") == 0
    assert not (tmp_path / "classes" / "old").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").touch()
    assert run(made.path, hats_catalogue, "--out", tmp_path / "mine", "--overwrite") == 1
    assert (tmp_path / "mine" / "thesis").exists()
    assert not [each.name for each in tmp_path.iterdir() if each.name.startswith(".")]
