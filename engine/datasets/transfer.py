"""The transfer of one file: what has come outlasts a broken connection and a killed process, and the next try goes on.

It is kept in a hidden folder beside the file's place, and moved there when all has come and the checksum is right.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from queue import Empty, Full, Queue
from urllib.parse import urlsplit

from .base import DataError, Remote

CHUNK = 1 << 16  # bytes handed over at once
CONNECT_SECONDS, READ_SECONDS = 10, 30
PAUSES = (0, 1, 3)  # seconds before each try
GLANCE = 0.2  # seconds between two looks at `cancelled`


class _Broken(Exception):
    """The connection failed in a way that may be over soon; the reason in words."""


def retrieve(remote: Remote, place: Path, report: Callable[[int, int], None], cancelled: Callable[[], bool]) -> None:
    """Let pooch fetch the file into the hidden folder and check it, then move it to its place, whatever lies there.

    The folder of its place must exist. report(bytes there, size of the whole file) is called as they come; the size is
    0 while it is unknown. Raises DataError where the file cannot be had or `cancelled` turns true, and OSError where it
    cannot be written.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")  # it would tell of every file on standard error
    target, part = place / remote.path, part_file(remote, place)
    part.parent.mkdir(exist_ok=True)
    for left in part.parent.glob("tmp*"):  # of a process killed while pooch took the checksum of the whole file
        os.replace(left, part) if size_of(left) else left.unlink()
    try:
        for _ in range(2):
            transfer = _Transfer(remote, part, report, cancelled)
            try:
                pooch.retrieve(remote.url, remote.checksum, target.name, part.parent, downloader=transfer)
                return os.replace(part.with_name(target.name), target)
            except ValueError:  # another checksum; pooch has deleted the file
                if not transfer.resumed:  # otherwise pieces of two versions may have met: once more from the start
                    break
        hint = f"try again later, or put it into {target.parent} by hand"
        raise _failed(remote, f"what came is not the expected file, its checksum differs; {hint}")
    finally:
        if not size_of(part):
            shutil.rmtree(part.parent, ignore_errors=True)


