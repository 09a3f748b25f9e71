"""SDSS catalogues: features in the published order, and one clear error for what cannot be used."""

from __future__ import annotations

import gzip
import re

import numpy as np
import pytest
from astropy.io import fits
from sdss_files import catalogue_columns, catalogue_name, write_catalogue

from margformer_fast.data.sdss import objid as objids
from margformer_fast.data.sdss.catalogue import Catalogue, photometric_features, read_catalogue
from margformer_fast.data.survey import CLASSES, SDSS, UNKNOWN
from margformer_fast.errors import DataError, FitsFormatError


@pytest.fixture
def columns(rng):
    return catalogue_columns(rng.uniform(20, 80, 9), rng.uniform(20, 70, 9))


def test_values(tmp_path, columns):
    columns["OBJC_TYPE"][:4] = 3, 6, 0, 8
    columns["NCHILD"][2] = 2
    catalogue = read_catalogue(write_catalogue(tmp_path, columns))
    assert len(catalogue) == 9
    assert catalogue.software == "v1_10_20"
    np.testing.assert_array_equal(catalogue.objid, columns["OBJID"].astype(np.int64))
    np.testing.assert_array_equal(catalogue.ra, columns["RA"])
    np.testing.assert_array_equal(catalogue.dec, columns["DEC"])
    galaxy, star = CLASSES.index("GALAXY"), CLASSES.index("STAR")
    assert catalogue.label[:4].tolist() == [galaxy, star, UNKNOWN, UNKNOWN]
    assert catalogue.is_source[:4].tolist() == [True, True, False, False]
    assert np.flatnonzero(catalogue.is_parent).tolist() == [2]
    assert catalogue.measured.all()
    for k, band in enumerate(SDSS.bands):
        feature = {kind: catalogue.features[:, SDSS.feature_names.index(f"{kind}_{band}")] for kind in KINDS}
        np.testing.assert_allclose(
            feature["dered"], columns["MODELMAG"][:, k] - columns["EXTINCTION"][:, k], atol=1e-6
        )
        np.testing.assert_array_equal(feature["deVRad"], columns["THETA_DEV"][:, k])
        np.testing.assert_array_equal(feature["psffwhm"], columns["PSF_FWHM"][:, k])
        np.testing.assert_array_equal(feature["extinction"], columns["EXTINCTION"][:, k])
        np.testing.assert_array_equal(catalogue.columns[f"psfmag_{band}"], columns["PSFMAG"][:, k])
        # The fourth circle of the band.
        np.testing.assert_array_equal(
            catalogue.columns[f"aperflux_{band}"], columns["APERFLUX"][:, 8 * k + 3]
        )
    for a, b in zip(range(4), range(1, 5), strict=True):
        colour = columns["MODELMAG"][:, a] - columns["MODELMAG"][:, b]
        name = f"{SDSS.bands[a]}_{SDSS.bands[b]}"
        np.testing.assert_allclose(
            catalogue.features[:, SDSS.feature_names.index(name)], colour, atol=1e-5, err_msg=name
        )
    np.testing.assert_array_equal(catalogue.columns["modelmag_r"], columns["MODELMAG"][:, 2])
    np.testing.assert_array_equal(catalogue.columns["cmodelmag_r"], columns["CMODELMAG"][:, 2])
    assert (catalogue.columns["run"] == 94).all()
    assert all(column.dtype.isnative for column in catalogue.columns.values())


KINDS = ("dered", "deVRad", "psffwhm", "extinction")


def test_features_repeat_the_published_ones(real_data):
    """From magnitudes as observed, radii, widths and extinctions back to the published 24 features."""
    published = np.load(real_data / "margnet" / "exp3-half" / "dnnx_sg_exp3.npy")
    dered, radius, width, extinction = (published[:, k:20:4] for k in range(4))
    ours = photometric_features(dered + extinction, radius, width, extinction)
    # The published colours were rounded to float32 on their way.
    np.testing.assert_allclose(ours, published, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["photoObj-000094-1-0012.fits.gz", "photoObj-000094-1-0012.fits"])
def test_packings_and_integer_identifiers(tmp_path, columns, name):
    expected = columns["OBJID"].astype(np.int64)
    columns["OBJID"] = expected
    np.testing.assert_array_equal(read_catalogue(write_catalogue(tmp_path, columns, name)).objid, expected)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("MODELMAG", -9999),
        ("MODELMAG", np.nan),
        ("MODELMAG", np.inf),
        ("EXTINCTION", -9999),
        ("EXTINCTION", np.nan),
        ("THETA_DEV", -9999),
        ("THETA_DEV", -0.5),
        ("THETA_DEV", -np.inf),
        ("PSF_FWHM", 0),
        ("PSF_FWHM", -9999),
        ("PSF_FWHM", np.nan),
    ],
)
def test_sentinels(tmp_path, rng, columns, column, value):
    row, band = rng.integers(9), rng.integers(5)
    columns[column] = np.array(columns[column])
    columns[column][row, band] = value
    catalogue = read_catalogue(write_catalogue(tmp_path, columns))
    assert np.flatnonzero(~catalogue.measured).tolist() == [row]


