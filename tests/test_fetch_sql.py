"""Queries, run on a database with the archive's names, return exactly what the cuts in Python return."""

from __future__ import annotations

import re
import tempfile
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
from bad_server import BadServer, now_and_then
from fetch_archive import QUICK, archived, put_down, synthetic_field
from fetch_database import BANDS, Database, random_photo, random_spectra
from toy import toy_survey

from margformer_fast.cli import run
from margformer_fast.data.__main__ import main
from margformer_fast.data.fetch import query, sample
from margformer_fast.data.fetch.http import Client, Patience
from margformer_fast.data.fetch.skyserver import SkyServer, parse
from margformer_fast.data.populations import POPULATIONS, cut
from margformer_fast.data.sdss.catalogue import photometric_features, read_catalogue
from margformer_fast.data.sdss.objid import decode
from margformer_fast.data.store import read_manifest, read_store
from margformer_fast.data.survey import CLASSES, SDSS, Survey
from margformer_fast.errors import ConfigError, DataError, FetchError
from margformer_fast.ops.stamps import Stamps

QUICK_CLIENT = Patience(timeout=0.5, retries=8, first_wait=0.01, longest_wait=0.05)


class Direct:
    """A client that asks a database without a network between."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def get(self, url: str, *, limit: int) -> bytes:
        answer = self.database.answer(urllib.parse.parse_qs(url.split("?", 1)[1])["cmd"][0])
        assert isinstance(answer, bytes), url
        assert len(answer) <= limit
        return answer


def server_of(database: Database) -> SkyServer:
    return SkyServer(Direct(database), "http://x/sql", 0.0, sleep=lambda seconds: None)


def as_survey(photo: dict[str, np.ndarray]) -> Survey:
    def bands(kind: str) -> np.ndarray:
        return np.stack([photo[f"{kind}_{band}"] for band in BANDS], axis=1)

    n = len(photo["objID"])
    features = photometric_features(*(bands(k) for k in ("modelMag", "deVRad", "psffwhm", "extinction")))
    nothing = np.broadcast_to(np.float32(0), (n, 5, 32, 32))
    label = np.full(n, -1, np.int8)
    return Survey(SDSS, photo["objID"], photo["ra"], photo["dec"], label, features, Stamps((nothing,)), False)


def by_python(photo: dict[str, np.ndarray], spectra: list[tuple], population: str) -> dict[int, tuple]:
    """The cuts as Python has them: identifier to (spectrum, class)."""
    good = (photo["mode"] == 1) & (photo["clean"] == 1)
    for band in BANDS:
        good &= (photo[f"deVRad_{band}"] >= 0) & (photo[f"psffwhm_{band}"] > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        good &= cut(as_survey(photo), population)
    allowed = set(photo["objID"][good].tolist())
    found: dict[int, tuple] = {}
    for spectrum, best, name, _, _, warning, primary in sorted(spectra):
        if best in allowed and name in CLASSES and warning == 0 and primary == 1:
            found.setdefault(best, (spectrum, name))
    return found


@pytest.mark.parametrize("population", POPULATIONS)
def test_the_sample_is_that_of_the_cuts(tmp_path, rng, population):
    photo = random_photo(rng, 1500)
    # The faint cut is on modelMag; what Python adds up again, dered + extinction, may differ in the last bit.
    for band in BANDS:
        photo[f"extinction_{band}"][:] = 0.25
    spectra = random_spectra(rng, photo["objID"])
    database = Database(photo, spectra)
    targets = sample.spectroscopic(server_of(database), population, tmp_path / "a")
    expected = by_python(photo, spectra, population)
    assert len(expected) > 30
    found = zip(
        targets.objid.tolist(), targets.columns["specobjid"].tolist(), targets.label.tolist(), strict=True
    )
    assert {i: (spectrum, CLASSES[k]) for i, spectrum, k in found} == expected
    survey = as_survey(
        {name: values[np.isin(photo["objID"], targets.objid)] for name, values in photo.items()}
    )
    order = np.argsort(survey.objid)
    np.testing.assert_array_equal(targets.columns["sql_compactness"], survey.compactness[order])
    np.testing.assert_allclose(
        targets.columns["sql_mean_mag"], survey.magnitudes.mean(axis=1)[order], rtol=1e-6
    )
    assert any(len(s) == 20 for s in targets.columns["specobjid"])  # beyond 63 bits, whole


def test_ties_are_cut_as_in_python(tmp_path, rng):
    """All objects on a cut or a hair beside it."""
    photo = random_photo(rng, 400)
    for band in BANDS:
        photo[f"psffwhm_{band}"][:], photo[f"deVRad_{band}"][:], photo[f"modelMag_{band}"][:] = (
            1.5,
            0.75,
            20.0,
        )
        photo[f"extinction_{band}"][:] = 0.25
    photo["mode"][:] = photo["clean"][:] = 1
    photo["deVRad_z"][::3] = np.nextafter(np.float32(0.75), np.float32(0))
    photo["modelMag_u"][::2] = np.nextafter(np.float32(20), np.float32(30))
    spectra = random_spectra(rng, photo["objID"])
    database = Database(photo, spectra)
    for population, share in (("compact", 3), ("faint-compact", 6)):
        targets = sample.spectroscopic(server_of(database), population, tmp_path / population)
        assert set(targets.objid.tolist()) == set(by_python(photo, spectra, population))
        assert set(targets.objid.tolist()) <= set(photo["objID"][::share].tolist())


@pytest.mark.parametrize(("rows", "most"), [(7, 1 << 30), (50, 3), (1, 1 << 30), (20_000, 11)])
def test_pages_lose_nothing(tmp_path, rng, rows, most):
    """However many rows are asked for and given; objects with two spectra lie across pages."""
    photo = random_photo(rng, 150)
    spectra = random_spectra(rng, photo["objID"])
    database = Database(photo, spectra, most_rows=most)
    targets = sample.spectroscopic(server_of(database), "all", tmp_path / "a", rows=rows)
    expected = by_python(photo, spectra, "all")
    assert dict(zip(targets.objid.tolist(), targets.columns["specobjid"].tolist(), strict=True)) == {
        identifier: spectrum for identifier, (spectrum, _) in expected.items()
    }
    # Asked again, the answers that are here are not asked for; the last, empty page of a strip is one.
    asked = len(database.asked)
    again = sample.spectroscopic(server_of(database), "all", tmp_path / "a", rows=rows)
    np.testing.assert_array_equal(again.objid, targets.objid)
    assert len(database.asked) == asked


def test_classes_of_a_list(tmp_path, rng):
    photo = random_photo(rng, 120)
    spectra = random_spectra(rng, photo["objID"])
    database = Database(photo, spectra)
    wanted = photo["objID"][rng.permutation(120)[:110]]
    targets = sample.classes(server_of(database), wanted, tmp_path / "a")
    good: dict[int, tuple] = {}
    for spectrum, best, name, redshift, *_, warning, primary in sorted(spectra):
        if warning == 0 and primary == 1:
            good.setdefault(best, (spectrum, name, redshift))
    np.testing.assert_array_equal(targets.objid, np.sort(wanted))
    for k, identifier in enumerate(targets.objid.tolist()):
        spectrum, name, redshift = good.get(identifier, ("", "", np.nan))
        assert targets.label[k] == (CLASSES.index(name) if name else -1)
        assert targets.columns["specobjid"][k] == spectrum
        np.testing.assert_equal(targets.columns["redshift"][k], redshift)
    assert len(database.asked) == -(-110 // query.CLASSES_AT_ONCE)


def test_positions_find_the_nearest(tmp_path, rng):
    photo = random_photo(rng, 60)
    photo["mode"][:] = 1
    photo["mode"][5] = 2
    photo["ra"][:2] = 359.9999, 0.0001  # on either side of the origin
    photo["dec"][:2] = 0.5, 0.5
    photo["ra"][10], photo["dec"][10] = photo["ra"][11] + 0.5 / 3600, photo["dec"][11]  # a neighbour
    database = Database(photo, [])
    ra = np.concatenate([photo["ra"][:20], [123.4, 0.0]])
    dec = np.concatenate([photo["dec"][:20] + rng.uniform(-1, 1, 20) * 0.1 / 3600, [-80.0, 0.5]])
    targets, missed = sample.near(server_of(database), ra, dec, 1.0, tmp_path / "a")
    assert missed.tolist() == [5, 20]  # the last is near to an object that goes with a nearer position
    for identifier, k, distance in zip(
        targets.objid.tolist(), targets.columns["target"], targets.columns["separation_arcsec"], strict=True
    ):
        apart = [
            sample.separation_arcsec(ra[k], dec[k], a, d) if mode == 1 else np.inf
            for a, d, mode in zip(photo["ra"], photo["dec"], photo["mode"], strict=True)
        ]
        assert identifier == photo["objID"][int(np.argmin(apart))]
        assert distance == min(apart) < 1
    assert len(targets) == 19


def test_two_positions_at_one_object(tmp_path, rng):
    photo = random_photo(rng, 5)
    photo["mode"][:] = 1
    database = Database(photo, [])
    ra, dec = np.repeat(photo["ra"][:1], 3), photo["dec"][0] + np.array([0.5, 0.1, 0.3]) / 3600
    targets, missed = sample.near(server_of(database), ra, dec, 2.0, tmp_path / "a")
    assert (targets.objid.tolist(), targets.columns["target"].tolist()) == ([photo["objID"][0]], [1])
    assert missed.tolist() == []
    with pytest.raises(DataError, match=r"no object is within 2 arcsec of any of the 1 positions"):
        sample.near(server_of(database), np.array([1.0]), np.array([-89.0]), 2.0, tmp_path / "b")


def test_separation():
    assert sample.separation_arcsec(10, 0, 10, 1) == pytest.approx(3600)
    assert sample.separation_arcsec(359.9, 60, 0.1, 60) == pytest.approx(0.1 * 3600, rel=1e-5)
    assert sample.separation_arcsec(0, 0, 180, 0) == pytest.approx(180 * 3600)
    assert sample.separation_arcsec(77, -12, 77, -12) == 0


def test_addresses_stay_short():
    """Servers of the kind that the survey runs refuse queries above 2,048 bytes unless told otherwise."""
    server = SkyServer(Direct(None), "https://skyserver.sdss.org/dr16/SkyServerWS/SearchTools/SqlSearch")
    top = (1 << 62) - 1
    many = np.full(query.NEAR_AT_ONCE, 359.9999999), np.full(query.NEAR_AT_ONCE, -89.9999999)
    for sql in (
        query.sample("faint-compact", top, top, 20_000),
        query.classes([top] * query.CLASSES_AT_ONCE),
        query.near(range(9_999_990, 9_999_990 + query.NEAR_AT_ONCE), *many, 9999.9),
    ):
        assert len(server.address(sql)) < 2048
        assert not re.search(r"[;\n]|--", sql)
    with pytest.raises(ConfigError, match="there is no population 'x'; expected all"):
        query.sample("x", 0, 1, 1)


def test_strips_cover_every_run():
    before = None
    for first in range(0, sample.MAX_RUN + 1, sample.RUNS_AT_ONCE):
        least, largest = sample.object_range(range(first, first + sample.RUNS_AT_ONCE))
        assert decode(least).run == first
        assert decode(largest).run == first + sample.RUNS_AT_ONCE - 1
        assert before is None or least > before
        before = largest
    assert decode(largest).run >= 8162


def test_choosing_objects_of_each_class(rng):
    survey = toy_survey(300, rng)
    targets = sample.Targets.make(1237645876861337600 + np.arange(300), survey.label)
    few = sample.per_class(targets, 20, 7)
    assert all((few.label == k).sum() == min(20, (targets.label == k).sum()) for k in range(-1, 3))
    assert (np.diff(few.objid) > 0).all()
    # Which, hangs on neither the order nor the number of the others.
    half = targets.select(np.isin(targets.objid, few.objid) | (np.arange(300) % 2 == 0))
    np.testing.assert_array_equal(sample.per_class(half, 20, 7).objid, few.objid)
    assert not np.array_equal(sample.per_class(targets, 20, 8).objid, few.objid)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "the answer begins with ''; expected a table of objID, z"),
        (b"<html><h1>Server busy</h1></html>", "begins with '<html><h1>Server busy"),
        (b"#Table1\nobjID\n1\n", "begins with '#Table1 objID 1'"),
        (b"objID,z\n1,2,3\n", "row 1 of the answer has 3 cells; expected 2"),
        (b"objID,z\n1\n", "row 1 of the answer has 1 cells"),
        (b"objID,z\n1," + b"9" * 300, "at most 200 characters"),
        (b"\xff\xfe\x00", "the answer is no table"),
        (b'objID,z\n"1,2\n', "the answer is no table"),
    ],
)
def test_answers_that_are_none(answer, message):
    with pytest.raises(FetchError) as caught:
        parse(answer, ("objID", "z"), "here")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_answers():
    for answer in (
        b"#Table1\nobjID,z\n1,2\n3,\n",
        b"\xef\xbb\xbfZ,OBJID\r\n2,1\r\n,3\r\n",
        b'objID,z\n1,"2"\n3,',
    ):
        assert parse(answer, ("objID", "z"), "here") == [["1", "2"], ["3", ""]]
    assert parse(b"objID,z\n", ("objID", "z"), "here") == []


HEADER = b"objID,ra,dec,specObjID,class,z,zErr,compactness,meanMag\n"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (b"5,1,1,1,STAR,0,0,0,0\n", "out of order or of other objects"),
        (b"1237645876861337602,1,1,1,STAR,0,0,0,0\n1237645876861337601,1,1,1,STAR,0,0,0,0\n", "out of order"),
        (b"1.2376e+18,1,1,1,STAR,0,0,0,0\n", "'1.2376e+18' is no identifier"),
        (b"1237645876861337601,1,1,1,COMET,0,0,0,0\n", "the database knows a class 'COMET'"),
        (b"1237645876861337601,1,1,../x,STAR,0,0,0,0\n", "'../x' is no identifier of a spectrum"),
        (b"1237645876861337601,1,1,1,STAR,zero,0,0,0\n", "'zero' is no number"),
        (b"", "the database has no object of the sample"),
    ],
)
def test_a_database_that_cannot_be_believed(tmp_path, rows, message):
    class Fixed:
        def get(self, url: str, **_: int) -> bytes:
            sql = urllib.parse.parse_qs(url.split("?", 1)[1])["cmd"][0]
            after = int(re.search(r"p\.objID > (\d+)", sql)[1])
            upto = int(re.search(r"p\.objID <= (\d+)", sql)[1])
            ours = after < 1237645876861337601 <= upto
            return HEADER + (rows if ours else b"")

    server = SkyServer(Fixed(), "http://x/sql", 0.0, sleep=lambda seconds: None)
    with pytest.raises((FetchError, DataError)) as caught:
        sample.spectroscopic(server, "all", tmp_path / "a")
    assert message in str(caught.value)
    # Nothing of it is kept: when the database is well again, the same command gets there.
    assert not any(rows in path.read_bytes() for path in (tmp_path / "a").iterdir() if rows)


def test_queries_are_not_sent_in_a_burst():
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    class Instant:
        def get(self, *_: str, **__: int) -> bytes:
            now[0] += 0.25
            return b"x\n"

    server = SkyServer(Instant(), "http://x/sql", 1.0, sleep=sleep, clock=lambda: now[0])
    for _ in range(4):
        server.query("SELECT 1 AS x", ["x"])
    assert slept == [0.0, 0.75, 0.75, 0.75]


# The command, over a network that misbehaves


def database_of(
    files: dict, ids: dict[int, np.ndarray], rng: np.random.Generator
) -> tuple[Database, dict, list]:
    """A database that knows the objects of synthetic fields."""
    objid = np.concatenate(list(ids.values()))
    photo = random_photo(rng, len(objid))
    photo["objID"] = objid
    photo["mode"][:] = photo["clean"][:] = 1
    with tempfile.TemporaryDirectory() as folder:
        put_down({name: content for name, content in files.items() if "photoObj" in name}, Path(folder))
        for path in sorted(Path(folder).iterdir()):
            catalogue = read_catalogue(path)
            rows = np.searchsorted(objid, catalogue.objid)
            photo["ra"][rows], photo["dec"][rows] = catalogue.ra, catalogue.dec
    spectra = [(str(k + 1), i, CLASSES[k % 3], 0.1 * k, 0.0, 0, 1) for k, i in enumerate(objid.tolist())]
    return Database(photo, spectra), photo, spectra


@pytest.fixture
def survey_at_hand(rng):
    fields = {field: synthetic_field(rng, field, count=5) for field in (12, 13, 14)}
    files = {name: content for part, _ in fields.values() for name, content in part.items()}
    ids = {field: part for field, (_, part) in fields.items()}
    return files, ids, *database_of(files, ids, rng)


def test_the_sample_into_a_store(tmp_path, rng, survey_at_hand, capfd):
    files, _, database, photo, spectra = survey_at_hand
    bad = BadServer(archived(files), database.answer, now_and_then(int(rng.integers(1 << 30)), 0.15))
    bad.digests = True  # a wrong digit in an answer is seen by nothing else
    expected = by_python(photo, spectra, "all")
    with bad.running():
        urls = ["--base-url", bad.url, "--sql-url", f"{bad.url}/sql", *QUICK, "--retries", "12"]
        arguments = ["fetch", "sdss", "--population", "all", "--out", str(tmp_path / "s"), *urls]
        assert run(main, [*arguments, "--dry-run"]) == 0
        assert f"objects    {len(expected):,}\n" in capfd.readouterr().out
        asked = len(database.asked)
        for _ in range(5):
            if run(main, arguments) == 0:
                break
        assert len(database.asked) == asked  # the plan's answers are the request's
    survey = read_store(tmp_path / "s")
    assert {
        i: (spectrum, CLASSES[k])
        for i, spectrum, k in zip(
            survey.objid.tolist(), survey.columns["specobjid"].tolist(), survey.label.tolist(), strict=True
        )
    } == expected
    provenance = read_manifest(tmp_path / "s").provenance
    assert provenance["fetch"]["query"] == query.sample("all", 0, 0, 1)
    assert "SpecObj.class" in provenance["class"]
    assert not (tmp_path / "s.fetch").exists()


def test_a_few_of_each_class(tmp_path, survey_at_hand):
    files, _, database, *_ = survey_at_hand
    with BadServer(archived(files), database.answer).running() as bad:
        urls = ["--base-url", bad.url, "--sql-url", f"{bad.url}/sql", *QUICK]
        arguments = ["fetch", "sdss", "--population", "all", "--per-class", "1", "--out", str(tmp_path / "s")]
        assert run(main, [*arguments, *urls]) == 0
    assert sorted(read_store(tmp_path / "s").label.tolist()) == [0, 1, 2]


def test_positions_into_a_store(tmp_path, survey_at_hand, capfd):
    files, _, database, photo, _ = survey_at_hand
    rows = [0, 7, 11]
    lines = [f"{photo['ra'][k]:.7f},{photo['dec'][k] + 0.2 / 3600:.7f}" for k in rows]
    (tmp_path / "mine.csv").write_text("RA,Dec\n" + "\n".join([*lines, "10.0,-80.0"]) + "\n")
    with BadServer(archived(files), database.answer).running() as bad:
        urls = ["--base-url", bad.url, "--sql-url", f"{bad.url}/sql", *QUICK]
        arguments = ["fetch", "sdss", "--positions", str(tmp_path / "mine.csv"), "--out", str(tmp_path / "s")]
        assert run(main, [*arguments, *urls]) == 0
    assert "positions without an object of their own within 2 arcsec: 1" in capfd.readouterr().out
    survey = read_store(tmp_path / "s")
    assert dict(zip(survey.columns["target"].tolist(), survey.objid.tolist(), strict=True)) == {
        k: int(photo["objID"][row]) for k, row in enumerate(rows)
    }
    np.testing.assert_allclose(survey.columns["separation_arcsec"], 0.2, atol=0.01)
    assert [CLASSES[k] for k in survey.label] == [CLASSES[row % 3] for row in rows]


def test_a_list_asks_for_its_classes(tmp_path, survey_at_hand):
    files, ids, database, *_ = survey_at_hand
    (tmp_path / "list.txt").write_text("\n".join(map(str, ids[13].tolist())))
    with BadServer(archived(files), database.answer).running() as bad:
        urls = ["--base-url", bad.url, "--sql-url", f"{bad.url}/sql", *QUICK]
        arguments = ["fetch", "sdss", "--objids", str(tmp_path / "list.txt"), "--out", str(tmp_path / "s")]
        assert run(main, [*arguments, *urls]) == 0
        assert len(bad.requests("/sql")) == 1
    survey = read_store(tmp_path / "s")
    assert [CLASSES[k] for k in survey.label] == [CLASSES[k % 3] for k in range(5, 10)]


def test_a_database_that_does_not_like_the_query(tmp_path, capfd):
    with BadServer(answer=lambda sql: 400).running() as bad:
        arguments = ["fetch", "sdss", "--out", str(tmp_path / "s"), "--base-url", bad.url, *QUICK]
        assert run(main, [*arguments, "--sql-url", f"{bad.url}/sql"]) == 1
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert re.match(
        r"error: http\S+/sql: the server refuses: 400 Bad Request \(Error 400 of the test\)$", error
    )


def test_the_documented_query_is_the_one_that_is_sent():
    """docs/fetching.md shows the text; it is this."""
    page = (Path(__file__).parent.parent / "docs" / "fetching.md").read_text()
    shown = " ".join(re.search(r"```sql\n(.*?)```", page, re.DOTALL)[1].split())
    sent = query.sample("faint-compact", 0, 1, 20_000)
    sent = sent.replace("p.objID > 0 ", "p.objID > :after ").replace("p.objID <= 1 ", "p.objID <= :upto ")
    assert shown == sent


def test_the_client_meets_a_busy_database(rng):
    """Over the network, through every misdeed."""
    photo = random_photo(rng, 30)
    database = Database(photo, random_spectra(rng, photo["objID"]))
    bad = BadServer(answer=database.answer, misdeed=lambda path, n: "503" if n < 2 else None)
    with bad.running():
        server = SkyServer(Client(QUICK_CLIENT), f"{bad.url}/sql?x=1", 0.0)
        rows = server.query(query.classes(photo["objID"]), query.CLASS_COLUMNS)
    assert rows
