"""From frames and catalogues to stamps: which pixels, which objects, and what became of the rest."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning
from sdss_files import (
    BANDS,
    CENTRES,
    COLUMNS,
    ROWS,
    catalogue_columns,
    catalogue_name,
    frame_image,
    frame_name,
    packed,
    real_field,
    sky_of,
    write_catalogue,
    write_field,
    write_frame,
)

from margformer_fast.data.sdss.ingest import cut_stamps, ingest, ingest_fields, merge
from margformer_fast.data.sdss.report import REASONS, IngestReport
from margformer_fast.data.survey import CLASSES, SDSS
from margformer_fast.errors import ConfigError, DataError, FitsFormatError


def inner(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions on the r frame whose stamps are whole in every band."""
    return rng.uniform(25, COLUMNS - 25, n), rng.uniform(25, ROWS - 25, n)


def sums(report: IngestReport) -> bool:
    return report.total == report.kept + sum(report.dropped.values()) and report.kept == sum(
        report.classes.values()
    )


def test_cut_stamps_puts_the_position_in_the_middle(rng):
    image = rng.normal(size=(61, 73)).astype(np.float32)
    for size in (32, 31, 8, 1):
        x, y = rng.uniform(-5, 78, 400), rng.uniform(-5, 66, 400)
        x[:4], y[:4] = (np.nan, np.inf, 30.0, 30.5), (30.0, 30.0, 30.0, 30.5)
        stamps, inside = cut_stamps(image, x, y, size)
        assert stamps.shape == (inside.sum(), size, size)
        expected = iter(stamps)
        for k in range(400):
            if not (np.isfinite(x[k]) and np.isfinite(y[k])):
                assert not inside[k]
                continue
            # The start that leaves the position within half a pixel of the middle; a tie goes to the left.
            left, top = (int(np.ceil(v - (size - 1) / 2 - 0.5 + 1e-12)) for v in (x[k], y[k]))
            whole = 0 <= left <= 73 - size and 0 <= top <= 61 - size
            assert inside[k] == whole
            if whole:
                np.testing.assert_array_equal(next(expected), image[top : top + size, left : left + size])
                for v, start in ((x[k], left), (y[k], top)):
                    assert -0.5 <= v - start - (size - 1) / 2 <= 0.5


def test_cut_stamps_smaller_image_than_stamp():
    stamps, inside = cut_stamps(np.zeros((10, 40), np.float32), np.array([20.0]), np.array([5.0]))
    assert stamps.shape == (0, 32, 32)
    assert not inside.any()


def test_every_band_is_cut_at_the_same_sky(tmp_path, rng):
    x, y = inner(rng, 7)
    columns = write_field(tmp_path, x, y)
    survey, report = ingest(tmp_path)
    assert (report.total, report.kept, sums(report)) == (7, 7, True)
    pixels = survey.stamps.decode()
    assert pixels.shape == (7, 5, 32, 32)
    reference = np.array(CENTRES["r"])
    for k, band in enumerate(BANDS):
        shift = np.array(CENTRES[band]) - reference
        expected_x, expected_y = x + shift[0], y + shift[1]
        np.testing.assert_allclose(survey.columns[f"x_{band}"], expected_x, atol=1e-3)
        np.testing.assert_allclose(survey.columns[f"y_{band}"], expected_y, atol=1e-3)
        for row in range(7):
            left, top = (int(np.floor(survey.columns[f"{a}_{band}"][row] - 15)) for a in "xy")
            np.testing.assert_array_equal(
                pixels[row, k], frame_image(band)[top : top + 32, left : left + 32], err_msg=f"{band} {row}"
            )
    np.testing.assert_array_equal(survey.objid, columns["OBJID"].astype(np.int64))
    np.testing.assert_array_equal(survey.ra, columns["RA"])
    assert [CLASSES[k] for k in survey.label] == ["GALAXY", "STAR"] * 3 + ["GALAXY"]
    assert report.classes == {"GALAXY": 4, "STAR": 3}
    assert not survey.simulated
    assert survey.profile is SDSS
    distance = np.hypot(x[:, None] - x, y[:, None] - y) + np.diag(np.full(7, np.inf))
    np.testing.assert_allclose(survey.columns["neighbour"], 0.396 * distance.min(axis=1), atol=1e-3)


