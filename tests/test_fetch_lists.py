"""Addresses of the archive's files, and lists of objects: published ones, users' own, and hostile ones."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from margformer_fast.data.fetch.archive import RELEASES, Archive, FieldId
from margformer_fast.data.fetch.journal import Journal
from margformer_fast.data.fetch.plan import CATALOGUE_BYTES, FRAME_BYTES, PSFIELD_BYTES, Plan
from margformer_fast.data.fetch.targets import (
    Targets,
    parse_fields,
    read_classes,
    read_objids,
    read_positions,
)
from margformer_fast.data.sdss.files import CATALOGUE_NAME, FRAME_NAME, PSFIELD_NAME
from margformer_fast.data.sdss.objid import decode, encode
from margformer_fast.errors import ConfigError, DataError

GOOD = encode(94, 1, 12, np.arange(1, 6))


def test_addresses():
    field = FieldId(94, 1, 12)
    expected = {
        8: "https://data.sdss.org/sas/dr8/groups/boss",
        9: "https://data.sdss.org/sas/dr9/boss",
        12: "https://data.sdss.org/sas/dr12/boss",
        13: "https://data.sdss.org/sas/dr13/eboss",
        16: "https://data.sdss.org/sas/dr16/eboss",
        17: "https://data.sdss.org/sas/dr17/eboss",
    }
    for release, root in expected.items():
        archive = Archive(release)
        assert archive.frame(field, "u").url == (
            f"{root}/photoObj/frames/301/94/1/frame-u-000094-1-0012.fits.bz2"
        )
        assert archive.catalogue(field).url == f"{root}/photoObj/301/94/1/photoObj-000094-1-0012.fits"
        assert archive.psfield(field).url == (f"{root}/photo/redux/301/94/objcs/1/psField-000094-1-0012.fit")
    assert Archive(16, "http://mirror/sas/").frame(FieldId(8162, 6, 104), "z").url == (
        "http://mirror/sas/dr16/eboss/photoObj/frames/301/8162/6/frame-z-008162-6-0104.fits.bz2"
    )


@pytest.mark.parametrize("release", RELEASES)
def test_files_are_named_as_they_are_read(release, rng):
    run, camcol, number = int(rng.integers(94, 8163)), int(rng.integers(1, 7)), int(rng.integers(11, 1000))
    files = Archive(release).files(FieldId(run, camcol, number), psfield=True)
    patterns = [CATALOGUE_NAME, *[FRAME_NAME] * 5, PSFIELD_NAME]
    for remote, pattern in zip(files, patterns, strict=True):
        name = pattern.fullmatch(remote.name)
        assert (int(name["run"]), int(name["camcol"]), int(name["field"])) == (run, camcol, number)
        assert remote.url.endswith(f"/{remote.name}")
        assert f"/dr{release}/" in remote.url
    assert [FRAME_NAME.fullmatch(r.name)["band"] for r in files[1:6]] == list("ugriz")
    assert len(Archive(release).files(FieldId(run, camcol, number), psfield=False)) == 6
    assert f"/dr{release}/" in Archive(release).sql_endpoint


def test_archives_that_are_none():
    for release in (7, 18):
        with pytest.raises(ConfigError, match=f"data release {release} is not known; expected 8 to 17"):
            Archive(release)
    for address in ("data.sdss.org", "file:///etc", "ftp://x", ""):
        with pytest.raises(ConfigError, match=r"--base-url: .* is no address"):
            Archive(16, address)
    with pytest.raises(ConfigError, match="--sql-url: 'file:///etc/passwd' is no address"):
        Archive(16, sql_url="file:///etc/passwd")


@pytest.mark.parametrize("name", ["exp1", "exp2", "sgq_exp3"])
def test_published_lists(real_data, name):
    """They decode, fall into their fields without loss, and encode to themselves."""
    folder = real_data / "margnet"
    objid, label = read_objids(folder / f"objlist_{name}.npy")
    assert label is None
    targets = Targets.make(objid, read_classes(folder / f"y_{name}.npy", len(objid)))
    assert len(targets) == len(objid)
    counts = {
        "exp1": [79_999, 80_000, 80_000],
        "exp2": [50_000, 50_000, 49_996],
        "sgq_exp3": [9511, 9510, 9511],
    }
    assert np.bincount(targets.label).tolist() == counts[name]
    fields = targets.by_field()
    assert len(fields) == {"exp1": 138_475, "exp2": 107_882, "sgq_exp3": 26_752}[name]
    np.testing.assert_array_equal(np.sort(np.concatenate(list(fields.values()))), np.sort(objid))
    for field, ids in itertools.islice(fields.items(), 0, None, 997):
        parts = decode(ids)
        again = encode(field.run, field.camcol, field.field, parts.id, rerun=field.rerun)
        np.testing.assert_array_equal(again, ids)
    assert list(fields) == sorted(fields)


def test_sizes_are_those_of_real_files(real_data):
    folders = [real_data / "sdss" / name for name in ("94-1-12", "1035-6-17", "1043-5-25")]
    sizes = [path.stat().st_size for folder in folders for path in folder.glob("frame-*.bz2")]
    assert len(sizes) == 15
    assert round(sum(sizes) / 15) == FRAME_BYTES
    import gzip

    with gzip.open(folders[0] / "photoObj-000094-1-0012.fits.gz") as file:
        assert len(file.read()) == CATALOGUE_BYTES
    with gzip.open(folders[0] / "psField-000094-1-0012.fit.gz") as file:
        assert len(file.read()) == PSFIELD_BYTES


def test_lists_of_identifiers(tmp_path, rng):
    ids = GOOD[rng.permutation(5)]
    np.save(tmp_path / "a.npy", ids)
    np.save(tmp_path / "b.npy", ids.astype(">u8"))
    (tmp_path / "c.txt").write_text("# mine\n" + "\n".join(map(str, ids)) + "\n\n")
    (tmp_path / "d.csv").write_text("ra,ObjID\n" + "".join(f"1.5,{i}\n" for i in ids))
    (tmp_path / "e.csv").write_bytes(
        b"\xef\xbb\xbfobjid , z\r\n" + "".join(f" {i} ,2\r\n" for i in ids).encode()
    )
    (tmp_path / "f.txt").write_text("objid z\n" + "".join(f"{i}  2\n" for i in ids))
    for path in sorted(tmp_path.iterdir()):
        objid, label = read_objids(path)
        np.testing.assert_array_equal(objid, ids, err_msg=path.name)
        assert objid.dtype == np.int64
        assert label is None
    (tmp_path / "g.csv").write_text(
        "objid,class\n"
        + "".join(f"{i},{c}\n" for i, c in zip(ids, ["STAR", "QSO", "galaxy", "UNKNOWN", ""], strict=True))
    )
    objid, label = read_objids(tmp_path / "g.csv")
    assert label.tolist() == [2, 1, 0, -1, -1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the list is empty"),
        (b"objid\n", "the list is empty"),
        (
            b"1.237645876861337e+18\n",
            "is no object identifier; expected a whole number of 19 digits. It was rounded",
        ),
        (b"objid\n1237645876861337601.0\n", "line 2: '1237645876861337601.0' is no object identifier"),
        (b"-1237645876861337601\n", "is no object identifier"),
        (b"../../etc/passwd\n", "has no column 'objid'"),
        (b"objid\n$(reboot)\n", "line 2: '$(reboot)' is no object identifier"),
        (b"5\n", "5 is not an SDSS object: its camera column is out of range"),
        (b"9999999999999999999\n", "'9999999999999999999' is no object identifier"),
        (b"specobjid,plate\n1,2\n", "has no column 'objid'"),
        (b"objid,class\n1237645876861337601\n", "line 2: has 1 cells; expected 2"),
        (
            b"objid,class\n1237645876861337601,COMET\n",
            "row 0 has the class 'COMET'; expected GALAXY | QSO | STAR",
        ),
        (b"\xff\xfe\x00\x01", "cannot be read as text"),
        (b"x" * 20_000, "is no list of objects"),
    ],
)
def test_lists_that_are_none(tmp_path, content, message):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_objids(tmp_path / "list.csv")
    assert message in str(caught.value)
    assert "list.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_arrays_that_are_none(tmp_path, rng):
    cases = {
        "floats": GOOD.astype(float),
        "matrix": GOOD[:, None],
        "nothing": GOOD[:0],
        "rounded": GOOD.astype(np.float32).astype(np.int64) & ~(7 << 29),
    }
    for name, values in cases.items():
        np.save(tmp_path / f"{name}.npy", values)
        with pytest.raises(DataError, match=f"{name}.npy"):
            read_objids(tmp_path / f"{name}.npy")

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    np.save(tmp_path / "trap.npy", np.array([Trap()], object), allow_pickle=True)
    for read in (read_objids, lambda path: read_classes(path, 1)):
        with pytest.raises(DataError, match=r"trap\.npy"):
            read(tmp_path / "trap.npy")
    assert not (tmp_path / "sprung").exists()
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY\x01\x00")
    for path in (tmp_path / "broken.npy", tmp_path / "missing.npy", tmp_path / "missing.csv"):
        with pytest.raises(DataError, match=path.name):
            read_objids(path)
        with pytest.raises(DataError, match=path.name):
            read_classes(path, 1)


def test_classes(tmp_path, rng):
    label = rng.integers(0, 3, 7)
    names = np.array(["GALAXY", "QSO", "STAR"])[label]
    np.save(tmp_path / "text.npy", names)
    np.save(tmp_path / "objects.npy", names.astype(object), allow_pickle=True)
    np.save(tmp_path / "one_hot.npy", np.eye(3, dtype=np.float32)[label])
    (tmp_path / "lines.txt").write_text("\n".join(names))
    (tmp_path / "table.csv").write_text("z,class\n" + "".join(f"1,{name}\n" for name in names))
    for path in sorted(tmp_path.iterdir()):
        found = read_classes(path, 7)
        assert (found.dtype, found.tolist()) == (np.int8, label.tolist()), path.name
        with pytest.raises(DataError, match=r"has 7 classes; expected 8, one for each object"):
            read_classes(path, 8)
    np.save(tmp_path / "two_hot.npy", np.ones((7, 3)))
    np.save(tmp_path / "flat.npy", np.ones(7))
    for name in ("two_hot", "flat"):
        with pytest.raises(DataError, match=r"class names, or one-hot rows of shape \(N, 3\)"):
            read_classes(tmp_path / f"{name}.npy", 7)


def test_positions(tmp_path):
    for content in (
        "1.5,-2\n3,4\n",
        "1.5 -2\n3 4\n",
        "# mine\nRA,DEC\n1.5,-2\n3,4\n",
        "name,dec,ra\nx,-2,1.5\ny,4,3\n",
    ):
        (tmp_path / "p.csv").write_text(content)
        ra, dec = read_positions(tmp_path / "p.csv")
        assert (ra.tolist(), dec.tolist()) == ([1.5, 3.0], [-2.0, 4.0])
    for content, message in (
        ("ra,dec\n", "the list is empty"),
        ("ra,dec\n1,2\n361,0\n", "line 3: the position is not on the sky"),
        ("1,91\n", "line 1: the position is not on the sky"),
        ("1,1\nnan,0\n", "line 2: the position is not on the sky"),
        ("1,1\ninf,0\n", "line 2: the position is not on the sky"),
        ("ra,dec\n12:00:00,+5\n", "line 2: '12:00:00,+5' is no position; expected degrees"),
        ("1\n", "line 1: has 1 cells; expected 2 or more"),
        ("RAJ2000,DEJ2000\n1,2\n", "has no column 'ra'; expected ra, dec"),
    ):
        (tmp_path / "p.csv").write_text(content)
        with pytest.raises(DataError, match=re.escape(message)):
            read_positions(tmp_path / "p.csv")


def test_names_of_fields():
    assert parse_fields(["95-6-4000", "94-1-12", "94-1-12"]) == [FieldId(94, 1, 12), FieldId(95, 6, 4000)]
    for name in (
        "94-1",
        "94-0-12",
        "94-7-12",
        "65536-1-1",
        "1-1-4096",
        "94-1-12/..",
        "",
        "-94-1-12",
        "٩٤-1-12",
    ):
        with pytest.raises(ConfigError, match="is no field"):
            parse_fields([name])


def test_targets_are_in_order_and_once(rng):
    ids = np.concatenate([encode(94, 2, 5, [7, 8]), GOOD, GOOD[:2], encode(93, 6, 9, 1)[None]])
    label = np.arange(len(ids)) % 3
    targets = Targets.make(ids, label, {"row": np.arange(len(ids))})
    assert targets.objid.tolist() == sorted({*ids.tolist()})
    assert [label[k] for k in targets.columns["row"]] == targets.label.tolist()
    assert set(targets.columns["row"].tolist()) == {0, 1, 2, 3, 4, 5, 6, 9}  # the first of each
    fields = targets.by_field()
    assert list(fields) == [FieldId(93, 6, 9), FieldId(94, 1, 12), FieldId(94, 2, 5)]
    assert fields[FieldId(94, 1, 12)].tolist() == GOOD.tolist()
    assert targets.rows_of(GOOD[::-1]).tolist() == [5, 4, 3, 2, 1]
    # The version of the sky does not make another field of it.
    old = Targets.make(np.array([int(GOOD[0]) ^ (3 << 59), int(GOOD[0])]), np.zeros(2))
    assert [ids.tolist() for ids in old.by_field().values()] == [old.objid.tolist()]
    assert Targets.make(GOOD[:0], label[:0]).by_field() == {}
    with pytest.raises(DataError, match="is not an SDSS object"):
        Targets.make(np.array([5]), np.array([0]))


def test_targets_survive_being_put_down(tmp_path, rng):
    targets = Targets.make(
        GOOD,
        np.array([0, 1, 2, -1, 0]),
        {"specobjid": np.array(["", "1", "2", "3", "4" * 20]), "redshift": rng.normal(size=5)},
    )
    with Journal(tmp_path / "j", {"a": 1}) as journal:
        assert journal.targets() is None
        journal.keep_targets(targets)
    with Journal(tmp_path / "j", {"a": 1}) as journal:
        again = journal.targets()
    assert set(again.columns) == set(targets.columns)
    for name, values in {"objid": targets.objid, "label": targets.label, **targets.columns}.items():
        found = getattr(again, name) if name in ("objid", "label") else again.columns[name]
        np.testing.assert_array_equal(found, values)
        assert found.dtype == values.dtype


def test_plans_add_up():
    fields = [FieldId(94, 1, k) for k in range(10)] + [FieldId(95, 1, 1)]
    plan = Plan.of(20, fields, done=3, psfield=True, keep=True, connections=4, rate=2.0)
    assert (plan.fields, plan.runs, plan.files) == (11, 2, 8 * 7)
    assert plan.bytes == 8 * (5 * FRAME_BYTES + CATALOGUE_BYTES + PSFIELD_BYTES)
    assert plan.hours == pytest.approx(plan.bytes / 2e6 / 3600)
    assert plan.core_hours == pytest.approx(40 / 3600)
    assert "kept (--keep-frames)" in plan.table()
    few = Plan.of(0, fields[:1], done=0, psfield=False, keep=False, connections=4, rate=2.0)
    assert "objects    all of these fields" in few.table()
    assert "stamps" not in few.table()


def test_what_the_published_features_say_of_the_cuts(real_data):
    """Which of the readings of the published cuts the published objects obey: docs/fetching.md tells it."""
    half = real_data / "margnet" / "exp3-half"
    features, objid = np.load(half / "dnnx_sg_exp3.npy"), np.load(half / "objlist_sg_exp3.npy")
    by_band = features[:, :20].reshape(-1, 5, 4)  # dered, deVRad, psffwhm, extinction
    radius, width = by_band[:, :, 1], by_band[:, :, 2]
    largest = (radius / width).mean(axis=1).max()
    assert 0.49 < largest < 0.5
    assert (radius.mean(axis=1) / width.mean(axis=1)).max() > 0.5
    assert (radius / width)[:, 2].max() > 0.5
    faint = np.isin(objid, np.load(real_data / "margnet" / "objlist_exp2.npy"))
    observed = (by_band[:, :, 0] + by_band[:, :, 3]).mean(axis=1)
    assert observed[faint].min() > 20
    assert by_band[faint, :, 0].mean(axis=1).min() < 20  # dereddened, the cut would have left some out
