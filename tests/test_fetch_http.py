"""Files from a server that hangs, lies, drips and slams the door: whole, or refused with a reason."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
import urllib.request
from email.utils import formatdate
from pathlib import Path

import pytest
from bad_server import MISDEEDS, BadServer, now_and_then

from margformer_fast.data.fetch.http import (
    Client,
    Missing,
    Patience,
    Unreachable,
    _Redirects,
    _retry_after,
)
from margformer_fast.data.fetch.partial import write_all, written
from margformer_fast.errors import FetchError, OutputError

QUICK = Patience(timeout=0.4, retries=8, first_wait=0.01, longest_wait=0.05, least_rate=1000)
LIMIT = 10 << 20


def first(misdeed: str, times: int = 1):
    """Misbehave at the first requests of each path."""
    return lambda path, n: misdeed if n < times else None


def sha(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.mark.parametrize("misdeed", MISDEEDS)
def test_each_misdeed_is_outlasted(tmp_path, rng, misdeed):
    content = rng.bytes(300_000)
    bad = BadServer({"/a/file.bin": content}, misdeed=first(misdeed, 2), digests=True)
    with bad.running():
        path = Client(QUICK).download(f"{bad.url}/a/file.bin", tmp_path / "file.bin", limit=LIMIT)
        assert path.read_bytes() == content
        assert Client(QUICK).get(f"{bad.url}/a/file.bin", limit=LIMIT) == content
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.bin"]
    # What does no harm by itself is not asked again.
    assert len(bad.requests()) == (2 if misdeed in ("ignore range", "other range") else 4)


@pytest.mark.parametrize("misdeed", ["truncate", "reset"])
def test_what_came_is_not_asked_for_again(tmp_path, rng, misdeed):
    content = rng.bytes(400_000)
    bad = BadServer({"/f": content}, misdeed=first(misdeed, 3))
    with bad.running():
        Client(QUICK).download(f"{bad.url}/f", tmp_path / "f", limit=LIMIT)
    assert (tmp_path / "f").read_bytes() == content
    asked = [one.range for one in bad.requests()]
    assert asked[0] == ""
    if misdeed == "truncate":  # a reset may lose bytes that were sent
        assert asked[1:] == ["bytes=200000-", "bytes=300000-", "bytes=350000-"]
        assert sum(one.sent for one in bad.requests()) == len(content)


@pytest.mark.parametrize("later", ["ignore range", "other range", "416"])
def test_a_server_that_does_not_go_on_where_it_should(tmp_path, rng, later):
    content = rng.bytes(100_000)
    bad = BadServer({"/f": content})
    bad.misdeed = lambda path, n: ("truncate", later, None, None)[min(n, 3)]
    with bad.running():
        client = Client(QUICK)
        if later == "416":  # a shorter file than what is here of it
            bad.misdeed = lambda path, n: "truncate" if n == 0 else None
            (tmp_path / "f.part").write_bytes(content)
            (tmp_path / "f.part.json").write_text(
                f'{{"url": "{bad.url}/f", "version": "\\"x\\"", "total": 200000}}'
            )
        client.download(f"{bad.url}/f", tmp_path / "f", limit=LIMIT)
    assert (tmp_path / "f").read_bytes() == content


def test_the_next_command_goes_on(tmp_path, rng):
    content = rng.bytes(100_000)
    bad = BadServer({"/f": content}, misdeed=lambda path, n: "truncate" if n == 0 else "500")
    with bad.running():
        with pytest.raises(FetchError, match=r"cannot be fetched.*500.*Run the same command again later"):
            Client(Patience(0.4, 2, 0.01)).download(f"{bad.url}/f", tmp_path / "f", limit=LIMIT)
        assert not (tmp_path / "f").exists()
        assert len(bad.log) == 1 + 3  # what brought something does not count
        bad.misdeed = lambda path, n: None
        bad.log.clear()
        Client(QUICK).download(f"{bad.url}/f", tmp_path / "f", limit=LIMIT)
    assert [one.range for one in bad.requests()] == ["bytes=50000-"]
    assert (tmp_path / "f").read_bytes() == content


@pytest.mark.parametrize("spoilt", ["about", "url", "version", "longer"])
def test_what_is_here_of_another_file_is_not_gone_on_with(tmp_path, rng, spoilt):
    """The file has changed meanwhile, or the part's description is gone or of another address."""
    old, new = rng.bytes(90_000), rng.bytes(90_000)
    bad = BadServer({"/f": old, "/g": old}, misdeed=lambda path, n: "truncate" if n == 0 else "500")
    with bad.running():
        with pytest.raises(FetchError):
            Client(Patience(0.4, 0, 0.01)).download(f"{bad.url}/f", tmp_path / "f", limit=LIMIT)
        about = tmp_path / "f.part.json"
        if spoilt == "about":
            about.write_text('{"url": ')
        elif spoilt == "url":
            about.write_text(about.read_text().replace("/f", "/g"))
        elif spoilt == "longer":
            (tmp_path / "f.part").write_bytes(old * 2)
        bad.misdeed = lambda path, n: None
        bad.files = {"/f": new}
        Client(QUICK).download(f"{bad.url}/f", tmp_path / "f", limit=LIMIT)
    assert (tmp_path / "f").read_bytes() == new