def test_packed_files_give_the_same_survey(tmp_path, rng):
    x, y = inner(rng, 4)
    plain, other = tmp_path / "plain", tmp_path / "packed"
    columns = write_field(plain, x, y)
    other.mkdir()
    write_catalogue(other, columns, catalogue_name() + ".gz")
    for band, suffix in zip(BANDS, (".bz2", ".gz", ".fz", ".bz2", ".fz"), strict=True):
        path = packed(plain / frame_name(band), suffix)
        path.rename(other / path.name)
    a, b = ingest(plain)[0], ingest(other)[0]
    np.testing.assert_array_equal(a.stamps.decode(), b.stamps.decode())
    np.testing.assert_array_equal(a.features, b.features)
    np.testing.assert_array_equal(a.objid, b.objid)
    for name in a.columns:
        np.testing.assert_array_equal(a.columns[name], b.columns[name])


def test_each_reason(tmp_path, rng):
    """One object or two for every reason, most with a later reason too: the first counts."""
    n = 12
    x, y = inner(rng, n)
    x[8], y[9] = 14.0, ROWS - 14.0  # off the edge
    columns = catalogue_columns(x, y)
    columns["OBJID"][1] = columns["OBJID"][0]
    columns["OBJC_TYPE"][[1, 2, 3]] = 0, 8, 0
    columns["NCHILD"][[2, 4]] = 1, 3
    columns["MODE"][[4, 5, 6]] = 3, 2, 4
    columns["CLEAN"][[5, 7, 8]] = 0, 0, 1
    columns["MODELMAG"] = np.array(columns["MODELMAG"])
    columns["MODELMAG"][[9, 10], [0, 4]] = -9999
    image = frame_image("z")
    for band in "ugri":
        write_frame(tmp_path, band)
    column, row = (int(v + CENTRES["z"][k] - CENTRES["r"][k]) for k, v in enumerate((x[11], y[11])))
    image[row + 3, column - 4] = np.nan
    write_frame(tmp_path, "z", image)
    write_catalogue(tmp_path, columns)
    survey, report = ingest(tmp_path)
    hit = np.array([np.abs(x[k] - x[11] + 4) < 17 and np.abs(y[k] - y[11] - 3) < 17 for k in range(n)])
    assert dict(report.dropped) | {"bad pixels": 0} == {
        "duplicate": 1,
        "not a source": 2,
        "blended parent": 1,
        "not selected": 2,
        "not clean": 1,
        "off the edge": 2,
        "not measured": 1,
        "bad pixels": 0,
    }
    assert report.dropped["bad pixels"] == 1 + hit[0]
    assert report.unselected_modes == {2: 1, 4: 1}
    assert sums(report)
    assert survey.objid.tolist() == [int(columns["OBJID"][0])][: 1 - hit[0]]
    assert np.isfinite(survey.stamps.decode()).all()
    # The options move objects from one reason to the next.
    report = ingest(tmp_path, modes=[1, 2, 4], require_clean=False)[1]
    assert "not selected" not in report.dropped
    assert "not clean" not in report.dropped
    assert sums(report)


def test_nothing_selected_says_what_to_do(tmp_path, rng):
    x, y = inner(rng, 5)
    write_field(tmp_path, x, y, MODE=np.array([2, 2, 4, 2, 4], np.uint8), CLEAN=np.zeros(5, np.uint8))
    for band in BANDS:
        (tmp_path / frame_name(band)).write_bytes(b"not read: nothing is to be cut")
    survey, report = ingest(tmp_path)
    assert len(survey) == len(survey.stamps) == 0
    assert survey.features.shape == (0, 24)
    assert "3 of MODE 2 (secondary), 2 of MODE 4 (outside) not selected" in report.advice
    assert "modes=(1, 2), require_clean=False (--modes 1 2 --keep-unclean)" in report.table()


def test_nothing_clean_says_what_to_do(tmp_path, rng):
    write_field(tmp_path, *inner(rng, 2), CLEAN=np.zeros(2, np.uint8))
    report = ingest(tmp_path)[1]
    assert report.advice == (
        "No object was kept: none is clean. Pass require_clean=False (--keep-unclean) to keep them."
    )
    write_catalogue_again = catalogue_columns(*inner(rng, 2)) | {"OBJC_TYPE": np.zeros(2, np.int32)}
    (tmp_path / catalogue_name()).unlink()
    write_catalogue(tmp_path, write_catalogue_again)
    assert ingest(tmp_path)[1].advice == "No object was kept."
    assert IngestReport().advice is None


