"""Downloads against a server of our own that breaks off, lies, moves and stalls: a file arrives whole or not at all."""

import errno
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from engine.datasets import DataError, DataSet, download as module, get, transfer
from engine.datasets.base import Remote
from engine.datasets.download import download, intact

ROOT = Path(__file__).resolve().parents[2]
BODY = random.Random(5).randbytes(300_000)
OTHER = random.Random(6).randbytes(300_000)
BREAK = 200_000  # more than one chunk, less than the file


class Site:
    """What the server at `url` does; `asked` and `sent` say what it was asked for and what each answer brought."""

    def __init__(self):
        self.files = {"/a.bin": BODY, "/b.bin": OTHER}
        self.ranges, self.length, self.chunked = True, True, False
        self.tag, self.modified = '"one"', ""
        self.breaks: list[int] = []  # one an answer: break off after so many bytes
        self.code, self.target = 200, ""  # answer with this error; redirect a.bin there
        self.claim = 0  # lie about the length
        self.pause = 0.0  # before every 10,000 bytes
        self.elsewhere = False  # answer a range with another one
        self.url = ""
        self.asked: list[dict] = []
        self.sent: list[int] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        site: Site = self.server.site
        site.asked.append({"path": self.path} | dict(self.headers))
        if site.target and self.path == "/a.bin":
            self.send_response(302)
            self.send_header("Location", site.target)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if site.code != 200:
            return self.send_error(site.code)
        self.answer(site, site.files[self.path])

    def answer(self, site, body):
        start = 0
        current = self.headers.get("If-Range") in (None, site.tag, site.modified)
        if site.ranges and current and "Range" in self.headers:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "2")
            self.end_headers()
            return self.wfile.write(b"no")
        self.send_response(206 if start else 200)
        if start:
            start -= 10 * site.elsewhere
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        for name, value in (("ETag", site.tag), ("Last-Modified", site.modified)):
            if value:
                self.send_header(name, value)
        if site.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif site.length:
            self.send_header("Content-Length", str(site.claim or len(body) - start))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        self.pour(site, body[start:])

    def pour(self, site, body):
        stop = site.breaks.pop(0) if site.breaks else len(body)
        site.sent.append(0)
        number = len(site.sent) - 1
        try:
            for at in range(0, min(stop, len(body)), 10_000):
                time.sleep(site.pause)
                piece = body[at : min(at + 10_000, stop)]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if site.chunked else piece)
                site.sent[number] += len(piece)
            if site.chunked and stop >= len(body):
                self.wfile.write(b"0\r\n\r\n")
        except OSError:
            pass  # the client has gone
        self.close_connection = True


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass  # clients that go away are part of the tests


