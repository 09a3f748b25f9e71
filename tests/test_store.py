"""The survey store: what goes in comes out, it is plain FITS, and everything wrong with it is found."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import tracemalloc
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from toy import toy_survey

from margformer_fast.data.manifest import CATALOG, MANIFEST, SCHEMA
from margformer_fast.data.store import (
    StoreWriter,
    is_store,
    read_manifest,
    read_store,
    verify_store,
    write_store,
)
from margformer_fast.data.survey import CLASSES, LSST, PROFILES, SDSS, Survey, SurveyProfile
from margformer_fast.errors import ConfigError, DataError, OutputError
from margformer_fast.files import sha256_file
from margformer_fast.ops.stamps import Stamps


def make_survey(rng: np.random.Generator, n: int, profile: SurveyProfile = SDSS) -> Survey:
    """Objects of no meaning with every kind of column."""
    bands, size = len(profile.bands), profile.stamp_size
    return Survey(
        profile=profile,
        objid=rng.choice(2**62, n, replace=False) * rng.choice([-1, 1], n),
        ra=np.where(rng.random(n) < 0.2, np.nan, rng.uniform(0, 360, n)),
        dec=rng.uniform(-90, 90, n),
        label=rng.integers(-1, len(CLASSES), n).astype(np.int8),
        features=rng.normal(size=(n, profile.num_features)),
        stamps=Stamps((rng.normal(size=(n, bands, size, size)).astype(np.float32),)),
        simulated=bool(rng.integers(2)),
        provenance={"seed": 5, "nested": {"list": [1, "two", None]}},
        columns={
            "sample": rng.integers(-3, 3, n).astype(np.int16),
            "count": rng.integers(0, 2**32, n).astype(np.uint32),
            "field": np.array([f"{94 + k}-1-{k * k}" for k in range(n)]),
            "clean": rng.random(n) < 0.5,
            "z": rng.normal(size=n).astype(np.float32),
        },
    )


def assert_same(found: Survey, expected: Survey) -> None:
    for name in ("objid", "ra", "dec", "label", "features"):
        mine, theirs = getattr(found, name), getattr(expected, name)
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    assert set(found.columns) == set(expected.columns)
    for name, column in expected.columns.items():
        np.testing.assert_array_equal(found.columns[name], column)
        assert found.columns[name].dtype.isnative
    np.testing.assert_array_equal(found.stamps.decode(), expected.stamps.decode())
    assert found.profile == expected.profile
    assert found.simulated is expected.simulated
    assert found.provenance == expected.provenance


@pytest.fixture
def store(tmp_path, rng) -> Path:
    """A small sound store of two image files."""
    path = tmp_path / "survey"
    survey = toy_survey(9, rng, classes=(0, 1, 2))
    with StoreWriter(path, SDSS, name="toy", simulated=True, provenance={}, shard_size=5) as writer:
        writer.append(survey)
    return path


def reseal(path: Path, **changes: object) -> None:
    """Bring the manifest in line with the files as they are now, as somebody who tampers would."""
    manifest = json.loads((path / MANIFEST).read_text())
    for entry in [*manifest["stamps"], manifest["catalog"]]:
        entry["bytes"] = (path / entry["file"]).stat().st_size
        entry["sha256"] = sha256_file(path / entry["file"])
    manifest.update(changes)
    (path / MANIFEST).write_text(json.dumps(manifest))


def rewrite_catalog(path: Path, change, **changes: object) -> None:
    """Let `change` have the table of a store, and reseal it."""
    with fits.open(path / CATALOG, memmap=False) as hdus:
        table = fits.BinTableHDU(change(hdus[1].data), name="CATALOG")
    table.writeto(path / CATALOG, overwrite=True)
    reseal(path, **changes)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_what_goes_in_comes_out(tmp_path, rng, profile):
    survey = make_survey(rng, 23, profile)
    path = tmp_path / "deep" / "survey"
    write_store(path, survey)
    assert is_store(path)
    assert_same(read_store(path), survey)
    check = verify_store(path)
    assert check.ok
    assert check.problems == ()
    assert check.manifest.count == 23
    assert check.manifest.name == "survey"


def test_chunks_and_shards_are_cut_independently(tmp_path, rng):
    survey = make_survey(rng, 50)
    cuts = [0, *np.sort(rng.integers(0, 50, 4)).tolist(), 50]
    shard_size = int(rng.integers(1, 20))
    with StoreWriter(
        tmp_path / "s",
        SDSS,
        name="s",
        simulated=survey.simulated,
        provenance=survey.provenance,
        shard_size=shard_size,
    ) as writer:
        for start, stop in itertools.pairwise(cuts):
            writer.append(survey.select(np.arange(start, stop)))
    assert_same(read_store(tmp_path / "s"), survey)
    counts = [entry.count for entry in read_manifest(tmp_path / "s").stamps]
    assert sum(counts) == 50
    assert set(counts[:-1]) <= {shard_size}
    assert verify_store(tmp_path / "s").ok


def test_any_layout_of_stamps_can_be_stored(tmp_path, rng):
    survey = make_survey(rng, 8)
    last = Stamps.channel_last(survey.stamps.decode().transpose(0, 2, 3, 1).astype(">f8").copy())
    rows = rng.permutation(8)
    write_store(tmp_path / "s", replace(survey, stamps=last).select(rows))
    assert_same(read_store(tmp_path / "s"), survey.select(rows))


def test_a_store_of_a_store(tmp_path, rng):
    survey = make_survey(rng, 12)
    write_store(tmp_path / "a", survey)
    half = read_store(tmp_path / "a").select(np.arange(0, 12, 2))
    write_store(tmp_path / "a", half, overwrite=True)  # over the one that it is read from
    assert_same(read_store(tmp_path / "a"), survey.select(np.arange(0, 12, 2)))


def test_pixels_are_read_where_they_lie(store):
    survey = read_store(store)
    assert [part.dtype for part in survey.stamps.parts] == [np.dtype(">f4")] * 2
    assert not survey.stamps.parts[0].flags.owndata
    assert not survey.stamps.parts[0].flags.writeable


def test_astropy_finds_nothing_wrong_with_the_files(store):
    survey = read_store(store)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fits.open(store / "stamps-00001.fits") as hdus:
            hdus.verify("exception")
            header = hdus[0].header
            assert hdus[0].data.shape == (4, 5, 32, 32)
            np.testing.assert_array_equal(hdus[0].data, survey.stamps.decode(np.arange(5, 9)))
        with fits.open(store / CATALOG) as hdus:
            hdus.verify("exception")
            table = hdus[1].data
            units = {column.name: column.unit for column in hdus[1].columns}
            assert table["class"].tolist() == [CLASSES[k] for k in survey.label]
            np.testing.assert_array_equal(table["objid"], survey.objid)
            np.testing.assert_array_equal(table["u_g"], survey.features[:, 20])
            np.testing.assert_array_equal(table["r_obs"], survey.r_obs)
    assert (header["BUNIT"], header["BANDS"], header["PIXSCALE"]) == ("nanomaggy", "ugriz", 0.396)
    assert (header["MAGZERO"], header["SIMULATE"], header["SURVEY"]) == (22.5, True, "sdss")
    assert len(header["DATE"]) == 19
    assert (units["ra"], units["dec"], units["objid"], units["class"]) == ("deg", "deg", None, None)
    assert {units[name] for name in SDSS.feature_names if name.startswith(("deVRad", "psffwhm"))} == {
        "arcsec"
    }
    assert {units[name] for name in SDSS.feature_names if name.startswith(("dered", "ext", "u_", "g_"))} == {
        "mag"
    }
    for file in store.glob("*.fits"):
        assert file.stat().st_size % 2880 == 0


def test_the_manifest_says_what_the_store_is(tmp_path, rng):
    survey = make_survey(rng, 30, LSST)
    write_store(tmp_path / "s", survey)
    raw = json.loads((tmp_path / "s" / MANIFEST).read_text())
    assert (raw["schema"], raw["schema_version"], raw["count"]) == (SCHEMA, 1, 30)
    assert raw["units"] == {"pixel": "nJy", "position": "deg", "magnitude": "mag", "radius": "arcsec"}
    names = [*CLASSES, "UNKNOWN"]
    assert raw["counts"] == {name: sum(names[k] == name for k in survey.label) for name in names}
    for entry in [*raw["stamps"], raw["catalog"]]:
        assert entry["sha256"] == sha256_file(tmp_path / "s" / entry["file"])
    assert read_manifest(tmp_path / "s").profile == LSST


def test_memory_is_that_of_a_block(tmp_path, rng):
    """Ten thousand stamps of 20 kB are written from one read-only buffer, and need far less than 200 MB."""
    n = 10_000
    survey = toy_survey(100, rng)
    stamp = survey.stamps.parts[0][:1]
    many = replace(
        survey.select(np.resize(np.arange(100), n)),
        objid=np.arange(n),
        stamps=Stamps((np.broadcast_to(stamp, (n, *stamp.shape[1:])),)),
    )
    tracemalloc.start()
    try:
        write_store(tmp_path / "s", many)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(file.stat().st_size for file in (tmp_path / "s").iterdir()) > 200e6
    assert peak < 80e6


# What cannot be stored


def write_chunks(path: Path, *chunks: Survey, **provenance: object) -> None:
    """Write a store from chunks, with provenance that is known at the end."""
    with StoreWriter(path, SDSS, name="s", simulated=True, provenance={}) as writer:
        for chunk in chunks:
            writer.append(chunk)
        writer.provenance.update(provenance)


def test_provenance_may_come_late(tmp_path, rng):
    write_chunks(tmp_path / "s", toy_survey(3, rng), drawn=7)
    assert read_store(tmp_path / "s").provenance == {"drawn": 7}


def test_chunks_that_do_not_belong_are_refused(tmp_path, rng):
    survey = toy_survey(6, rng)
    cases = [
        (
            make_survey(rng, 3, LSST),
            r"objects of survey 'lsst' \(bands ugrizy\) come; expected the profile of 'sdss'",
        ),
        (replace(survey, simulated=False), "simulated and real objects are mixed"),
        (
            replace(survey, columns={"more": np.zeros(6)}),
            r"objects come with columns \['more'\]; expected \[\]",
        ),
        (
            replace(survey, label=np.full(6, 3, np.int8)),
            r"labels of 6 objects \(1, 2, 3, 4, 5, ...\) are no class",
        ),
        (replace(survey, dec=survey.dec + 91), "dec of 6 objects .* is outside -90 to 90 degrees"),
        (replace(survey, objid=survey.objid.astype(float)), "column 'objid' is float64; expected int64"),
        (replace(survey, objid=survey.objid.astype(np.uint64)), "column 'objid' is uint64; expected int64"),
    ]
    for wrong, message in cases:
        with pytest.raises(DataError, match=message):
            write_chunks(tmp_path / "s", toy_survey(2, rng, objid_from=100), wrong)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(tmp_path, rng, value):
    survey = toy_survey(2000, rng)
    k = int(rng.integers(2000))
    survey.stamps.parts[0][k, rng.integers(5), rng.integers(32), rng.integers(32)] = value
    with pytest.raises(
        DataError, match=rf"stamps of 1 object \({survey.objid[k]}\) have NaN or infinite pixels"
    ):
        write_store(tmp_path / "s", survey)
    survey = toy_survey(4, rng)
    survey.features[2, 21] = value
    with pytest.raises(DataError, match=r"feature g_r of 1 object \(3\) is not finite"):
        write_store(tmp_path / "s", survey)
    assert list(tmp_path.iterdir()) == []


def test_repeated_identifiers_are_refused_across_chunks(tmp_path, rng):
    with pytest.raises(DataError, match=r"objid of 2 objects \(3, 4\) comes more than once"):
        write_chunks(tmp_path / "s", toy_survey(4, rng), toy_survey(4, rng, objid_from=3))
    assert list(tmp_path.iterdir()) == []


def test_a_store_needs_objects(tmp_path, rng):
    with pytest.raises(DataError, match="there are no objects to store"):
        write_store(tmp_path / "s", toy_survey(3, rng).select(np.arange(0)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": np.zeros(3, np.uint64)}, "column 'x' of type uint64 cannot be written to FITS"),
        ({"x": np.array([None, 1, "a"])}, "column 'x' of type object cannot be written to FITS"),
        (
            {"x": np.array(["a", "b", "\N{GREEK SMALL LETTER BETA}"])},
            "column 'x' holds .*; expected ASCII text",
        ),
        ({"DERED_U": np.zeros(3)}, "two columns are called 'DERED_U'"),
        ({"objid": np.zeros(3)}, "two columns are called 'objid'"),
    ],
)
def test_columns_that_fits_cannot_hold_are_refused(tmp_path, rng, columns, message):
    with pytest.raises(DataError, match=message):
        write_store(tmp_path / "s", replace(toy_survey(3, rng), columns=columns))
    assert list(tmp_path.iterdir()) == []


def test_provenance_that_json_cannot_hold_is_refused(tmp_path, rng):
    for bad in ({"a": np.zeros(2)}, {"a": float("nan")}):
        with pytest.raises(DataError, match="the provenance cannot be written as JSON"):
            write_store(tmp_path / "s", replace(toy_survey(3, rng), provenance=bad))
    with pytest.raises(DataError, match="the provenance cannot be written as JSON"):
        write_chunks(tmp_path / "s", toy_survey(3, rng), late=object())
    assert list(tmp_path.iterdir()) == []


def test_shards_need_a_size(tmp_path):
    with pytest.raises(ConfigError, match="the shard size is 0; expected 1 or more"):
        StoreWriter(tmp_path / "s", SDSS, name="s", simulated=True, provenance={}, shard_size=0)


def test_only_a_store_is_overwritten(tmp_path, rng):
    survey = toy_survey(3, rng)
    home = tmp_path / "home"
    home.mkdir()
    write_store(home, survey, overwrite=True)  # empty: nothing is lost
    with pytest.raises(OutputError, match="already exists"):
        write_store(home, survey)
    write_store(home, survey.select(np.arange(2)), overwrite=True)
    assert len(read_store(home)) == 2
    (home / MANIFEST).unlink()
    with pytest.raises(OutputError, match="holds something else than a survey store, and is not replaced"):
        write_store(home, survey, overwrite=True)
    assert (home / CATALOG).exists()


# What goes wrong while writing


def test_a_full_disk_leaves_nothing(rng):
    """On a real file system of two megabytes, at every size from nothing to all that fits."""
    root = Path("/tmp") / f"margformer-test-{os.getpid()}"
    root.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", root], check=False, capture_output=True, text=True
    )
    if mount.returncode:
        root.rmdir()
        pytest.skip(f"no small file system can be mounted: {mount.stderr.strip()}")
    try:
        survey = make_survey(rng, 300)
        write_store(root / "fits", survey.select(np.arange(20)))
        for n in (300, 95, 90):
            with pytest.raises(OutputError, match="cannot be written: No space left on device"):
                write_store(root / "s", survey.select(np.arange(n)))
            assert [path.name for path in root.iterdir()] == ["fits"]
        assert verify_store(root / "fits").ok
    finally:
        subprocess.run(["umount", root], check=True)
        root.rmdir()


def test_a_disk_that_fills_up_late_leaves_nothing(tmp_path, rng, monkeypatch):
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_store(tmp_path / "s", toy_survey(3, rng))
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match=r"s: cannot be written: No space left on device\. Free some space"):
        write_store(tmp_path / "s", toy_survey(4, rng), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    assert len(read_store(tmp_path / "s")) == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("a frame is damaged"), ZeroDivisionError()])
def test_a_broken_block_leaves_nothing_and_keeps_its_error(tmp_path, rng, error):
    def attempt() -> None:
        with StoreWriter(
            tmp_path / "s", SDSS, name="s", simulated=True, provenance={}, shard_size=2
        ) as writer:
            writer.append(toy_survey(5, rng))
            raise error

    with pytest.raises(type(error)) as caught:
        attempt()
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys, time
import numpy as np
sys.path.insert(0, sys.argv[2])
from toy import toy_survey
from margformer_fast.data.store import StoreWriter
from margformer_fast.data.survey import SDSS
with StoreWriter(sys.argv[1], SDSS, name="s", simulated=True, provenance={}, shard_size=3) as writer:
    writer.append(toy_survey(10, np.random.default_rng(0)))
    print("half way", flush=True)
    time.sleep(600)
"""


