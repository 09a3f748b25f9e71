"""Files are whole or absent: on success, on every kind of failure, and after a kill."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from margformer_fast import files
from margformer_fast.errors import DataError, OutputError, OutputInUse
from margformer_fast.files import atomic_directory, atomic_file, read_json, sha256_file, write_json


def fail_with(code: int):
    """Return a stand-in for a system call that fails."""

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_atomic_file_replaces_at_the_end(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_atomic_file_leaves_nothing_after_a_failure(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    expected = OutputError if isinstance(error, OSError) else type(error)

    def attempt() -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("new")
            raise error

    with pytest.raises(expected):
        attempt()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", fail_with(errno.ENOSPC))
    path = tmp_path / "a.txt"
    with pytest.raises(OutputError) as caught:
        write_json(path, [1])
    assert str(caught.value) == (
        f"{path}: cannot be written: No space left on device."
        " Free some space or choose another place; nothing was left half written."
    )
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutputError, match="No space left on device"), atomic_directory(path) as temporary:
        (temporary / "b").write_text("b")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written: Not a directory"):
        write_json(tmp_path / "file" / "a.json", {})
    with (
        pytest.raises(OutputError, match=rf"cannot be written: File exists \({tmp_path / 'file'}\)"),
        atomic_directory(tmp_path / "file" / "d"),
    ):
        pytest.fail("the block must not run")
    with pytest.raises(OutputError, match="cannot be written: No such file"):
        write_json(tmp_path / "no" / "a.json", {})


def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OutputError, match=f"{name}: is no regular file"):
            write_json(tmp_path / name, {})
    assert (tmp_path / "pipe").is_fifo()


def test_errors_of_reading_are_not_called_errors_of_writing(tmp_path):
    """The block may read other files; that an input is missing is no matter of the output."""
    for make in (atomic_file, atomic_directory):
        with pytest.raises(FileNotFoundError, match=r"input\.fits"), make(tmp_path / "out"):
            (tmp_path / "input.fits").read_bytes()
        with pytest.raises(OSError, match=r"^Invalid data stream$"), make(tmp_path / "out"):
            raise OSError("Invalid data stream")
    assert list(tmp_path.iterdir()) == []


def test_atomic_directory_appears_whole(tmp_path):
    path = tmp_path / "deep" / "store"
    with atomic_directory(path) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "a").write_text("a")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert (path / "sub" / "a").read_text() == "a"
    assert list(path.parent.iterdir()) == [path]


def test_atomic_directory_is_as_open_as_any_other(tmp_path):
    with atomic_directory(tmp_path / "made"):
        pass
    (tmp_path / "plain").mkdir()
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("made", "plain")}
    assert len(modes) == 1


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError(errno.EDQUOT, "quota")])
def test_atomic_directory_leaves_the_old_one_after_a_failure(tmp_path, error):
    path = tmp_path / "store"
    path.mkdir()
    (path / "a").write_text("old")
    expected = OutputError if isinstance(error, OSError) else type(error)

    def attempt() -> None:
        with atomic_directory(path, overwrite=True) as temporary:
            (temporary / "a").write_text("new")
            raise error

    with pytest.raises(expected):
        attempt()
    assert (path / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_directory_overwrites_only_if_told(tmp_path):
    path = tmp_path / "store"
    path.mkdir()
    (path / "a").write_text("old")
    with (
        pytest.raises(OutputError, match=r"already exists\. Choose another place, or pass --overwrite"),
        atomic_directory(path),
    ):
        pytest.fail("the block must not run")
    with atomic_directory(path, overwrite=True) as temporary:
        (temporary / "b").write_text("new")
    assert [file.name for file in path.iterdir()] == ["b"]
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="is a file"), atomic_directory(tmp_path / "file", overwrite=True):
        pytest.fail("the block must not run")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_directory_made_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "store"

    def attempt() -> None:
        with atomic_directory(path) as temporary:
            (temporary / "a").write_text("mine")
            path.mkdir()
            (path / "a").write_text("theirs")

    with pytest.raises(OutputError, match="cannot be written: Directory not empty"):
        attempt()
    assert (path / "a").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_rename_puts_the_old_directory_back(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    path = tmp_path / "store"
    path.mkdir()
    (path / "a").write_text("old")
    rename = Path.rename

    def fail_for_part(self: Path, target: Path) -> Path:
        if self.suffix == ".part" and target == path:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_part)
    with pytest.raises(OutputError, match="Input/output error"), atomic_directory(path, overwrite=True):
        pass
    assert (path / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


HANG = """
import sys, time
from margformer_fast.files import atomic_directory
with atomic_directory(sys.argv[1]) as temporary:
    (temporary / "big").write_bytes(bytes(1000))
    print("written", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_leaves_is_cleared_by_the_next(tmp_path):
    path = tmp_path / "store"
    other = tmp_path / ".store-2.part"  # of another directory
    other.mkdir()
    with subprocess.Popen([sys.executable, "-c", HANG, path], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "written\n"
            part = tmp_path / ".store.part"
            with pytest.raises(OutputInUse, match=r"store: another process is at work on it\. Wait for it"):
                atomic_directory(path).__enter__()
            assert (part / "big").exists(), "the directory of a process that lives is not touched"
        finally:
            child.send_signal(signal.SIGKILL)
    assert not path.exists()
    assert part.exists()
    with atomic_directory(path) as temporary:
        assert temporary == part
        assert not list(part.iterdir())
    assert sorted(tmp_path.iterdir()) == [other, path]


def test_what_a_killed_process_left_of_a_file_is_taken_over(tmp_path):
    path = tmp_path / "a.txt"
    (tmp_path / ".a.txt.part" / "deep").mkdir(parents=True)
    (tmp_path / ".a.txt.part" / "a.txt").write_text("half")
    with atomic_file(path) as temporary:
        assert not temporary.exists()
        temporary.write_text("new")
        with pytest.raises(OutputInUse), atomic_file(path):
            pytest.fail("two at once")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("exchanges", [True, False])
def test_what_was_there_is_never_away(tmp_path, monkeypatch, exchanges):
    """Stop dead at every call that changes a name, and look: old or new, and the next one clears up."""
    if not exchanges:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    stages = ("exchange", "rename", "rename", "rmtree")
    for stop in range(4 if not exchanges else 2):
        place = tmp_path / f"{stop}"
        path = place / "store"
        path.mkdir(parents=True)
        (path / "a").write_text("old")
        child = os.fork()
        if child == 0:  # pragma: no cover
            calls = []

            def dying(real, calls=calls, stop=stop):
                def call(*arguments, **named):
                    calls.append(real)
                    if len(calls) == stop + 1:
                        os._exit(7)
                    return real(*arguments, **named)

                return call

            files.Path.rename = dying(files.Path.rename)
            files.shutil.rmtree = dying(files.shutil.rmtree)
            files._exchange = dying(files._exchange) if exchanges else files._exchange
            with atomic_directory(path, overwrite=True) as temporary:
                (temporary / "a").write_text("new")
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code == (7 if code else 0), stages[stop]
        if exchanges:
            assert (path / "a").read_text() in ("old", "new")
        with suppress(OSError), atomic_directory(path):  # not to be replaced, once it is back
            pass
        assert (path / "a").read_text() in ("old", "new")
        with atomic_directory(path, overwrite=True) as temporary:
            (temporary / "a").write_text("newer")
        assert (path / "a").read_text() == "newer"
        assert list(place.iterdir()) == [path]


def test_two_names_change_places(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not files._exchange(tmp_path / "one", tmp_path / "other"):
        pytest.skip("this file system cannot")
    assert (tmp_path / "other" / "one").exists()
    with pytest.raises(FileNotFoundError):
        files._exchange(tmp_path / "one", tmp_path / "none")


def test_what_is_named_is_on_the_disk(tmp_path, monkeypatch):
    """The order of calls: content synced, then the name, then the directory that has it."""
    log = []
    fsync, rename, replace = os.fsync, Path.rename, Path.replace

    def synced(handle):
        log.append(("sync", Path(f"/proc/self/fd/{handle}").readlink().name))
        fsync(handle)

    def named(real):
        def call(self, target):
            log.append(("name", Path(target).name))
            return real(self, target)

        return call

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", named(rename))
    monkeypatch.setattr(Path, "replace", named(replace))
    exchange = files._exchange
    monkeypatch.setattr(files, "_exchange", lambda a, b: log.append(("name", b.name)) or exchange(a, b))
    with atomic_file(tmp_path / "f") as temporary:
        temporary.write_text("x")
    assert log == [("sync", "f"), ("name", "f"), ("sync", tmp_path.name)]
    for again in (False, True):
        log.clear()
        with atomic_directory(tmp_path / "d", overwrite=again) as temporary:
            (temporary / "sub").mkdir()
            (temporary / "sub" / "a").write_text("a")
        assert set(log[:3]) == {("sync", "sub"), ("sync", "a"), ("sync", ".d.part")}
        assert log[3:5] == [("name", "d"), ("sync", tmp_path.name)]


def test_sha256(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(os.urandom(3000))
    assert sha256_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_json_comes_back(tmp_path):
    value = {"a": [1, 2.5, None, True], "b": {"c": "\N{GREEK SMALL LETTER ALPHA}"}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "nan.json", float("nan"))
    assert not (tmp_path / "nan.json").exists()


def test_bad_json_is_a_data_error(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(DataError, match=r"a\.json: is missing"):
        read_json(path)
    for content in (b"{", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.json: does not hold JSON"):
            read_json(path)