def test_a_drip_is_not_waited_for(tmp_path, rng):
    """A byte now and then keeps a connection from timing out; it is given up all the same."""
    content = rng.bytes(100_000)
    bad = BadServer({"/f": content}, misdeed=first("drip"), drip_seconds=0.1)
    with bad.running():
        began = time.monotonic()
        Client(QUICK).download(f"{bad.url}/f", tmp_path / "f", limit=LIMIT)
        assert time.monotonic() - began < 4  # all of the drip takes 5
    assert (tmp_path / "f").read_bytes() == content


def test_all_at_random(tmp_path, rng):
    files = {f"/{k}": rng.bytes(int(rng.integers(0, 200_000))) for k in range(12)}
    bad = BadServer(files, misdeed=now_and_then(int(rng.integers(1 << 30)), 0.5), digests=True)
    client = Client(QUICK, connections=4)
    with bad.running():
        threads = [
            threading.Thread(
                target=client.download,
                args=(f"{bad.url}{name}", tmp_path / name[1:]),
                kwargs={"limit": LIMIT, "size": len(content), "checksum": sha(content)},
            )
            for name, content in files.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {f"/{p.name}": p.read_bytes() for p in tmp_path.iterdir()} == files


def test_no_more_connections_than_asked_for(tmp_path, rng):
    files = {f"/{k}": rng.bytes(2000) for k in range(20)}
    client, at_once = Client(QUICK, connections=3), []

    def misdeed(path: str, n: int) -> str | None:
        # Counted where they are asked for: what is given up may still be open at the server's end.
        with client._lock:
            at_once.append(sum(each.fileno() >= 0 for each in client._sockets))
        return "drip" if n == 0 else None

    bad = BadServer(files, misdeed=misdeed, drip_seconds=0.01)
    with bad.running():
        threads = [
            threading.Thread(target=client.get, args=(f"{bad.url}{name}",), kwargs={"limit": LIMIT})
            for name in files
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(at_once) == 40
    assert max(at_once) == 3


def test_a_checksum_that_never_fits(tmp_path, rng):
    content = rng.bytes(5000)
    bad = BadServer({"/f": content})
    with bad.running():
        for checksum in (sha(b"other"), "md5:" + "0" * 32):
            bad.log.clear()
            with pytest.raises(FetchError, match=r"its (SHA256|MD5) is not [0-9a-f]{32}"):
                Client(QUICK).download(f"{bad.url}/f", tmp_path / "f", limit=LIMIT, checksum=checksum)
            assert len(bad.log) == 3  # not as often as a busy server is asked
            assert list(tmp_path.iterdir()) == []


def test_a_size_that_never_fits(tmp_path, rng):
    bad = BadServer({"/f": rng.bytes(5000)})
    with bad.running():
        for size in (4999, 5001):
            with pytest.raises(FetchError, match=f"the server has 5,000 bytes where {size:,} are expected"):
                Client(Patience(0.4, 1, 0.01)).download(
                    f"{bad.url}/f", tmp_path / "f", limit=LIMIT, size=size
                )
    assert not (tmp_path / "f").exists()


def test_a_whole_part_needs_no_request(tmp_path, rng):
    """Killed between the last byte and the renaming."""
    content = rng.bytes(5000)
    bad = BadServer({"/f": content})
    with bad.running():
        for here, asked in ((content, []), (content[:-1] + b"?", [""])):
            bad.log.clear()
            (tmp_path / "f.part").write_bytes(here)
            (tmp_path / "f.part.json").write_text(f'{{"url": "{bad.url}/f", "version": "", "total": 5000}}')
            Client(QUICK).download(
                f"{bad.url}/f", tmp_path / "f", limit=LIMIT, size=5000, checksum=sha(content)
            )
            assert (tmp_path / "f").read_bytes() == content
            assert [one.range for one in bad.log] == asked
        # Without a checksum the last byte is asked for again, and the version with it.
        bad.log.clear()
        (tmp_path / "f.part").write_bytes(content)
        tag = hashlib.sha256(content).hexdigest()[:16]
        (tmp_path / "f.part.json").write_text(
            f'{{"url": "{bad.url}/f", "version": "\\"{tag}\\"", "total": 5000}}'
        )
        Client(QUICK).download(f"{bad.url}/f", tmp_path / "f", limit=LIMIT)
        assert [one.range for one in bad.log] == ["bytes=4999-"]
        assert (tmp_path / "f").read_bytes() == content


def test_refusals_are_final(tmp_path):
    bad = BadServer(answer=lambda sql: 400)
    with bad.running():
        with pytest.raises(Missing, match=r"/f: is not there$"):
            Client(QUICK).download(f"{bad.url}/f", tmp_path / "f", limit=LIMIT)
        with pytest.raises(FetchError, match=r"/sql: the server refuses: 400 .*\(Error 400 of the test\)"):
            Client(QUICK).get(f"{bad.url}/sql?cmd=select", limit=LIMIT)
    assert len(bad.log) == 2


@pytest.mark.parametrize("framed", [True, False])
def test_more_than_there_can_be(tmp_path, framed):
    """A length beyond the limit is refused at once; without one, reading stops at the limit."""
    stop = threading.Event()
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.1)

    def serve() -> None:
        while not stop.is_set():
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            with connection:
                connection.recv(65536)
                length = b"Content-Length: 99999999999\r\n" if framed else b""
                try:
                    connection.sendall(b"HTTP/1.1 200 OK\r\n" + length + b"Connection: close\r\n\r\n")
                    while not stop.is_set():
                        connection.sendall(bytes(65536))
                except OSError:
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.getsockname()[1]}/f"
    try:
        with pytest.raises(FetchError, match=r"has [\d,]+ bytes or more; expected at most 100,000"):
            Client(QUICK).download(url, tmp_path / "f", limit=100_000)
        with pytest.raises(FetchError, match="at most 100,000"):
            Client(QUICK).get(url, limit=100_000)
        assert list(tmp_path.iterdir()) == []
    finally:
        stop.set()
        thread.join(5)
        server.close()