def test_killed_half_way_leaves_no_store_and_the_next_one_clears_up(tmp_path, rng):
    path = tmp_path / "s"
    command = [sys.executable, "-c", KILLED, path, Path(__file__).parent]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "half way\n"
        finally:
            child.send_signal(signal.SIGKILL)
    (left,) = tmp_path.iterdir()
    assert left.name == ".s.part"
    assert not is_store(path)
    assert not is_store(left)
    write_store(path, toy_survey(3, rng))
    assert list(tmp_path.iterdir()) == [path]


# What is wrong with a store that is there


def test_what_is_no_store(tmp_path, store):
    assert not is_store(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"nothing: is no directory; expected a survey store"):
        read_store(tmp_path / "nothing")
    (store / MANIFEST).unlink()
    for read in (read_store, read_manifest, verify_store):
        with pytest.raises(DataError, match=r"is no survey store: survey\.json is missing"):
            read(store)
    assert not is_store(store)
    for content in ("{", "[1, 2]", '{"schema": "something else"}'):
        (store / MANIFEST).write_text(content)
        assert not is_store(store)
        with pytest.raises(DataError, match=r"survey\.json: does not (hold JSON|describe a survey store)"):
            read_store(store)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, r"schema version 2; expected 1\. Read it with the version"),
        ({"simulated": "yes"}, r"an entry is of the wrong kind \('yes' is no bool\)"),
        ({"profile": {"name": "sdss"}}, "entry 'bands' is missing"),
        ({"stamps": 3}, "an entry is of the wrong kind"),
        ({"stamps": []}, "the store lists 0 stamps; expected 9"),
        ({"counts": None}, "an entry is of the wrong kind"),
        ({"provenance": []}, "an entry is of the wrong kind"),
        (
            {"catalog": {"file": "/etc/passwd", "count": 9, "bytes": 1, "sha256": ""}},
            "the store lists files .*passwd",
        ),
        (
            {"catalog": {"file": "catalog.fits", "count": 8, "bytes": 1, "sha256": ""}},
            "lists 9 stamps; expected 8",
        ),
        ({"catalog": {"file": "catalog.fits"}}, "entry 'count' is missing"),
    ],
)
def test_bad_manifests(store, change, message):
    raw = json.loads((store / MANIFEST).read_text())
    (store / MANIFEST).write_text(json.dumps({**raw, **change}))
    with pytest.raises(DataError, match=message) as caught:
        read_store(store)
    assert str(caught.value).startswith(f"{store / MANIFEST}: ")


