"""Long work outside the web server's process, on Dask.

A job is a list of independent parts, each about a second of work, or one long part such as a training. Its progress is
the number of finished parts, and what they returned can be read, and drawn, while the rest still runs:

    jobs = Jobs()
    job = jobs.submit(key, "Accuracy under noise", accuracy, [(sigma,) for sigma in sigmas], {"model": model})
    job.done, job.total, job.seconds_left(), job.finished()

Results of a job that says which question it answers (engine.store) are kept on disk, part by part: what is known there
is never computed again, whoever found it.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from .connection import Connection, JobError, sentence, submit_parts
from .job import OVER, Job, Progress
from .store import Question, Record, Store

POLL_SECONDS = 0.05
CHECK_SECONDS = 1.0  # between looks at the workers, and between notes of the progress on disk
RECALL_SECONDS = 0.3  # how long a submit waits for results that are known already
KEPT = 128
AGAIN = ("failed", "cancelled", "interrupted")  # states from which a submit starts anew
LOST = "A worker process was lost while this ran; what it was computing was computed again."


@dataclass
class _Work:
    """What a job's thread needs. recalled: set once results that were known before are in the job."""

    job: Job
    function: Callable
    parts: list[tuple]
    shared: dict[str, object]
    question: Question | None
    noted: bool
    training: bool
    recalled: threading.Event = field(default_factory=threading.Event)


class Jobs:
    """Submits jobs to Dask, finds them again by key, and keeps the last KEPT finished ones.

    scheduler: address of a running Dask scheduler, "tcp://host:port", whose workers can import this project; None
    starts a cluster on this machine, with `workers` processes that share its cores (None: as many as suit it). Nothing
    starts before start() or the first submit. store: where results and the state of jobs are kept; None keeps neither.
    May be used from any thread.
    """

    def __init__(self, scheduler: str | None = None, workers: int | None = None, store: Store | None = None):
        self._connection, self._store = Connection(scheduler, workers), store
        self._jobs: dict[str, Job] = {}  # least recently used first
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the workers, or connect to the scheduler; blocks for some seconds, and returns at once the next time.

        Raises nothing, so that it may run in a thread of its own: a failure is raised by the next submit. Called
        again after a failure, it tries again.
        """
        try:
            self._connect()
        except JobError:
            pass  # the connection keeps it

    def submit(
        self,
        key: str,
        title: str,
        function: Callable,
        parts: Sequence[tuple],
        shared: Mapping[str, object] | None = None,
        *,
        question: Question | None = None,
        where: tuple[str, Mapping[str, Sequence[str]]] = ("", {}),
        noted: bool = False,
        training: bool = False,
        progress: Progress | None = None,
    ) -> Job:
        """Run function(*part, **shared) for every part on the workers. Returns at once, or nearly so where all results
        are known.

        key: hash of everything the results depend on; while a job with this key is there, and has not failed, been
        cancelled or interrupted, that one is returned. shared: large values, such as a model or images, which travel
        once a job and not once a part; the function must not change them, and nor may the caller before the job has
        begun. question: what the parts answer, so that their results are kept. where, progress: see Job. noted: note on
        disk how far it is, so that a later server can offer to go on. training: as many of these run at once as there
        are GPUs, or one; the others wait. Raises JobError when the workers could not be started.
        """
        with self._lock:
            job = self._jobs.get(key)
            if job is None or job.state in AGAIN:
                self._connection.tell_failure()
                job = Job(key, title, len(parts), where=where, progress=progress)
                work = _Work(job, function, list(parts), dict(shared or {}), question, noted, training)
                threading.Thread(target=self._run, args=[work], name=f"job {title}", daemon=True).start()
            else:
                work = None
            self._keep(job)
        if work is not None:
            work.recalled.wait(RECALL_SECONDS)  # known answers are there at once
        return job

    def find(
        self,
        key: str,
        title: str,
        parts: Sequence[tuple],
        question: Question,
        where: tuple[str, Mapping[str, Sequence[str]]],
    ) -> Job | None:
        """The job of this key without computing anything: one of this server, one whose every result is on disk, or one
        that a server which has ended left unfinished, as "interrupted"; else None."""
        if (job := self.get(key)) or self._store is None:
            return job
        interrupted = any(record.key == key and record.interrupted for record in self._store.jobs())
        keys = [question.key(part) for part in parts]
        if not interrupted and len(self._store.present(keys)) < len(set(keys)):
            return None
        found = self._store.get(keys)
        job = Job(key, title, len(parts), where=where)
        job._recall({index: found[one] for index, one in enumerate(keys) if one in found})
        if job.done < job.total and not interrupted:
            return None  # one of them could not be read
        job._end("done" if job.done == job.total else "interrupted")
        with self._lock:
            return self._keep(self._jobs.get(key, job))

    def get(self, key: str) -> Job | None:
        """The job submitted under this key, or None."""
        with self._lock:
            job = self._jobs.get(key)
            return job and self._keep(job)

    def _keep(self, job: Job) -> Job:
        """Make it the most recently used, and let the finished ones go that nobody asked for in a long time."""
        self._jobs.pop(job.key, None)
        self._jobs[job.key] = job
        over = [key for key, kept in self._jobs.items() if kept.state in OVER]
        for key in over[:-KEPT]:
            del self._jobs[key]
        return job

    def forget(self, key: str) -> None:
        """Drop a job, so that the next submit with this key runs it anew; one that still runs is cancelled. Kept results
        stay."""
        with self._lock:
            job = self._jobs.pop(key, None)
        if job:
            job.cancel()
        if self._store:
            self._store.forget(key)

    def all(self) -> list[Job]:
        """Every job that is still kept, oldest first."""
        with self._lock:
            return sorted(self._jobs.values(), key=lambda job: job.submitted)

    def interrupted(self) -> list[Record]:
        """Jobs of servers that ended before them, and which nobody has resumed here; newest first."""
        if self._store is None:
            return []
        with self._lock:
            known = {key for key, job in self._jobs.items() if job.state != "interrupted"}
        return [record for record in self._store.jobs() if record.interrupted and record.key not in known]

    def close(self) -> None:
        """Cancel what runs, stop the embedded cluster, disconnect. Happens by itself when Python exits."""
        atexit.unregister(self.close)
        for job in self.all():
            job._end("interrupted")
        self._connection.close()

    def _connect(self):
        client = self._connection.open()
        atexit.unregister(self.close)
        atexit.register(self.close)
        return client

    def _run(self, work: _Work) -> None:
        """See one job through; the body of its thread."""
        job = work.job
        try:
            left = self._recall(work)
            work.recalled.set()
            if left:
                self._note(work)
                self._follow(work, left)
            else:
                job._end("done")
        except Exception as error:  # the job's own: reported where the job is shown
            job._end("failed", sentence(error))
        finally:
            work.recalled.set()
            self._note(work)
        with self._lock:
            if job.key in self._jobs:
                self._keep(job)

    def _recall(self, work: _Work) -> list[int]:
        """Put what is known already into the job; the parts that are left."""
        if self._store is None or work.question is None:
            return list(range(len(work.parts)))
        keys = [work.question.key(part) for part in work.parts]
        found = self._store.get(keys)
        work.job._recall({index: found[key] for index, key in enumerate(keys) if key in found})
        return [index for index, key in enumerate(keys) if key not in found]

    def _follow(self, work: _Work, left: list[int]) -> None:
        import cloudpickle
        from distributed import as_completed

        job = work.job
        client = self._connect()
        with self._slot(work) as ready:
            if not ready:
                return
            parts = [work.parts[index] for index in left]
            futures = submit_parts(client, work.function, parts, work.shared, computing=not work.training)
            index = {future.key: i for future, i in zip(futures, left)}
            job._begin()
            completed = as_completed(futures, loop=client.loop, with_results=True, raise_errors=False)
            workers, checked = self._connection.workers(), time.monotonic()
            try:
                while not job._over.wait(POLL_SECONDS):
                    for future, result in completed.next_batch(block=False):
                        if isinstance(result, bytes):
                            self._take(work, index[future.key], *cloudpickle.loads(result))
                        elif isinstance(result, tuple):  # (type, exception, traceback)
                            job._end("failed", sentence(result[1]))
                        else:
                            job._end("failed", "The workers went away while this ran: start it again.")
                    if time.monotonic() - checked > CHECK_SECONDS:
                        workers, checked = self._check(work, workers), time.monotonic()
            finally:
                client.cancel(futures)

    @contextmanager
    def _slot(self, work: _Work) -> Iterator[bool]:
        """Hold a training back while others run; False when it was cancelled meanwhile."""
        if not work.training:
            yield True
            return
        slots, noted = self._connection.trainings, 0.0
        while not (held := slots.acquire(timeout=POLL_SECONDS)) and not work.job._over.is_set():
            work.job._wait_for_a_slot()
            if time.monotonic() - noted > CHECK_SECONDS:
                self._note(work)  # that this server lives
                noted = time.monotonic()
        try:
            yield held
        finally:
            if held:
                slots.release()

    def _take(self, work: _Work, index: int, engine: str | None, result: object) -> None:
        """A part has come back. It is kept where the worker's engine is the one that the question names."""
        if self._store is not None and work.question is not None and work.question.engine == engine:
            self._store.put(work.question.key(work.parts[index]), work.question, work.parts[index], result)
        work.job._finish(index, result)

    def _check(self, work: _Work, before: set[str]) -> set[str]:
        """Say which workers were lost, and keep on disk how far the job is; the workers there are."""
        now = self._connection.workers()
        if before - now:
            work.job.note(LOST)
        self._note(work)
        return now

    def _note(self, work: _Work) -> None:
        """Keep on disk what the job is and how far, for a server that comes after this one."""
        if self._store is not None and work.noted:
            self._store.record(work.job)