class _Transfer:
    """Brings one file, called by pooch as its downloader. After a break, what has come stays in `part`.

    resumed: whether the file was put together from the answers to several requests.
    """

    def __init__(self, remote: Remote, part: Path, report: Callable[[int, int], None], cancelled: Callable[[], bool]):
        self.remote, self.part, self.report, self.cancelled = remote, part, report, cancelled
        self.version = part.with_name("version")  # what the server called the version that `part` is of
        self.name, self.resumed = Path(remote.path).name, False

    def __call__(self, _url: str, output: str, _pooch) -> None:
        for pause in PAUSES:
            end = time.monotonic() + pause
            while time.monotonic() < end:
                stop_if(self.cancelled, self.name)
                time.sleep(min(pause, GLANCE))
            try:
                self._try()
                break
            except _Broken as error:
                broken = error
        else:
            came = size_of(self.part)
            hint = f"try again to go on after {megabytes(came)}" if came else "try again later"
            raise _failed(self.remote, f"{broken}; {hint}")
        os.replace(self.part, output)

    def _try(self) -> None:
        """One request, and what comes of it into the part file."""
        have, size = size_of(self.part), self.remote.size
        if have and have == size:
            self.resumed = True
            return
        with closing(self._answers(have)) as answers:
            response = next(answers)
            start, total = self._begin(response, have)
            self.resumed |= start > 0
            if 0 < total == start:
                return
            if size and total > size:
                raise _failed(self.remote, f"the server offers {total:,} bytes instead of {size:,}")
            self.report(start, size or total)
            check_room(self.name, self.part.parent, (total or size) - start)
            self._store(response, answers, start, total)

    def _answers(self, have: int) -> Iterator:
        """The response to a request for all after the first `have` bytes, then its body piece by piece.

        A thread waits for the network, since such a wait cannot be cut short. Raises _Broken where the connection
        fails, DataError where the address is wrong.
        """
        headers = {"Accept-Encoding": "identity"}  # the file as it is, so that bytes can be counted
        if have:
            headers["Range"] = f"bytes={have}-"
            if self.version.exists() and (version := self.version.read_text().strip()):
                headers["If-Range"] = version
        queue, stop = Queue(8), threading.Event()
        threading.Thread(target=_pull, args=(self.remote.url, headers, queue, stop), daemon=True).start()
        try:
            while True:
                stop_if(self.cancelled, self.name)
                try:
                    item = queue.get(timeout=GLANCE)
                except Empty:
                    continue
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise self._explained(item)
                yield item
        finally:
            stop.set()

    def _begin(self, response, have: int) -> tuple[int, int]:
        """Where the body begins in the file, and the size of the whole file (0 = unknown); where both are the same
        nothing is lacking. Raises DataError for an answer that is no file."""
        code, length = response.status_code, response.headers.get("Content-Length", "")
        if code == 200:
            return 0, int(length) if length.isdigit() else 0
        if have and code in (206, 416):
            span = response.headers.get("Content-Range", "")
            total = int(found[1]) if (found := re.search(r"/(\d+)$", span)) else 0
            if span.startswith(f"bytes {have}-") if code == 206 else total == have:
                return have, total
            self.part.unlink()
            raise _Broken("the server does not go on where the file was broken off")
        hint = "try again later" if code >= 500 or code in (408, 429) else f"put it into {self.part.parents[1]} by hand"
        raise _failed(self.remote, f"the server answered {code}; {hint}")

    def _store(self, response, pieces: Iterator[bytes], done: int, total: int) -> None:
        """Write the pieces after the first `done` bytes of the part file. Raises _Broken when some are lacking."""
        size = self.remote.size
        with open(self.part, "ab" if done else "wb") as file:
            if not done:
                tag = response.headers.get("ETag", "")
                strong = tag.startswith('"')  # a weak one does not promise the same bytes
                self.version.write_text(tag if strong else response.headers.get("Last-Modified", ""))
            for piece in pieces:
                done += len(piece)
                if size and done > size:
                    file.truncate(0)
                    raise _failed(self.remote, f"the server sent more than the {size:,} bytes of the file")
                file.write(piece)
                self.report(done, size or total)
            file.flush()
            os.fsync(file.fileno())
        chunked = "Transfer-Encoding" in response.headers  # its end is told; otherwise it may be a break
        if done < (total or (0 if chunked else size)):
            raise _Broken("the connection broke off")

    def _explained(self, error: Exception) -> Exception:
        """What the network's exception means for this file; one that is not the network's comes back."""
        import requests
        import urllib3

        passing = (  # the first that fits
            (requests.ConnectTimeout, f"no connection within {CONNECT_SECONDS} seconds"),
            ((requests.Timeout, urllib3.exceptions.TimeoutError), f"the server was silent for {READ_SECONDS} seconds"),
            (requests.exceptions.ProxyError, "the proxy lets nothing through"),
            (requests.exceptions.SSLError, "no secure connection, the server's certificate may be wrong"),
            (requests.ConnectionError, "no connection"),
            (urllib3.exceptions.HTTPError, "the connection broke off"),
        )
        for kind, reason in passing:
            if isinstance(error, kind):
                return _Broken(reason)
        if isinstance(error, requests.TooManyRedirects):
            return _failed(self.remote, "it is redirected without end")
        if isinstance(error, requests.RequestException):
            return _failed(self.remote, "its address is wrong, or leads to one that is not http or https")
        return error


def _pull(url: str, headers: dict[str, str], queue: Queue, stop: threading.Event) -> None:
    """Into the queue: the response, its body in pieces, None at the end; or the exception that came between."""
    import requests

    def hand_over(item) -> None:
        while not stop.is_set():
            with suppress(Full):
                return queue.put(item, timeout=GLANCE)

    try:
        with requests.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS)) as response:
            hand_over(response)
            # Not iter_content, which would unpack a .gz that the server declares to be an encoding.
            for piece in response.raw.stream(CHUNK, decode_content=False):
                if stop.is_set():
                    return
                hand_over(piece)
        hand_over(None)
    except Exception as error:  # whatever it is: the queue's other end waits for it
        hand_over(error)


def _failed(remote: Remote, reason: str) -> DataError:
    host = urlsplit(remote.url).hostname or remote.url
    return DataError(f"{Path(remote.path).name} could not be fetched from {host}: {reason}")


def part_file(remote: Remote, place: Path) -> Path:
    """Where an unfinished transfer is kept."""
    target = place / remote.path
    return target.with_name(f".{target.name}.download") / "part"


def size_of(path: Path) -> int:
    """In bytes; 0 when it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def stop_if(cancelled: Callable[[], bool], name: str) -> None:
    if cancelled():
        raise DataError(f"{name} was not fetched, since that was cancelled; what has come is kept for the next time")


def check_room(name: str, place: Path, wanted: int) -> None:
    """DataError when the disk has not so many bytes left."""
    free = shutil.disk_usage(place).free
    if wanted > free:
        raise DataError(f"{name} takes {megabytes(wanted)} more and only {megabytes(free)} are free in {place}")


def megabytes(count: int) -> str:
    """A number of bytes in words."""
    return f"{count / 1e6:,.1f} MB"