def test_a_profile_with_a_foreign_reference_band(store):
    raw = json.loads((store / MANIFEST).read_text())
    raw["profile"]["reference_band"] = "y"
    (store / MANIFEST).write_text(json.dumps(raw))
    with pytest.raises(DataError, match="reference band 'y' is none of ugriz"):
        read_store(store)


@pytest.mark.parametrize("file", ["stamps-00000.fits", "stamps-00001.fits", CATALOG])
def test_missing_and_truncated_files(store, file):
    content = (store / file).read_bytes()
    for length in (0, 100, 2880, len(content) - 1):
        (store / file).write_bytes(content[:length])
        with pytest.raises(DataError, match=rf"{file}: has {length:,} bytes; expected {len(content):,}"):
            read_store(store)
        (problem,) = verify_store(store).problems
        assert problem == f"{file}: has {length:,} bytes; expected {len(content):,}"
    (store / file).unlink()
    with pytest.raises(DataError, match=rf"{file}: is missing\. Copy or make the store again"):
        read_store(store)
    assert verify_store(store).problems == (f"{file}: is missing",)


def test_a_single_changed_bit_is_found(store, rng):
    file = store / "stamps-00001.fits"
    content = bytearray(file.read_bytes())
    content[int(rng.integers(2880, 2880 + 4 * 20480))] ^= 1  # the lowest bits of a pixel are as good as any
    file.write_bytes(content)
    read_store(store)
    problems = verify_store(store).problems
    assert problems[0].startswith("stamps-00001.fits: its SHA-256 is not the one in survey.json")