def test_missing_columns_are_all_named(tmp_path, columns):
    for gone in (["PSF_FWHM"], ["OBJID"], ["RA", "NCHILD", "MODELMAG"]):
        less = {name: values for name, values in columns.items() if name not in gone}
        folder = tmp_path / gone[0]
        folder.mkdir()
        path = write_catalogue(folder, less)
        with pytest.raises(
            DataError, match=re.escape(f"{path}, HDU 1: the catalogue lacks column")
        ) as caught:
            read_catalogue(path)
        assert caught.value.what.split("column")[1].lstrip("s ").split(", ") == gone


def test_columns_of_the_wrong_shape_or_kind(tmp_path, columns):
    cases = {
        "RA": (np.zeros((9, 5)), "column RA has shape (9, 5); expected (9,)"),
        "MODELMAG": (np.zeros((9, 4), np.float32), "column MODELMAG has shape (9, 4); expected (9, 5)"),
        "APERFLUX": (np.zeros((9, 5), np.float32), "column APERFLUX has shape (9, 5); expected (9, 40)"),
        "OBJID": (np.zeros(9), "OBJID has dtype float64; expected text or 64-bit integers"),
    }
    for name, (values, message) in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        with pytest.raises(DataError, match=re.escape(message)):
            read_catalogue(write_catalogue(folder, columns | {name: values}))


def test_bad_identifiers(tmp_path, columns):
    other_field = objids.encode(94, 1, 13, 5)
    cases = {
        "text": (b"what", "OBJID holds what is no number"),
        "empty": (b"", "OBJID holds what is no number"),
        "small": (b"17", "element 3: 17 is not an SDSS object"),
        "field": (str(other_field).encode(), f"row 3: objID {other_field} is of field 13; expected 12"),
    }
    for case, (value, message) in cases.items():
        folder = tmp_path / case
        folder.mkdir()
        ids = columns["OBJID"].copy()
        ids[3] = value
        with pytest.raises(DataError, match=re.escape(message)):
            read_catalogue(write_catalogue(folder, columns | {"OBJID": ids}))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_truncated_catalogue(tmp_path, rng, columns, suffix):
    path = write_catalogue(tmp_path, columns, catalogue_name() + suffix)
    content = path.read_bytes()
    for length in {0, 1, len(content) // 2, len(content) - 1} | set(
        rng.integers(0, len(content), 5).tolist()
    ):
        path.write_bytes(content[:length])
        with pytest.raises(FitsFormatError, match=rf"^{re.escape(str(path))}[:,]") as caught:
            read_catalogue(path)
        assert "\n" not in str(caught.value)


def test_no_table_and_no_file(tmp_path):
    path = tmp_path / (catalogue_name() + ".gz")
    with pytest.raises(DataError, match="is missing"):
        read_catalogue(path)
    fits.PrimaryHDU(np.zeros((3, 3))).writeto(tmp_path / "image.fits")
    path.write_bytes(gzip.compress((tmp_path / "image.fits").read_bytes()))
    with pytest.raises(FitsFormatError, match="none of its HDUs"):
        read_catalogue(path)
    with pytest.raises(DataError, match="is not named like a catalogue"):
        read_catalogue(tmp_path / "image.fits")


def test_empty_catalogues(tmp_path, columns):
    none = {name: values[:0] for name, values in columns.items()}
    catalogue, empty = read_catalogue(write_catalogue(tmp_path, none)), Catalogue.empty(tmp_path)
    assert len(catalogue) == len(empty) == 0
    assert catalogue.features.shape == empty.features.shape == (0, 24)
    assert list(catalogue.columns) == list(empty.columns)
    for name, column in catalogue.columns.items():
        assert column.dtype == empty.columns[name].dtype


def test_real_catalogues(real_data):
    catalogue = read_catalogue(real_data / "sdss" / "94-1-12" / "photoObj-000094-1-0012.fits.gz")
    assert len(catalogue) == 999
    assert catalogue.is_source.sum() == 957
    assert (catalogue.is_parent == (catalogue.columns["mode"] == 3)).all()
    assert catalogue.columns["clean"].sum() == 0
    assert (~catalogue.measured).sum() == 55
    small = read_catalogue(real_data / "sdss" / "1000-1-100-small" / "photoObj-001000-1-0100.fits.gz")
    assert len(small) == 19
    assert small.columns["clean"].sum() == 4