@pytest.fixture
def site(monkeypatch):
    """A server on this machine."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(transfer, "PAUSES", (0, 0.01, 0.01))
    server = Server(("127.0.0.1", 0), Handler)
    server.site = Site()
    server.site.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server.site
    server.shutdown()
    server.server_close()


def checksum(body, kind="md5"):
    return f"{kind}:{hashlib.new(kind, body).hexdigest()}"


def data_set(*remotes, look=lambda folder: ()) -> DataSet:
    """A data set of which only the download matters."""
    known = dict(title="Fake", classes=("0",), shape=(1, 2, 2), mean=(0.5,), std=(0.5,), steps=1, leak=0.9)
    return DataSet(name="fake", pad=0, flip=False, look=look, read=None, about="", remote=remotes, **known)


@pytest.fixture
def data(site):
    return data_set(Remote("deep/a.bin", f"{site.url}/a.bin", checksum(BODY), len(BODY)))


@pytest.fixture
def unsized(site):
    return data_set(Remote("deep/a.bin", f"{site.url}/a.bin", checksum(BODY), 0))


def fails(data, into, *parts, **options) -> str:
    """The sentence of a download that must fail, which names the file and leaves nothing under its name."""
    with pytest.raises(DataError) as raised:
        download(data, into=into, **options)
    said = str(raised.value)
    assert "\n" not in said and not said.endswith(".")
    assert said.startswith("a.bin") and all(part in said for part in parts), said
    assert visible(into) == []
    return said


def visible(into) -> list[str]:
    """The files that a reader of the data folder may take for data."""
    files = (path.relative_to(into).as_posix() for path in into.rglob("*") if path.is_file())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.split("/")))


def assert_arrived(into):
    """The file is there, and nothing else: no part, no lock, no folder."""
    assert (into / "deep/a.bin").read_bytes() == BODY
    assert [path.name for path in (into / "deep").iterdir()] == ["a.bin"]


# ------------------------------------------------------------------------------------------------- what goes well


@pytest.mark.parametrize("kind", ["md5", "sha1", "sha256"])
def test_file_arrives(kind, site, tmp_path):
    data = data_set(Remote("deep/a.bin", f"{site.url}/a.bin", checksum(BODY, kind), len(BODY)))
    download(data, into=tmp_path)
    assert_arrived(tmp_path)
    assert "Range" not in site.asked[0]


def test_data_folder_is_the_default(data, tmp_path, monkeypatch):
    monkeypatch.setenv("BNTT_DATA", str(tmp_path / "new"))
    download(data)
    assert_arrived(tmp_path / "new")


@pytest.mark.parametrize("name", ["here", "~", "with space/and ümlaut"])
def test_relative_folder(name, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    download(data, into=Path(name))
    assert_arrived(tmp_path / name)


def test_what_is_there_is_not_asked_for(data, site, tmp_path):
    download(data, into=tmp_path)
    download(data, into=tmp_path)
    assert len(site.asked) == 1


def test_file_with_another_checksum_is_replaced(data, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/a.bin").write_bytes(b"old")
    assert not intact(data.remote[0], tmp_path)
    download(data, into=tmp_path)
    assert_arrived(tmp_path)
    assert intact(data.remote[0], tmp_path)


def test_file_with_another_checksum_stays_when_the_right_one_cannot_be_had(data, site, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/a.bin").write_bytes(b"old")
    site.code = 404
    with pytest.raises(DataError, match="404"):
        download(data, into=tmp_path)
    assert (tmp_path / "deep/a.bin").read_bytes() == b"old"


def test_only_lacking_files_are_asked_for(site, tmp_path):
    data = data_set(
        *(Remote(f"{n}.bin", f"{site.url}/{n}.bin", checksum(b), 0) for n, b in (("a", BODY), ("b", OTHER)))
    )
    (tmp_path / "a.bin").write_bytes(BODY)
    download(data, into=tmp_path)
    assert [asked["path"] for asked in site.asked] == ["/b.bin"]
    assert visible(tmp_path) == ["a.bin", "b.bin"] and (tmp_path / "b.bin").read_bytes() == OTHER


@pytest.mark.parametrize("form", ["length", "chunked", "until the end"])
@pytest.mark.parametrize("size", [len(BODY), 0], ids=["known", "unknown"])
def test_progress_never_falls_and_ends_at_the_total(form, size, site, tmp_path):
    site.chunked, site.length = form == "chunked", form == "length"
    data = data_set(
        Remote("a.bin", f"{site.url}/a.bin", checksum(BODY), size),
        Remote("b.bin", f"{site.url}/b.bin", checksum(OTHER), size),
    )
    seen = []
    download(data, into=tmp_path, progress=lambda done, total: seen.append((done, total)))
    done, totals = zip(*seen)
    assert list(done) == sorted(done) and len(set(done)) >= 8, "several pieces of each file"
    assert seen[-1] == (len(BODY) + len(OTHER),) * 2
    assert all(d <= t for d, t in seen if t)
    assert set(totals) == ({600_000} if size else {0, 600_000})


def test_gzip_is_stored_as_it_is(site, tmp_path, monkeypatch):
    """Some servers declare a .gz file to be a plain one in a gzip encoding."""
    import gzip

    packed = gzip.compress(BODY)
    site.files["/a.gz"] = packed
    send = Handler.end_headers
    monkeypatch.setattr(Handler, "end_headers", lambda self: (self.send_header("Content-Encoding", "gzip"), send(self)))
    download(data_set(Remote("a.gz", f"{site.url}/a.gz", checksum(packed), len(packed))), into=tmp_path)
    assert (tmp_path / "a.gz").read_bytes() == packed


def test_redirect_is_followed(data, site, tmp_path):
    site.target = "/b.bin"
    site.files["/b.bin"] = BODY
    download(data, into=tmp_path)
    assert_arrived(tmp_path)
    assert [asked["path"] for asked in site.asked] == ["/a.bin", "/b.bin"]


# --------------------------------------------------------------------------------------------------- after a break


def test_break_is_gone_on_from_in_the_same_call(data, site, tmp_path):
    site.breaks = [BREAK]
    download(data, into=tmp_path)
    assert_arrived(tmp_path)
    _, second = site.asked
    came = int(second["Range"].removeprefix("bytes=").removesuffix("-"))
    assert 0 < came <= BREAK and second["If-Range"] == '"one"'
    assert site.sent == [BREAK, len(BODY) - came], "only the rest travels"


def test_break_is_gone_on_from_in_the_next_call(data, site, tmp_path):
    site.breaks = [BREAK, 50_000, 0]
    said = fails(data, tmp_path, "127.0.0.1", "broke off", "go on")
    site.breaks, seen = [], []
    before = len(site.asked)
    download(data, into=tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert_arrived(tmp_path)
    (last,) = site.asked[before:]
    came = int(last["Range"].removeprefix("bytes=").removesuffix("-"))
    assert BREAK < came <= BREAK + 50_000 and site.sent[-1] == len(BODY) - came
    assert "0.2 MB" in said
    assert seen[-1] == (len(BODY), len(BODY)) and [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_three_tries_and_no_more(data, site, tmp_path):
    site.breaks = [100] * 9
    fails(data, tmp_path, "broke off")
    assert len(site.asked) == 3


@pytest.mark.parametrize(
    "tag, modified, named",
    [
        ('W/"weak"', "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00 GMT"),
        ("", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00 GMT"),
        ("", "", None),
    ],
)
def test_version_is_named_as_well_as_it_can_be(tag, modified, named, data, site, tmp_path):
    site.tag, site.modified, site.breaks = tag, modified, [BREAK]
    download(data, into=tmp_path)
    assert_arrived(tmp_path)
    assert site.asked[1].get("If-Range") == named and "Range" in site.asked[1]


def test_server_without_ranges_begins_anew(data, site, tmp_path):
    site.ranges, site.breaks, seen = False, [BREAK], []
    download(data, into=tmp_path, progress=lambda done, total: seen.append(done))
    assert_arrived(tmp_path)
    assert site.sent == [BREAK, len(BODY)]
    assert seen == sorted(seen) and seen[-1] == len(BODY)


def change(site, tag):
    """A break, before which the server had other content under the same address."""
    site.files["/a.bin"], site.breaks = OTHER, [BREAK, 0, 0]
    site.tag = tag


def test_changed_file_begins_anew(data, site, tmp_path):
    change(site, '"old"')
    fails(data, tmp_path, "broke off")
    site.files["/a.bin"], site.tag = BODY, '"new"'
    download(data, into=tmp_path)
    assert_arrived(tmp_path)
    assert site.asked[-1]["If-Range"] == '"old"' and site.sent[-1] == len(BODY)


def test_changed_file_that_nothing_tells_begins_anew_once_its_checksum_is_wrong(data, site, tmp_path):
    change(site, "")
    fails(data, tmp_path, "broke off")
    site.files["/a.bin"] = BODY
    download(data, into=tmp_path)
    assert_arrived(tmp_path)
    assert "Range" in site.asked[-2] and "Range" not in site.asked[-1]


def test_answer_that_goes_on_elsewhere_begins_anew(data, site, tmp_path):
    site.breaks, site.elsewhere = [BREAK], True
    download(data, into=tmp_path)
    assert_arrived(tmp_path)
    assert ["Range" in asked for asked in site.asked] == [False, True, False]


def leave(data, into, content, name="part"):
    """What an earlier try has left behind."""
    part = transfer.part_file(data.remote[0], into)
    part.parent.mkdir(parents=True)
    part.with_name(name).write_bytes(content)


@pytest.mark.parametrize("name", ["part", "tmpx1y2z3"], ids=["before the check", "during the check"])
def test_whole_part_is_not_asked_for(name, data, site, tmp_path):
    leave(data, tmp_path, BODY, name)
    download(data, into=tmp_path)
    assert_arrived(tmp_path)
    assert site.asked == []


def test_whole_part_of_unknown_size(unsized, site, tmp_path):
    leave(unsized, tmp_path, BODY)
    download(unsized, into=tmp_path)
    assert_arrived(tmp_path)
    assert site.sent == []


@pytest.mark.parametrize("left", [BODY + b"more", OTHER, OTHER[:BREAK]], ids=["longer", "as long", "shorter"])
@pytest.mark.parametrize("size", ["data", "unsized"])
def test_wrong_part_begins_anew(left, size, site, tmp_path, request):
    data = request.getfixturevalue(size)
    leave(data, tmp_path, left)
    download(data, into=tmp_path)
    assert_arrived(tmp_path)


# ------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    "code, hint", [(404, "by hand"), (403, "by hand"), (503, "try again later"), (429, "try again later")]
)
def test_refusal_of_the_server(code, hint, data, site, tmp_path):
    site.code = code
    fails(data, tmp_path, f"could not be fetched from 127.0.0.1: the server answered {code}", hint)
    assert len(site.asked) == 1, "it was reached: nothing to try again at once"


def test_no_server(site, tmp_path):
    data = data_set(Remote("a.bin", "http://127.0.0.1:9/a.bin", checksum(BODY), len(BODY)))
    fails(data, tmp_path, "no connection", "try again later")


def test_server_without_a_certificate(site, tmp_path):
    url = site.url.replace("http:", "https:") + "/a.bin"
    fails(data_set(Remote("a.bin", url, checksum(BODY), len(BODY))), tmp_path, "no secure connection")


def test_proxy_of_the_environment_is_used(data, site, tmp_path, monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name)
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    fails(data, tmp_path, "proxy")
    assert site.asked == []


def test_silent_server(data, site, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "READ_SECONDS", 0.2)
    site.pause = 1
    fails(data, tmp_path, "silent", "try again later")


@pytest.mark.parametrize("size", ["data", "unsized"])
def test_wrong_content(size, site, tmp_path, request):
    data = request.getfixturevalue(size)
    site.files["/a.bin"] = OTHER
    fails(data, tmp_path, "checksum", str(tmp_path / "deep"))
    assert len(site.asked) == 1 and not transfer.part_file(data.remote[0], tmp_path).exists()
    site.files["/a.bin"] = BODY
    download(data, into=tmp_path)
    assert "Range" not in site.asked[-1]
    assert_arrived(tmp_path)


def test_page_in_the_place_of_the_file(data, site, tmp_path):
    """A short answer that is no break: it is not asked for again."""
    site.files["/a.bin"], site.chunked = b"<p>We have moved", True
    fails(data, tmp_path, "checksum")
    assert len(site.asked) == 1


def test_more_announced_than_known(data, site, tmp_path):
    site.files["/a.bin"] = BODY + OTHER
    fails(data, tmp_path, "600,000 bytes instead of 300,000")


@pytest.mark.parametrize("chunked", [True, False])
def test_more_sent_than_known(chunked, data, site, tmp_path):
    site.chunked, site.length = chunked, False
    site.files["/a.bin"] = BODY + OTHER
    fails(data, tmp_path, "more than the 300,000 bytes")
    assert not transfer.part_file(data.remote[0], tmp_path).exists()


@pytest.mark.parametrize("claim, told", [(len(BODY) + 5, "broke off"), (len(BODY) - 5, "checksum")])
def test_server_that_lies_about_the_length(claim, told, unsized, site, tmp_path):
    site.claim = claim
    site.ranges = False
    fails(unsized, tmp_path, told)


def test_break_without_a_length(data, site, tmp_path):
    """Without a length or chunks, a break looks like an end: the known size tells."""
    site.length, site.breaks = False, [BREAK]
    download(data, into=tmp_path)
    assert_arrived(tmp_path)
    assert len(site.asked) == 2


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/a.bin", "file:///etc/hostname"])
def test_redirect_away_from_http(target, data, site, tmp_path):
    site.target = target
    fails(data, tmp_path, "not http or https")


def test_redirect_without_end(data, site, tmp_path):
    site.target = f"{site.url}/a.bin"
    fails(data, tmp_path, "without end")


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/a.bin", "file:///etc/hostname", "a.bin"])
def test_address_that_is_not_http(url, tmp_path):
    fails(data_set(Remote("a.bin", url, checksum(BODY), 0)), tmp_path, "not http or https")


def test_full_disk(data, site, tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    leave(data, tmp_path, b"")
    part = transfer.part_file(data.remote[0], tmp_path)
    part.unlink()
    part.symlink_to("/dev/full")
    fails(data, tmp_path, str(tmp_path / "deep"), os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("size", ["data", "unsized"])
def test_disk_with_too_little_room(size, site, tmp_path, request, monkeypatch):
    """Known sizes are checked before anything is asked for, others before any of the body is read."""
    data = request.getfixturevalue(size)
    site.pause = 1.0  # the body would take 30 s; buffers between server and client would take it all at once
    usage = namedtuple("usage", "total used free")(0, 0, 100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"0\.3 MB more and only 0\.1 MB are free"):
        download(data, into=tmp_path)
    assert visible(tmp_path) == [] and sum(site.sent) < len(BODY) and len(site.asked) == (0 if size == "data" else 1)


def test_place_that_is_no_folder(data, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="file: (Not a directory|File exists)"):
        download(data, into=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_folder_in_the_place_of_the_file(data, tmp_path):
    (tmp_path / "deep/a.bin/x").mkdir(parents=True)
    with pytest.raises(DataError, match="a.bin cannot be written"):
        download(data, into=tmp_path)
    assert (tmp_path / "deep/a.bin/x").is_dir()


def test_no_remote():
    def look(folder):
        raise DataError(f"faces.npz is not in {folder}")

    download(get("digits"))  # nothing is lacking
    with pytest.raises(DataError, match="^fake has no address.*by hand.*faces.npz is not in /nowhere"):
        download(data_set(look=look), into=Path("/nowhere"))


# ------------------------------------------------------------------------------------------------------ cancelled


@pytest.mark.parametrize("pause", [0.05, 20], ids=["slow", "stalled"])
def test_cancel(pause, data, site, tmp_path):
    site.pause = pause
    end = time.monotonic() + 0.4
    fails(data, tmp_path, "cancelled", cancelled=lambda: time.monotonic() > end)
    assert time.monotonic() - end < 1


def test_what_came_before_a_cancel_is_kept(data, site, tmp_path):
    site.pause = 0.02
    came = []
    fails(data, tmp_path, cancelled=lambda: sum(came) > 0, progress=lambda done, total: came.append(done))
    site.pause = 0
    download(data, into=tmp_path)
    assert_arrived(tmp_path)
    assert site.asked[1]["Range"] == f"bytes={came[-1]}-" and came[-1] > 0


def test_cancel_between_tries(data, site, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "PAUSES", (0, 30))
    site.breaks = [100]
    end = time.monotonic() + 0.4
    fails(data, tmp_path, "cancelled", cancelled=lambda: time.monotonic() > end)
    assert time.monotonic() - end < 1


def test_cancel_during_a_checksum(data, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/a.bin").write_bytes(BODY)
    with pytest.raises(DataError, match="cancelled"):
        download(data, into=tmp_path, cancelled=lambda: True)


# ------------------------------------------------------------------------------------------- more than one process

PROGRAM = """
import sys
from pathlib import Path
from engine.datasets.base import DataError, DataSet, Remote
from engine.datasets.download import download
url, checksum, size, into = sys.argv[1:]
data = DataSet("fake", "", (), (1, 2, 2), (0,), (1,), 1, 0.9, 0, False, lambda _: (), None, "",
               remote=(Remote("deep/a.bin", url, checksum, int(size)),))
try:
    print("starts", flush=True)
    download(data, into=Path(into))
except DataError as error:
    sys.exit(str(error))
"""


def start(data, into):
    """A process that downloads."""
    _, url, checksum, size = data.remote[0]
    command = [sys.executable, "-c", PROGRAM, url, checksum, str(size), str(into)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_process_is_gone_on_from(data, site, tmp_path):
    site.pause = 0.05
    process = start(data, tmp_path)
    part = transfer.part_file(data.remote[0], tmp_path)
    while transfer.size_of(part) < 100_000:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert visible(tmp_path) == []
    site.pause, came = 0, part.stat().st_size
    download(data, into=tmp_path)
    assert_arrived(tmp_path)
    assert site.asked[1]["Range"] == f"bytes={came}-" and site.sent[1] == len(BODY) - came


def test_two_processes_at_once(data, site, tmp_path):
    """One fetches, the other says so; had the first ended already, the other would find the file."""
    site.pause = 0.1
    one = start(data, tmp_path)
    one.stdout.readline()
    while not site.sent:
        assert one.poll() is None
        time.sleep(0.01)
    fails(data, tmp_path, "another process")
    site.pause = 0
    assert one.wait(20) == 0 and one.communicate()[1] == "", "pooch says nothing of its own"
    download(data, into=tmp_path)
    assert_arrived(tmp_path)
    assert len(site.asked) == 1


def test_file_that_another_process_brought_meanwhile(data, site, tmp_path, monkeypatch):
    """It comes after the first look at it, and before this process holds the lock."""

    def look(*arguments):
        found = intact(*arguments)
        (tmp_path / "deep").mkdir(exist_ok=True)
        (tmp_path / "deep/a.bin").write_bytes(BODY)
        return found

    monkeypatch.setattr(module, "intact", look)
    download(data, into=tmp_path)
    assert_arrived(tmp_path)
    assert site.asked == []


def test_many_threads_at_once(data, site, tmp_path):
    site.pause, said = 0.005, []

    def fetch():
        try:
            download(data, into=tmp_path)
            said.append("")
        except DataError as error:
            said.append(str(error))

    threads = [threading.Thread(target=fetch) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "" in said and all("another process" in sentence for sentence in said if sentence)
    assert_arrived(tmp_path)