def test_nan_stamps_are_found(store):
    for file, row in (("stamps-00000.fits", 1), ("stamps-00001.fits", 3)):
        with fits.open(store / file, mode="update") as hdus:
            hdus[0].data[row, 2, 5, 6] = np.nan
    reseal(store)
    assert verify_store(store).problems == ("stamps of 2 objects (2, 9) have NaN or infinite pixels",)


def test_bad_rows_are_found(store):
    def change(table):
        table["objid"][4] = table["objid"][2]
        table["psffwhm_z"][7] = np.inf
        table["ra"][0] = 361
        table["class"][1] = "UNKNOWN"
        return table

    before = read_store(store)
    rewrite_catalog(store, change)
    problems = verify_store(store).problems
    assert "feature psffwhm_z of 1 object (8) is not finite" in problems
    assert "ra of 1 object (1) is outside 0 to 360 degrees" in problems
    assert "objid of 1 object (3) comes more than once" in problems
    assert "1 objects of class UNKNOWN; expected 0, as in survey.json" in problems
    was = CLASSES[before.label[1]]
    assert f"{sum(before.label == before.label[1]) - 1} objects of class {was}; expected" in " ".join(
        problems
    )
    assert len(problems) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table[:-1], "the table has 8 rows; expected 9, as many as stamps"),
        (
            lambda table: fits.FITS_rec.from_columns([c for c in table.columns if c.name != "dered_i"]),
            "column 'dered_i' is missing; expected objid, ra, dec, class, dered_u",
        ),
        (
            lambda table: fits.FITS_rec.from_columns(
                [fits.Column("objid", "D", array=table["objid"]), *list(table.columns)[1:]]
            ),
            "column 'objid' is float64; expected int64",
        ),
    ],
)
def test_catalogues_that_do_not_fit(store, change, message):
    rewrite_catalog(store, change)
    with pytest.raises(DataError, match=message):
        read_store(store)
    (problem,) = verify_store(store).problems
    assert message in problem


def test_an_unknown_class(store):
    def change(table):
        table["class"][3] = "COMET"
        return table

    rewrite_catalog(store, change)
    message = r"catalog\.fits, row 3: class 'COMET' is not known; expected GALAXY \| QSO \| STAR \| UNKNOWN"
    with pytest.raises(DataError, match=message):
        read_store(store)
    assert len(verify_store(store).problems) == 1


def test_images_that_do_not_fit(store):
    file = store / "stamps-00001.fits"
    original = fits.getdata(file)
    for data, found in (
        (original[:, :4], r"float32 of shape \(4, 4, 32, 32\)"),
        (original[:3], r"float32 of shape \(3, 5, 32, 32\)"),
        (original.astype(">f8"), r"float64 of shape \(4, 5, 32, 32\)"),
    ):
        fits.writeto(file, data, overwrite=True)
        reseal(store)
        message = rf"stamps-00001\.fits: the image is {found}; expected float32 of shape \(4, 5, 32, 32\)"
        with pytest.raises(DataError, match=message):
            read_store(store)
    fits.writeto(file, original, overwrite=True)
    reseal(store)
    with pytest.raises(DataError, match=r"BANDS is None; expected 'ugriz'"):
        read_store(store)


def test_files_that_are_no_fits(store):
    for file in ("stamps-00000.fits", CATALOG):
        content = (store / file).read_bytes()
        (store / file).write_bytes(bytes(len(content)))
        reseal(store)
        with pytest.raises(DataError, match=file):
            read_store(store)
        assert len(verify_store(store).problems) == 1
        (store / file).write_bytes(content)


def test_progress_counts_every_stamp(tmp_path, rng):
    write_store(tmp_path / "s", toy_survey(2100, rng))
    seen: list[int] = []
    assert verify_store(tmp_path / "s", progress=seen.append).ok
    assert sum(seen) == 2100
    assert len(seen) > 1
