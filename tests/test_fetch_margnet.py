"""The published deposit: its list, its files, and what a hostile list gets."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from bad_server import MISDEEDS, BadServer, now_and_then
from fetch_archive import QUICK

from margformer_fast.cli import run
from margformer_fast.data.__main__ import main
from margformer_fast.data.fetch import deposit
from margformer_fast.data.fetch.http import Client, Patience
from margformer_fast.errors import ConfigError, DataError, FetchError

CLIENT = Patience(timeout=0.5, retries=8, first_wait=0.01, longest_wait=0.05)
ANSWER = "/api/records/6659435"


def npy(array: np.ndarray, tmp_path) -> bytes:
    np.save(tmp_path / "x.npy", array)
    content = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").unlink()
    return content


def entry(name: str, content: bytes, **changes) -> dict:
    sums = f"md5:{hashlib.md5(content).hexdigest()}"
    return {"key": name, "size": len(content), "checksum": sums, "links": {}} | changes


def record(files: dict[str, bytes], entries: list[dict] | None = None) -> dict[str, bytes]:
    """What a server of the record has, by path."""
    listed = [entry(name, content) for name, content in files.items()] if entries is None else entries
    placed = {f"{ANSWER}/files/{name}/content": content for name, content in files.items()}
    return {ANSWER: json.dumps({"id": 6659435, "files": listed}).encode(), **placed}


@pytest.fixture
def files(rng, tmp_path) -> dict[str, bytes]:
    """A small deposit of Experiment 1, which `import` understands, and an archive."""
    n = 60
    label = np.array(["GALAXY", "QSO", "STAR"])[np.arange(n) % 3]
    arrays = {
        "X_exp1.npy": rng.normal(size=(n, 32, 32, 5)).astype(np.float32),
        "dnnx_exp1.npy": rng.normal(size=(n, 24)),
        "objlist_exp1.npy": 1237645876861337601 + np.arange(n),
        "y_exp1.npy": label,
    }
    return {**{name: npy(array, tmp_path) for name, array in arrays.items()}, "models.zip": rng.bytes(5000)}


def test_fetched_and_told_how_to_go_on(tmp_path, files, capfd):
    out = tmp_path / "margnet"
    arguments = ["fetch", "margnet", "--out", str(out), *QUICK[:4]]
    with BadServer(record(files)).running() as bad:
        assert run(main, [*arguments, "--base-url", bad.url, "--dry-run"]) == 0
        said = capfd.readouterr().out
        assert all(f"{len(content):,}" in said for content in files.values())
        assert not out.exists()
        assert run(main, [*arguments, "--base-url", bad.url, "--only", "*exp1*", "*.zip"]) == 0
        said = capfd.readouterr().out
        assert f"unpack: python -m zipfile -e {out / 'models.zip'} {out}" in said
        assert said.endswith(f"what it holds: python -m margformer_fast.data import {out}\n")
        assert {p.name: p.read_bytes() for p in out.iterdir()} == files
        # Again: only the list is asked for, unless a file was damaged.
        bad.log.clear()
        assert run(main, [*arguments, "--base-url", bad.url]) == 0
        assert [one.path for one in bad.log] == [ANSWER]
        damaged = bytearray(files["X_exp1.npy"])
        damaged[1000] ^= 1
        (out / "X_exp1.npy").write_bytes(damaged)
        assert run(main, [*arguments, "--base-url", bad.url]) == 0
        assert (out / "X_exp1.npy").read_bytes() == files["X_exp1.npy"]
    capfd.readouterr()
    assert run(main, ["import", str(out)]) == 0
    assert "yes" in capfd.readouterr().out


def test_through_everything_that_goes_wrong(tmp_path, files, rng):
    bad = BadServer(record(files), misdeed=now_and_then(int(rng.integers(1 << 30)), 0.4), drip_seconds=0.05)
    bad.digests = True
    with bad.running():
        client = Client(CLIENT)
        listed = deposit.list_files(client, bad.url)
        came: list[int] = []
        for _ in range(10):
            try:
                deposit.fetch_files(client, listed, tmp_path / "d", progress=came.append)
                break
            except FetchError:
                continue
    assert {p.name: p.read_bytes() for p in (tmp_path / "d").iterdir()} == files
    assert len(MISDEEDS) == 13


def test_a_large_file_is_gone_on_with(tmp_path, rng):
    """Stopped in the middle, the next command asks for the rest; the server need not name its version."""
    content = rng.bytes(400_000)
    bad = BadServer(
        record({"X.npy": content}), misdeed=lambda path, n: "truncate" if "X.npy" in path else None
    )
    with bad.running():
        listed = deposit.list_files(Client(CLIENT), bad.url)
        with pytest.raises(FetchError):
            deposit.fetch_files(
                Client(Patience(0.5, 0, 0.01)), listed, tmp_path, progress=lambda n: 1 / (n < 1e5) or stop()
            )
        part = (tmp_path / "X.npy.part").stat().st_size
        assert 0 < part < len(content)
        bad.misdeed = lambda path, n: None
        bad.log.clear()
        deposit.fetch_files(Client(CLIENT), listed, tmp_path)
    assert [one.range for one in bad.log] == [f"bytes={part}-"]
    assert (tmp_path / "X.npy").read_bytes() == content


def stop() -> None:
    raise FetchError("stopped")


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/passwd",
        "a/b",
        "a\\b",
        ".bashrc",
        "",
        "x" * 300,
        "a\0b",
        "a\nb",
        "x.part",
        "x.part.json",
        "-rf",
        "CON:",
        7,
        None,
    ],
)
def test_names_never_leave_the_folder(tmp_path, name):
    with BadServer(record({}, [entry("good", b"x"), entry(name, b"x")])).running() as bad:
        with pytest.raises(FetchError, match=r"is no list of a record's files|plain file name"):
            deposit.list_files(Client(CLIENT), bad.url)
        assert run(main, ["fetch", "margnet", "--out", str(tmp_path / "d" / "e"), "--base-url", bad.url]) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>busy</html>",
        b"{}",
        b"[]",
        b'{"files": []}',
        b'{"files": {"a": 1}}',
        b'{"files": [7]}',
        b"[" * 100_000,
        json.dumps({"files": [entry("a", b"x", size=-1)]}).encode(),
        json.dumps({"files": [entry("a", b"x", size=1 << 50)]}).encode(),
        json.dumps({"files": [entry("a", b"x", size=True)]}).encode(),
        json.dumps({"files": [entry("a", b"x", size="1")]}).encode(),
        json.dumps({"files": [entry("a", b"x", checksum="md5:")]}).encode(),
        json.dumps({"files": [entry("a", b"x", checksum="crc32:00000000")]}).encode(),
        json.dumps({"files": [entry("a", b"x"), entry("A", b"y")]}).encode(),
    ],
)
def test_lists_that_cannot_be_trusted(answer):
    with BadServer({ANSWER: answer}).running() as bad, pytest.raises(FetchError) as caught:
        deposit.list_files(Client(CLIENT), bad.url)
    assert "\n" not in str(caught.value)


def test_other_servers_are_not_asked(tmp_path, rng):
    content = rng.bytes(100)
    links = {"self": "http://127.0.0.1:9/evil"}
    with BadServer(record({"a": content}, [entry("a", content, links=links)])).running() as bad:
        (one,) = deposit.list_files(Client(CLIENT), bad.url)
        assert one.url == f"{bad.url}{ANSWER}/files/a/content"
        bad.files = {
            **bad.files,
            ANSWER: json.dumps(
                {"files": [entry("a", content, links={"self": f"{bad.url}/other/a"})]}
            ).encode(),
            "/other/a": content,
        }
        (one,) = deposit.list_files(Client(CLIENT), bad.url)
        assert one.url == f"{bad.url}/other/a"
        deposit.fetch_files(Client(CLIENT), [one], tmp_path)
    assert (tmp_path / "a").read_bytes() == content


def test_a_file_that_is_not_the_listed_one(tmp_path, rng, capfd):
    content = rng.bytes(5000)
    for served in (content[:-1], content + b"x", content[:-1] + bytes([content[-1] ^ 1])):
        with BadServer(record({"a": served}, [entry("a", content)])).running() as bad:
            assert (
                run(
                    main,
                    ["fetch", "margnet", "--out", str(tmp_path), "--base-url", bad.url, "--wait", "0.001"],
                )
                == 1
            )
        assert "/files/a/content: cannot be fetched" in capfd.readouterr().err
        assert list(tmp_path.iterdir()) == []


def test_choosing_and_misuse(tmp_path, capfd):
    with BadServer(record({"a_exp1.npy": b"1", "b_exp3.npy": b"2"})).running() as bad:
        listed = deposit.list_files(Client(CLIENT), bad.url)
        assert [one.name for one in deposit.choose(listed, [])] == ["a_exp1.npy", "b_exp3.npy"]
        assert [one.name for one in deposit.choose(listed, ["*exp3*"])] == ["b_exp3.npy"]
        with pytest.raises(
            DataError, match=r"no file of the record matches \*exp4\*; expected a_exp1.npy, b_exp3.npy"
        ):
            deposit.choose(listed, ["*exp4*"])
        with pytest.raises(ConfigError, match="is no record"):
            deposit.list_files(Client(CLIENT), bad.url, "../..")
        (tmp_path / "file").write_text("")
        assert run(main, ["fetch", "margnet", "--out", str(tmp_path / "file"), "--base-url", bad.url]) == 1
        assert "cannot be made" in capfd.readouterr().err


def test_without_a_network(tmp_path, capfd):
    arguments = ["fetch", "margnet", "--out", str(tmp_path / "d"), "--base-url", "http://zenodo.invalid"]
    assert run(main, arguments) == 1
    error = capfd.readouterr().err
    assert error.startswith("error: http://zenodo.invalid/api/records/6659435: cannot be reached (")
    assert error.count("\n") == 1
    assert error.endswith(
        "Try again where there is a network: what was fetched stays. Or fetch the files of"
        " http://zenodo.invalid/records/6659435 elsewhere, and `import` their folder.\n"
    )
