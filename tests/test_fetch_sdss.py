"""From the archive to a survey store: byte for byte what `ingest` makes of the files, come what may."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from bad_server import BadServer, now_and_then
from fetch_archive import (
    COMMAND,
    QUICK,
    archived,
    command,
    put_down,
    real_files,
    store_bytes,
    synthetic_field,
)
from kill_fetch import kill_until_done

from margformer_fast.cli import run
from margformer_fast.data.__main__ import main
from margformer_fast.data.fetch.archive import FieldId
from margformer_fast.data.fetch.journal import Journal
from margformer_fast.data.fetch.sdss import work_folder
from margformer_fast.data.sdss.objid import encode
from margformer_fast.data.store import read_manifest, read_store, verify_store


@pytest.fixture
def archive(rng):
    """Four synthetic fields: their files, and their identifiers by field."""
    fields = {field: synthetic_field(rng, field, count=3 + field % 3) for field in (12, 13, 14, 20)}
    files = {
        name: content for content_by_name, _ in fields.values() for name, content in content_by_name.items()
    }
    return files, {field: ids for field, (_, ids) in fields.items()}


def names(ids: dict[int, np.ndarray]) -> list[str]:
    return [f"94-1-{field}" for field in ids]


def same_store(fetched: Path, ingested: Path) -> None:
    assert store_bytes(fetched) == store_bytes(ingested)
    assert verify_store(fetched).ok
    a, b = (json.loads((store / "survey.json").read_text()) for store in (fetched, ingested))
    fetch = a["provenance"].pop("fetch")
    assert a["provenance"] == b["provenance"]
    assert fetch["request"]["kind"] == "fields"
    for about in (a, b):
        for entry in (*about["stamps"], about["catalog"]):
            del entry["sha256"]  # of the file with its date
        del about["created"], about["name"]
    assert a == b


def test_byte_for_byte_what_ingest_makes(tmp_path, archive, capfd):
    files, ids = archive
    direct = put_down(files, tmp_path / "direct")
    assert run(main, ["ingest", str(direct), "--out", str(tmp_path / "a")]) == 0
    with BadServer(archived(files)).running() as bad:
        arguments = [
            "fetch",
            "sdss",
            "--fields",
            *names(ids),
            "--out",
            str(tmp_path / "b"),
            "--base-url",
            bad.url,
        ]
        assert run(main, [*arguments, *QUICK]) == 0
        same_store(tmp_path / "b", tmp_path / "a")
        assert {one.range for one in bad.log} == {""}
        assert len(bad.log) == 4 * 6  # no psField: nothing is made of it
        # The same again asks for nothing.
        bad.log.clear()
        assert run(main, [*arguments, *QUICK]) == 0
        assert "is complete already" in capfd.readouterr().out
        assert run(main, [*arguments, "--modes", "1", "2", *QUICK]) == 1
        assert "already exists. Choose another place, or pass --overwrite." in capfd.readouterr().err
        assert bad.log == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "direct"]


def test_a_real_field(tmp_path, real_data):
    files = real_files(real_data / "sdss" / "94-1-12")
    direct = put_down(files, tmp_path / "direct")
    options = ["--modes", "1", "2", "4", "--keep-unclean"]
    assert run(main, ["ingest", str(direct), "--out", str(tmp_path / "a"), *options]) == 0
    misdeed = {"frame-g": "truncate", "frame-z": "reset", "photoObj": "500", "frame-u": "corrupt"}

    def once(path: str, n: int) -> str | None:
        return next((m for part, m in misdeed.items() if part in path and n == 0), None)

    with BadServer(archived(files), misdeed=once).running() as bad:
        done = command(
            "sdss",
            "--fields",
            "94-1-12",
            *options,
            "--out",
            tmp_path / "b",
            "--base-url",
            bad.url,
            "--wait",
            "0.01",
        )
        assert done.returncode == 0, done.stderr
        assert any(one.range for one in bad.requests("frame-g"))
    same_store(tmp_path / "b", tmp_path / "a")


@pytest.mark.parametrize("seed", range(2))
def test_everything_goes_wrong(tmp_path, archive, rng, seed):
    files, ids = archive
    direct = put_down(files, tmp_path / "direct")
    assert run(main, ["ingest", str(direct), "--out", str(tmp_path / "a")]) == 0
    bad = BadServer(
        archived(files),
        misdeed=now_and_then(int(rng.integers(1 << 30)), 0.4),
        drip_seconds=0.05,
        digests=True,
    )
    with bad.running():
        arguments = [
            "fetch",
            "sdss",
            "--fields",
            *names(ids),
            "--out",
            str(tmp_path / "b"),
            "--base-url",
            bad.url,
        ]
        code = 1
        for _ in range(
            20
        ):  # a file that arrives damaged three times in a row fails its field, until asked again
            code = run(main, [*arguments, *QUICK])
            if code == 0:
                break
    assert code == 0
    same_store(tmp_path / "b", tmp_path / "a")


def test_killed_and_gone_on(tmp_path, archive, rng):
    files, ids = archive
    direct = put_down(files, tmp_path / "direct")
    assert run(main, ["ingest", str(direct), "--out", str(tmp_path / "a")]) == 0
    bad = BadServer(archived(files), misdeed=now_and_then(int(rng.integers(1 << 30)), 0.2), digests=True)
    with bad.running():
        arguments = ["sdss", "--fields", *names(ids), "--out", tmp_path / "b", "--base-url", bad.url, *QUICK]
        kills = kill_until_done(arguments, bad, rng, kills=4)
    assert kills >= 1
    same_store(tmp_path / "b", tmp_path / "a")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "direct"]


def test_ctrl_c_says_how_to_go_on(tmp_path, archive):
    files, ids = archive
    bad = BadServer(
        archived(files), misdeed=lambda path, n: "hang" if "0020" in path else None, hang_seconds=30
    )
    with bad.running():
        arguments = ["sdss", "--fields", *names(ids), "--out", tmp_path / "b", "--base-url", bad.url]
        arguments += ["--timeout", "60", "--wait", "0.01"]
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stderr=subprocess.PIPE,
            text=True,
            stdout=subprocess.DEVNULL,
            # A shell's background jobs ignore Ctrl-C, and so would what they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        journal = tmp_path / "b.fetch" / "journal.jsonl"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (journal.exists() and journal.read_text().count("\n") == 3):
            time.sleep(0.05)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=60)[1]
    assert time.monotonic() - began < 20  # not as long as a silent server is waited for
    assert process.returncode == 130
    last = error.strip().splitlines()[-1]
    assert last == (
        f"interrupted: 3 of 4 fields are in {tmp_path / 'b.fetch'}; run the same command again to go on"
    )


def listed(path: Path, ids: np.ndarray, classes: list[str] | None = None) -> Path:
    rows = [f"{i},{c}" for i, c in zip(ids, classes, strict=True)] if classes else [str(i) for i in ids]
    path.write_text("\n".join(["objid,class" if classes else "objid", *rows]) + "\n")
    return path


def test_a_list_with_classes(tmp_path, archive, rng, capfd):
    files, ids = archive
    wanted = np.concatenate([ids[12][[2, 0]], ids[20][:1], ids[13][:0]])
    absent = encode(94, 1, 14, 999)
    path = listed(tmp_path / "list.csv", [*wanted, absent], ["QSO", "STAR", "GALAXY", "STAR"])
    with BadServer(archived(files)).running() as bad:
        out = tmp_path / "s"
        arguments = ["fetch", "sdss", "--objids", str(path), "--classes", "sql", "--out", str(out)]
        assert run(main, [*arguments, "--base-url", bad.url, *QUICK]) == 0
        # No frame of the field of which nothing is wanted that there is.
        assert [one.path.rsplit("/", 1)[1] for one in bad.requests("0014")] == ["photoObj-000094-1-0014.fits"]
        assert bad.requests("0013") == []
    survey = read_store(out)
    assert dict(zip(survey.objid.tolist(), survey.label.tolist(), strict=True)) == {
        int(ids[12][0]): 2,
        int(ids[12][2]): 1,
        int(ids[20][0]): 0,
    }
    said = capfd.readouterr().out
    assert "wanted: 4, of which 3 are in the store" in said
    assert "not in the catalogues of their fields: 1" in said
    provenance = read_manifest(out).provenance
    assert provenance["class"] == "the list of wanted objects"
    assert provenance["fetch"]["wanted"] == 4
    assert provenance["fetch"]["request"]["objids"]["name"] == "list.csv"
    assert provenance["report"]["dropped"]["not asked for"] == sum(map(len, (ids[12], ids[14], ids[20]))) - 3
    # The pixels are those that ingest cuts.
    put_down(files, tmp_path / "direct")
    assert run(main, ["ingest", str(tmp_path / "direct"), "--out", str(tmp_path / "a")]) == 0
    all_of_it = read_store(tmp_path / "a")
    rows = [all_of_it.objid.tolist().index(i) for i in survey.objid.tolist()]
    np.testing.assert_array_equal(survey.stamps.decode(), all_of_it.stamps.decode(np.array(rows)))
    for name, column in all_of_it.columns.items():
        np.testing.assert_array_equal(survey.columns[name], column[rows])


def test_files_of_identifiers_and_classes(tmp_path, archive):
    files, ids = archive
    np.save(tmp_path / "objlist.npy", ids[12])
    (tmp_path / "y.txt").write_text("STAR\n" * len(ids[12]))
    with BadServer(archived(files)).running() as bad:
        for classes, out in ((str(tmp_path / "y.txt"), "a"), ("photometric", "b")):
            arguments = ["fetch", "sdss", "--objids", str(tmp_path / "objlist.npy"), "--classes", classes]
            arguments += ["--out", str(tmp_path / out), "--base-url", bad.url, *QUICK]
            assert run(main, arguments) == 0
    assert set(read_store(tmp_path / "a").label.tolist()) == {2}
    assert set(read_store(tmp_path / "b").label.tolist()) == {0, 2}  # every other one: sdss_files
    assert "OBJC_TYPE" in read_manifest(tmp_path / "b").provenance["class"]


def test_frames_are_kept(tmp_path, archive, capfd):
    files, _ = archive
    with BadServer(archived(files)).running() as bad:
        arguments = ["fetch", "sdss", "--fields", "94-1-12", "--keep-frames", "--base-url", bad.url, *QUICK]
        arguments += ["--out", str(tmp_path / "s")]
        assert run(main, arguments) == 0
        kept = tmp_path / "s.fetch" / "files" / "94" / "1"
        assert {p.name: p.read_bytes() for p in kept.iterdir()} == {
            name: content for name, content in files.items() if "0012" in name
        }
        assert f"files are in {tmp_path / 's.fetch' / 'files'}" in capfd.readouterr().out
        assert sorted(p.name for p in (tmp_path / "s.fetch").iterdir()) == ["files", "request.json"]
        # Cut again, from what is kept.
        bad.log.clear()
        assert run(main, [*arguments, "--overwrite"]) == 0
        assert bad.log == []
    assert run(main, ["ingest", str(kept), "--out", str(tmp_path / "a")]) == 0
    same_store(tmp_path / "s", tmp_path / "a")


def test_a_field_that_cannot_be_had(tmp_path, archive, capfd):
    files, ids = archive
    lost = {name: content for name, content in files.items() if "frame-i-000094-1-0013" not in name}
    with BadServer(archived(lost)).running() as bad:
        arguments = [
            "fetch",
            "sdss",
            "--fields",
            *names(ids),
            "--out",
            str(tmp_path / "s"),
            "--base-url",
            bad.url,
        ]
        assert run(main, [*arguments, *QUICK]) == 1
        error = capfd.readouterr().err.strip().splitlines()[-1]
        assert re.match(
            rf"error: {tmp_path / 's.fetch'}: 1 field \(94-1-13\) could not be had "
            r"\(http\S+/frame-i-000094-1-0013\.fits\.bz2: is not there\)\. Run the same command again "
            r"to try once more, "
            r"or with --skip-broken to do without",
            error,
        )
        assert not (tmp_path / "s").exists()
        # Only that field is tried again, and of it only what is not here.
        bad.log.clear()
        assert run(main, [*arguments, *QUICK, "--skip-broken"]) == 0
        assert [one.path.rsplit("/", 1)[1] for one in bad.log] == ["frame-i-000094-1-0013.fits.bz2"]
    survey = read_store(tmp_path / "s")
    assert set(survey.columns["field"].tolist()) == {12, 14, 20}
    assert "94-1-13: http" in read_manifest(tmp_path / "s").provenance["report"]["failures"][0]


def test_a_file_that_arrives_whole_and_is_none(tmp_path, archive, capfd):
    """A page that says sorry, with status 200; a frame that stays damaged; files of another band or field.

    None of them lies in the way when the server has come to its senses.
    """
    files, _ = archive
    frame, catalogue = "frame-r-000094-1-0012.fits.bz2", "photoObj-000094-1-0012.fits"
    model = "psField-000094-1-0012.fit"
    for name, content, message, asked in (
        (frame, b"<html>We are down for maintenance</html>", r"arrives whole and cannot be read", 3),
        (
            frame,
            files[frame][:-100],
            r"arrives whole and cannot be read \(the compressed file is cut short",
            3,
        ),
        (frame, files["frame-g-000094-1-0012.fits.bz2"], r"FILTER is 'g'; expected 'r'", 1),
        (catalogue, files[catalogue][:-5000], r"arrives whole and cannot be read", 3),
        (catalogue, files["photoObj-000094-1-0013.fits"], r"is of field 13", 1),
        (model, files[model][:-3000], r"arrives whole and cannot be read", 3),
    ):
        out = tmp_path / "s"
        with BadServer(archived({**files, name: content})).running() as bad:
            arguments = ["fetch", "sdss", "--fields", "94-1-12", "--out", str(out), *QUICK, "--keep-frames"]
            assert run(main, [*arguments, "--base-url", bad.url]) == 1
            assert re.search(message, capfd.readouterr().err)
            assert len(bad.requests(name)) == asked
            bad.files = archived(files)
            assert run(main, [*arguments, "--base-url", bad.url]) == 0
            assert len(bad.requests()) == asked + 7
        shutil.rmtree(out)
        shutil.rmtree(work_folder(out))


def test_a_server_that_goes_down_ends_it(tmp_path, rng, capfd):
    """Not one field after the other is waited for in vain."""
    fields = [f"94-1-{k}" for k in range(12, 92)]
    bad = BadServer(misdeed=lambda path, n: "500")
    with bad.running():
        arguments = [
            "fetch",
            "sdss",
            "--fields",
            *fields,
            "--out",
            str(tmp_path / "s"),
            "--base-url",
            bad.url,
        ]
        assert run(main, [*arguments, "--retries", "1", "--wait", "0.001", "--connections", "2"]) == 1
    assert "cannot be fetched" in capfd.readouterr().err
    assert len(bad.asked) < 12


def test_without_a_network(tmp_path, capfd):
    arguments = ["fetch", "sdss", "--fields", "94-1-12", "--out", str(tmp_path / "s")]
    assert run(main, [*arguments, "--base-url", "http://archive.invalid/sas"]) == 1
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(
        "error: http://archive.invalid/sas/dr16/eboss/photoObj/301/94/1/photoObj-000094-1-0012"
    )
    assert "cannot be reached" in error
    assert error.endswith("with --dry-run --urls FILE, fetch them elsewhere, and `ingest` their folder.")
    # Nothing came of it, so another request may take the folder.
    arguments[3] = "94-1-13"
    assert run(main, [*arguments, "--base-url", "http://archive.invalid/sas"]) == 1
    assert "cannot be reached" in capfd.readouterr().err


def test_plans_need_no_network(tmp_path, rng, capfd):
    """As many objects as the published Experiment 1 has, in seconds."""
    count = 239_999
    ids = encode(
        rng.integers(94, 8162, count),
        rng.integers(1, 7, count),
        rng.integers(11, 900, count),
        np.arange(count) % 60_000,
    )
    np.save(tmp_path / "list.npy", ids)
    began = time.monotonic()
    arguments = [
        "fetch",
        "sdss",
        "--objids",
        str(tmp_path / "list.npy"),
        "--out",
        str(tmp_path / "s"),
        "--dry-run",
    ]
    assert run(main, [*arguments, "--rate", "100", "--base-url", "http://archive.invalid"]) == 0
    assert time.monotonic() - began < 20
    said = capfd.readouterr().out
    fields = len(np.unique(ids >> 16))
    assert f"objects    {len(np.unique(ids)):,}\n" in said
    assert (
        f"fields     {fields:,} in {len(np.unique(ids >> 32 & 0xFFFF)):,} runs, 0 of them here already\n"
        in said
    )
    assert f"files      {6 * fields:,} to fetch" in said
    total = fields * (5 * 3_523_471 + 3_041_280)
    assert f"bytes      {total / 1e12:,.2f} TB" in said
    assert f"hours      {total / 100e6 / 3600:,.1f} at 100 MB/s over 4 connections" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["list.npy"]


def test_the_published_plan(tmp_path, real_data, capfd):
    path = real_data / "margnet" / "objlist_exp1.npy"
    assert run(main, ["fetch", "sdss", "--objids", str(path), "--out", str(tmp_path / "s"), "--dry-run"]) == 0
    said = capfd.readouterr().out
    assert "objects    239,999\n" in said
    assert "fields     138,475 in 549 runs" in said


def test_addresses_for_another_machine(tmp_path, archive, capfd):
    files, _ = archive
    with BadServer(archived(files)).running() as bad:
        arguments = ["fetch", "sdss", "--fields", "94-1-12", "94-1-13", "--out", str(tmp_path / "s")]
        arguments += ["--base-url", bad.url]
        assert run(main, [*arguments, "--dry-run", "--urls", str(tmp_path / "urls")]) == 0
        urls = (tmp_path / "urls").read_text().split()
        assert len(urls) == 12
        assert all(url.removeprefix(bad.url) in bad.files for url in urls)
        assert bad.log == []
        # Half of it done, the plan is of the other half.
        assert run(main, [*arguments, *QUICK]) == 0
        (tmp_path / "s" / "survey.json").rename(tmp_path / "gone")
    assert "2 in 1 runs, 0 of them here already" in capfd.readouterr().out


def test_two_at_once_and_another_request(tmp_path, archive, capfd):
    files, _ = archive
    out = tmp_path / "s"
    with BadServer(archived(files)).running() as bad:
        arguments = ["fetch", "sdss", "--fields", "94-1-12", "--out", str(out), "--base-url", bad.url, *QUICK]
        with Journal(work_folder(out), {"kind": "other"}) as journal:
            assert run(main, arguments) == 1
            assert "another process is at work on it" in capfd.readouterr().err
            journal.fail(FieldId(94, 1, 12), "")
        assert run(main, arguments) == 2
        error = capfd.readouterr().err
        assert re.search(
            r"s\.fetch: work on another request is there: it differs in base_url, .*kind, ", error
        )
        assert bad.log == []
    other = tmp_path / "t.fetch"
    other.mkdir()
    (other / "thesis.txt").write_text("x")
    assert run(main, [*arguments[:5], str(tmp_path / "t"), *arguments[6:]]) == 2
    assert "holds something else" in capfd.readouterr().err
    assert (other / "thesis.txt").read_text() == "x"


def test_a_torn_journal_and_a_damaged_piece(tmp_path, archive, capfd):
    files, ids = archive
    out = tmp_path / "s"
    bad = BadServer(archived(files), misdeed=lambda path, n: "500" if "0020" in path else None)
    with bad.running():
        arguments = ["fetch", "sdss", "--fields", *names(ids), "--out", str(out), "--base-url", bad.url]
        arguments += ["--timeout", "0.5", "--wait", "0.001", "--retries", "1"]
        assert run(main, arguments) == 1
        journal = work_folder(out) / "journal.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True)
        assert len(lines) == 4
        # A kill in the middle of a line: that field is fetched again, and the next line is not glued to it.
        torn = next(k for k, line in enumerate(lines) if b"94-1-13" in line)
        journal.write_bytes(b"".join(lines[:torn] + lines[torn + 1 :]) + lines[torn][:-9])
        piece = next(work_folder(out).glob("pieces/94/94-1-14.npz"))
        piece.write_bytes(piece.read_bytes()[:-40] + bytes(40))
        bad.misdeed = lambda path, n: None
        bad.log.clear()
        assert run(main, arguments) == 1
        assert (
            "94-1-14.npz: is damaged, and was removed. Run the same command again" in capfd.readouterr().err
        )
        assert {re.search(r"-(\d{4})\.", one.path)[1] for one in bad.log} == {"0013", "0020"}
        bad.log.clear()
        assert run(main, arguments) == 0
        assert {re.search(r"-(\d{4})\.", one.path)[1] for one in bad.log} == {"0014"}
    put_down(files, tmp_path / "direct")
    assert run(main, ["ingest", str(tmp_path / "direct"), "--out", str(tmp_path / "a")]) == 0
    same_store(out, tmp_path / "a")


@pytest.mark.parametrize("overwrite", [False, True])
def test_stopped_when_all_but_the_tidying_is_done(tmp_path, archive, capfd, monkeypatch, overwrite):
    files, ids = archive
    out, again = tmp_path / "s", ["--overwrite"] * overwrite
    with BadServer(archived(files)).running() as bad:
        arguments = [
            "fetch",
            "sdss",
            "--fields",
            *names(ids),
            "--out",
            str(out),
            "--base-url",
            bad.url,
            *QUICK,
        ]
        with monkeypatch.context() as patch:
            remove = shutil.rmtree

            def stop_there(path, **options):
                if Path(path).name == "pieces":
                    raise KeyboardInterrupt
                remove(path, **options)

            patch.setattr("margformer_fast.data.fetch.journal.shutil.rmtree", stop_there)
            assert run(main, [*arguments, *again]) == 130
        assert verify_store(out).ok
        assert work_folder(out).exists()
        bad.log.clear()
        assert run(main, [*arguments, *again]) == 0
        assert bad.log == []
    assert "is complete already" in capfd.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s"]


def test_misuse(tmp_path, capfd):
    for extra, message in (
        (["--fields", "94-7-12"], "'94-7-12' is no field; expected run-camcol-field, such as 94-1-12"),
        (["--fields", "../../x"], "is no field"),
        (["--fields", "94-1-12", "--objids", "x"], "not allowed with argument"),
        (["--fields", "94-1-12", "--connections", "17"], "17 connections are more than a guest asks for"),
        (["--fields", "94-1-12", "--base-url", "file:///etc"], "'file:///etc' is no address"),
        (["--fields", "94-1-12", "--per-class", "3"], "--per-class goes with the sample"),
        (["--fields", "94-1-12", "--classes", "photometric"], "--classes goes with --objids or --positions"),
        (["--classes", "y.npy"], "--classes goes with --objids or --positions"),
        (["--positions", "p.csv", "--classes", "y.npy"], "a file of classes goes with --objids"),
        (["--objids", "x", "--modes", "2"], "--modes goes with --fields"),
        (["--objids", "x", "--keep-unclean"], "--keep-unclean goes with --fields"),
        (["--fields", "94-1-12", "--urls", "f"], "--urls goes with --dry-run"),
        (["--release", "7"], "data release 7 is not known; expected 8 to 17"),
        (["--population", "odd"], "there is no population 'odd'"),
        (["--fields", "94-1-12", "--modes", "3"], "modes are (3,); expected some of 1 (primary)"),
        (["--rate", "0"], "'0' is not a number above 0"),
    ):
        assert run(main, ["fetch", "sdss", "--out", str(tmp_path / "s"), *extra]) == 2, extra
        assert message in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []
