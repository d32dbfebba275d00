"""One piece of long work, as others see it: what it is, how far it is, how it ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

OVER = ("done", "cancelled", "failed", "interrupted")
Progress = Callable[[], "tuple[float, float | None] | None"]


class Job:
    """Made by Jobs.submit and Jobs.find; may be read from any thread.

    key, title: as submitted. submitted: when, in seconds since the epoch. total: number of parts. where: the page it was
    asked for on, and that page's query parameters.
    state: "starting" (workers start, data travels), "waiting" (for the training before it), "running", "done",
    "cancelled", "failed", or "interrupted": it ran in a server that has ended, and what it had found is still there.
    notes: sentences on what happened on the way. progress: (share done, seconds left) of work that is not seen by its
    parts, None while unknown.
    """

    def __init__(
        self,
        key: str,
        title: str,
        total: int,
        *,
        where: tuple[str, Mapping[str, Sequence[str]]] = ("", {}),
        progress: Progress | None = None,
    ):
        self.key, self.title, self.total, self.where = key, title, total, where
        self.submitted = time.time()
        self.notes: list[str] = []
        self._progress = progress
        self._results: dict[int, object] = {}
        self._state, self._error = "starting", None
        self._began, self._known, self._share = 0.0, 0, 0.0
        self._lock = threading.Lock()
        self._over = threading.Event()

    @property
    def state(self) -> str:
        return self._state

    @property
    def error(self) -> str | None:
        """Why the job failed, in one sentence; None for any other state."""
        return self._error

    @property
    def done(self) -> int:
        """Number of finished parts."""
        return len(self._results)

    @property
    def results(self) -> list:
        """What each part returned, in the order of the parts; None where it has not finished."""
        with self._lock:
            return [self._results.get(index) for index in range(self.total)]

    def finished(self) -> list[tuple[int, object]]:
        """(index of the part, what it returned) of the finished parts, in the order in which they finished."""
        with self._lock:
            return list(self._results.items())

    def share(self) -> float:
        """How much of it is done, 0 … 1."""
        if self._progress and self._state != "done":
            known = self._progress()
            self._share = known[0] if known else self._share  # nothing is told while files are being finished
            return self._share
        return self.done / self.total if self.total else 1.0

    def seconds_left(self) -> float | None:
        """Estimate from the pace so far; None unless the job is running and a part has been computed."""
        if self._state == "running" and self._progress:
            known = self._progress()
            return known[1] if known else None
        with self._lock:
            computed = len(self._results) - self._known
            if self._state != "running" or not computed:
                return None
            return (time.monotonic() - self._began) / computed * (self.total - len(self._results))

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the job is over, at most `timeout` seconds; whether it is over."""
        return self._over.wait(timeout)

    def cancel(self) -> None:
        """Stop at once: waiting parts are dropped and what the running ones return is thrown away.

        Finished results stay readable. A job that is over stays as it is.
        """
        self._end("cancelled")

    def note(self, sentence: str) -> None:
        """Remember what happened on the way; the same thing once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def _wait_for_a_slot(self) -> None:
        with self._lock:
            if self._state == "starting":
                self._state = "waiting"

    def _begin(self) -> None:
        """The parts are with the scheduler."""
        with self._lock:
            if self._state in ("starting", "waiting"):
                self._state, self._began = "running", time.monotonic()

    def _recall(self, found: Mapping[int, object]) -> None:
        """Parts whose results were known before."""
        with self._lock:
            self._results.update(found)
            self._known = len(self._results)

    def _finish(self, index: int, result: object) -> None:
        with self._lock:
            if self._state != "running":
                return
            self._results[index] = result
        if self.done == self.total:
            self._end("done")

    def _end(self, state: str, error: str | None = None) -> None:
        """Enter a final state; a job that is over stays as it is."""
        with self._lock:
            if self._state not in OVER:
                self._error, self._state = error, state
        self._over.set()