def test_nobody_there(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    began = time.monotonic()
    for url in (f"http://127.0.0.1:{port}/f", "http://no-such-host.invalid/f"):
        with pytest.raises(Unreachable) as caught:
            Client().download(url, tmp_path / "f", limit=LIMIT)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(f"{url}: cannot be reached (")
    assert time.monotonic() - began < 5  # without the long waits for a server that is known to live


def test_busy_servers_say_when(tmp_path, rng):
    """Retry-After in seconds or as a date is obeyed, by all threads, up to the longest wait."""
    assert _retry_after({"Retry-After": "7"}) == 7
    assert _retry_after({"Retry-After": "soon"}) == _retry_after({}) == 0
    assert 8 < _retry_after({"Retry-After": formatdate(time.time() + 10, usegmt=True)}) < 11
    assert _retry_after({"Retry-After": formatdate(time.time() - 10, usegmt=True)}) == 0
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    client = Client(Patience(longest_wait=30), sleep=sleep, clock=lambda: now[0])
    client._back_off(1, 20.0)
    client._wait_turn("x")
    assert sum(slept) == 20
    client._back_off(1, 1e6)
    client._wait_turn("x")
    assert sum(slept) == 50
    slept.clear()
    for fruitless in range(1, 12):
        client._back_off(fruitless, 0.0)
    assert all(0 <= s <= min(30, 2**k) for k, s in enumerate(slept))
    assert len(set(slept)) == 11  # jitter


def test_only_the_web(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("x")
    request = urllib.request.Request("https://a.test/x")
    for target in (f"file://{secret}", "ftp://a.test/x", "http://a.test/x"):
        with pytest.raises(FetchError, match="is redirected to"):
            _Redirects().redirect_request(request, None, 302, "Found", {}, target)
    for url in (f"file://{secret}", "ftp://localhost/x", "data:,x"):
        with pytest.raises(FetchError):
            Client(Patience(0.2, 0, 0.01)).get(url, limit=100)


@pytest.mark.parametrize("waits", ["hang", "500"])
def test_stopping_ends_every_wait(tmp_path, rng, waits):
    """For an answer, and for the time to ask again."""
    bad = BadServer({"/f": rng.bytes(1000)}, misdeed=lambda path, n: waits, hang_seconds=60)
    client = Client(Patience(timeout=60, retries=1000, first_wait=100, longest_wait=100))
    with bad.running():
        failed: list[Exception] = []

        def act() -> None:
            try:
                client.get(f"{bad.url}/f", limit=LIMIT)
            except FetchError as error:
                failed.append(error)

        thread = threading.Thread(target=act)
        thread.start()
        time.sleep(0.5)
        client.stop()
        thread.join(5)
        assert not thread.is_alive()
    assert "is given up" in str(failed[0])


def test_where_it_cannot_be_written(tmp_path, rng):
    bad = BadServer({"/f": rng.bytes(1000)})
    (tmp_path / "file").write_text("")
    with bad.running(), pytest.raises(OutputError, match="cannot be written"):
        Client(QUICK).download(f"{bad.url}/f", tmp_path / "file" / "f", limit=LIMIT)


def test_a_full_disk(tmp_path):
    if not Path("/dev/full").is_char_device():
        pytest.skip("this system has no /dev/full")
    with (
        pytest.raises(OutputError, match=r"No space left.*Free some space"),
        written(tmp_path / "f"),
        open("/dev/full", "wb", buffering=0) as file,
    ):
        write_all(file, b"x")


def test_writing_takes_as_many_steps_as_it_needs(rng):
    class Slow:
        content = b""

        def write(self, rest):
            took = bytes(rest[:3])
            self.content += took
            return len(took)

    block = rng.bytes(100)
    file = Slow()
    write_all(file, block)
    assert file.content == block


def test_digests_of_the_whole_hold_for_a_part_too(tmp_path, rng):
    """The second half comes damaged, with the digest of the whole file in its header."""
    content = rng.bytes(50_000)
    bad = BadServer({"/f": content}, digests=True)
    bad.misdeed = lambda path, n: ("truncate", "corrupt", None)[min(n, 2)]
    with bad.running():
        Client(QUICK).download(f"{bad.url}/f", tmp_path / "f", limit=LIMIT)
    assert [one.range for one in bad.log] == ["", "bytes=25000-", ""]
    assert (tmp_path / "f").read_bytes() == content