def test_modes_are_checked(tmp_path):
    for modes in ((), (1, 3), (0,)):
        with pytest.raises(
            ConfigError, match=r"modes are .*; expected some of 1 \(primary\), 2 \(secondary\)"
        ):
            ingest(tmp_path, modes=modes)


def test_missing_band(tmp_path, rng):
    write_field(tmp_path, *inner(rng, 3))
    (tmp_path / frame_name("u")).unlink()
    (tmp_path / frame_name("z")).unlink()
    message = f"{tmp_path}: field 94-1-12 has no frame in bands u, z; expected"
    with pytest.raises(DataError, match=re.escape(message)):
        ingest(tmp_path)
    survey, report = ingest(tmp_path, skip_broken=True)
    assert len(survey) == 0
    assert dict(report.dropped) == {"missing band": 3}
    assert message in report.table()


def test_missing_catalogue(tmp_path, rng):
    write_field(tmp_path, *inner(rng, 3))
    (tmp_path / catalogue_name()).unlink()
    with pytest.raises(DataError, match="field 94-1-12 has no catalogue"):
        ingest(tmp_path)
    survey, report = ingest(tmp_path, skip_broken=True)
    assert (len(survey), report.total, report.num_fields, len(report.failures)) == (0, 0, 1, 1)


def test_files_are_checked_before_any_is_read(tmp_path, rng):
    write_field(tmp_path, *inner(rng, 3))
    (tmp_path / frame_name("r", field=13)).touch()
    with pytest.raises(DataError, match="field 94-1-13 has no frame in bands u, g, i, z"):
        ingest_fields(tmp_path)


@pytest.mark.parametrize("name", [frame_name("g"), catalogue_name()])
def test_truncated_file(tmp_path, rng, name):
    write_field(tmp_path, *inner(rng, 3))
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:7000])
    with pytest.raises(FitsFormatError, match=rf"{re.escape(str(path))}, HDU \d, byte \d+: .*cut short"):
        ingest(tmp_path)
    survey, report = ingest(tmp_path, skip_broken=True)
    assert len(survey) == 0
    assert str(path) in report.failures[0]
    if name == frame_name("g"):
        assert dict(report.dropped) == {"unreadable frame": 3}
    else:
        assert report.total == 0


def test_many_fields(tmp_path, rng):
    """Frames and catalogues in folders of their own, as in the survey's archive; one field broken."""
    frames, catalogues = tmp_path / "frames", tmp_path / "photoObj"
    write_field(tmp_path / "one", *inner(rng, 3))
    objids = {}
    for field in (12, 13, 14):
        (catalogues / str(field)).mkdir(parents=True)
        columns = catalogue_columns(*inner(rng, 4))
        ids = columns["OBJID"].astype(np.int64) + ((field - 12) << 16)
        columns["OBJID"] = np.array([str(i) for i in ids], "S19")
        objids[field] = ids
        write_catalogue(catalogues / str(field), columns, catalogue_name(field=field))
        (frames / str(field)).mkdir(parents=True)
        for band in BANDS:
            shutil.copy(
                tmp_path / "one" / frame_name(band), frames / str(field) / frame_name(band, field=field)
            )
    broken = frames / "13" / frame_name("i", field=13)
    broken.write_bytes(broken.read_bytes()[:5000])
    with pytest.raises(FitsFormatError):
        ingest([frames, catalogues])
    survey, report = ingest([frames, catalogues], skip_broken=True)
    assert survey.objid.tolist() == [*objids[12], *objids[14]]
    assert (report.num_fields, report.total, report.kept) == (3, 12, 8)
    assert dict(report.dropped) == {"unreadable frame": 4}
    assert len(survey.stamps.parts) == 3
    # The chunks are the parts of the whole.
    pairs = list(ingest_fields([frames, catalogues], skip_broken=True))
    assert [len(chunk) for chunk, _ in pairs] == [4, 0, 4]
    assert sum((account for _, account in pairs), IngestReport()).to_dict() == report.to_dict()
    whole = merge([chunk for chunk, _ in pairs])
    np.testing.assert_array_equal(whole.stamps.decode(), survey.stamps.decode())
    assert [entry["field"] for entry in whole.provenance["fields"]] == ["94-1-12", "94-1-13", "94-1-14"]
    assert len(whole.provenance["files"]) == 6 + 1 + 6
    json.dumps(whole.provenance, allow_nan=False)


def test_report_prints_and_serialises(tmp_path, rng):
    write_field(tmp_path, *inner(rng, 5), OBJC_TYPE=np.array([3, 6, 6, 0, 6], np.int32))
    report = ingest(tmp_path)[1]
    lines = report.table().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["objects listed", "- not a source", "kept"]
    assert lines[0].split()[2:] == ["5", "in", "1", "field"]
    assert lines[-1].endswith("4  1 GALAXY, 3 STAR")
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values["total"] == values["kept"] + sum(values["dropped"].values())
    assert list(values["dropped"]) == list(REASONS)


def test_provenance_names_and_hashes_every_file(tmp_path, rng):
    import hashlib

    write_field(tmp_path, *inner(rng, 1))
    provenance = ingest(tmp_path, modes=(1, 2))[0].provenance
    assert {file["name"] for file in provenance["files"]} == {*map(frame_name, BANDS), catalogue_name()}
    for file in provenance["files"]:
        content = (tmp_path / file["name"]).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert provenance["selection"] == {"modes": [1, 2], "require_clean": True}
    assert provenance["fields"] == [{"field": "94-1-12", "photoObj": "v1_10_20"}]


def test_object_without_neighbour(tmp_path, rng):
    write_field(tmp_path, *inner(rng, 2), OBJC_TYPE=np.array([6, 0], np.int32))
    assert ingest(tmp_path)[0].columns["neighbour"].tolist() == [np.inf]


# ---- the real field 94-1-12 ----


def test_real_field_counts(real_data):
    survey, report = real_field(real_data)
    print(f"\n{report.table()}")
    assert (report.total, report.kept, sums(report)) == (999, 776, True)
    assert dict(report.dropped) == {
        "not a source": 42,
        "blended parent": 163,
        "off the edge": 7,
        "not measured": 11,
    }
    assert report.classes == {"GALAXY": 374, "STAR": 402}
    assert np.isfinite(survey.features).all()
    assert np.isfinite(survey.stamps.decode()).all()
    assert len(np.unique(survey.objid)) == 776


def test_real_field_without_options_keeps_nothing_and_says_why(real_data):
    survey, report = ingest(real_data / "sdss" / "94-1-12")
    print(f"\n{report.table()}")
    assert len(survey) == 0
    assert dict(report.dropped) == {"not a source": 42, "blended parent": 163, "not selected": 794}
    assert "--modes 1 2 --keep-unclean" in report.advice


def test_real_stamps_are_cut_by_each_bands_own_coordinates(real_data, rng):
    """Some stamps again, through astropy alone, and the objects off the edge counted without our cutter."""
    survey, report = real_field(real_data)
    folder = real_data / "sdss" / "94-1-12"
    with fits.open(folder / "photoObj-000094-1-0012.fits.gz") as hdus:
        table = hdus[1].data
        source = np.isin(table["OBJC_TYPE"], (3, 6)) & (table["NCHILD"] == 0)
        ra, dec = table["RA"][source], table["DEC"][source]
    off = np.zeros(len(ra), bool)
    rows = rng.integers(len(survey), size=40)
    pixels = survey.stamps.decode(rows)
    for k, band in enumerate(BANDS):
        with fits.open(folder / f"frame-{band}-000094-1-0012.fits.bz2") as hdus, warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            wcs, image = WCS(hdus[0].header), np.asarray(hdus[0].data)
        x, y = wcs.all_world2pix(ra, dec, 0)
        off |= (x < 15) | (y < 15) | (x >= 2048 - 16) | (y >= 1489 - 16)
        x, y = (np.floor(v - 15).astype(int) for v in wcs.all_world2pix(survey.ra[rows], survey.dec[rows], 0))
        for n in range(len(rows)):
            np.testing.assert_array_equal(pixels[n, k], image[y[n] : y[n] + 32, x[n] : x[n] + 32])
    assert off.sum() == report.dropped["off the edge"]


def test_folder_may_be_a_path_or_text(tmp_path, rng):
    write_field(tmp_path, *inner(rng, 1))
    for folder in (tmp_path, str(tmp_path), [tmp_path], (str(tmp_path), Path(tmp_path))):
        assert len(ingest(folder)[0]) == 1


def test_sky_helper_is_the_inverse_of_the_frames(tmp_path):
    ra, dec = sky_of(np.array([40.0]), np.array([50.0]))
    assert abs(ra[0] - 336.6) < 0.01
    assert abs(dec[0] + 0.93) < 0.01
