"""Long work outside the web server's process, on Dask.

A job is a list of independent parts, each about a second of work. Its progress is the number of finished parts, and
what they returned can be read, and drawn, while the rest still runs:

    jobs = Jobs()
    job = jobs.submit(key, "Accuracy under noise", accuracy, [(sigma,) for sigma in sigmas], {"model": model})
    job.done, job.total, job.seconds_left(), job.finished()
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from .cluster import EmbeddedCluster

CONNECT_SECONDS = 10
POLL_SECONDS = 0.05
KEPT = 64
OVER = ("done", "cancelled", "failed")


class JobError(RuntimeError):
    """Long work cannot run; the message is one sentence for a person."""


class Job:
    """One piece of long work, made by Jobs.submit; may be read from any thread.

    key, title: as submitted. submitted: when, in seconds since the epoch. total: number of parts.
    state: "starting" (workers start, data travels), "running", "done", "cancelled" or "failed".
    """

    def __init__(self, key: str, title: str, total: int):
        self.key, self.title, self.total = key, title, total
        self.submitted = time.time()
        self._results: dict[int, object] = {}
        self._state, self._error = "starting", None
        self._began = 0.0
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

    def seconds_left(self) -> float | None:
        """Estimate from the pace so far; None unless the job is running and a part has finished."""
        with self._lock:
            if self._state != "running" or not self._results:
                return None
            done = len(self._results)
            return (time.monotonic() - self._began) / done * (self.total - done)

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the job is over, at most `timeout` seconds; whether it is over."""
        return self._over.wait(timeout)

    def cancel(self) -> None:
        """Stop at once: waiting parts are dropped and what the running ones return is thrown away.

        Finished results stay readable. A job that is over stays as it is.
        """
        self._end("cancelled")

    def _begin(self) -> None:
        """The parts are with the scheduler."""
        with self._lock:
            if self._state == "starting":
                self._state, self._began = "running", time.monotonic()

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


class Jobs:
    """Submits jobs to Dask, finds them again by key, and keeps the last 64 finished ones.

    scheduler: address of a running Dask scheduler, "tcp://host:port", whose workers can import this project; None
    starts a cluster on this machine, with `workers` processes that share its cores. Nothing starts before start() or
    the first submit. May be used from any thread.
    """

    def __init__(self, scheduler: str | None = None, workers: int = 1):
        self._scheduler, self._workers = scheduler, workers
        self._cluster: EmbeddedCluster | None = None
        self._client = None
        self._failure: str | None = None
        self._jobs: dict[str, Job] = {}  # least recently used first
        self._lock = threading.Lock()
        self._starting = threading.Lock()

    def start(self) -> None:
        """Start the workers, or connect to the scheduler; blocks for some seconds, and returns at once the next time.

        Raises nothing, so that it may run in a thread of its own: a failure is raised by the next submit. Called
        again after a failure, it tries again.
        """
        try:
            self._connect()
        except JobError:
            pass  # kept in self._failure

    def submit(
        self,
        key: str,
        title: str,
        function: Callable,
        parts: Sequence[tuple],
        shared: Mapping[str, object] | None = None,
    ) -> Job:
        """Run function(*part, **shared) for every part on the workers. Returns at once.

        key: hash of everything the results depend on; while a job with this key is there, and has not failed or been
        cancelled, that one is returned. shared: large values, such as a model or images, which travel once a job and
        not once a part; the function must not change them, and nor may the caller before the job has begun.
        Raises JobError when the workers could not be started.
        """
        with self._lock:
            job = self._jobs.get(key)
            if job is None or job.state in ("failed", "cancelled"):
                if self._failure:
                    failure, self._failure = self._failure, None  # told once; the next submit connects anew
                    raise JobError(failure)
                job = Job(key, title, len(parts))
                work = (job, function, list(parts), dict(shared or {}))
                threading.Thread(target=self._run, args=work, name=f"job {title}", daemon=True).start()
            self._jobs.pop(key, None)
            self._jobs[key] = job  # now the most recently used
            return job

    def get(self, key: str) -> Job | None:
        """The job submitted under this key, or None."""
        with self._lock:
            job = self._jobs.pop(key, None)
            if job:
                self._jobs[key] = job
            return job

    def forget(self, key: str) -> None:
        """Drop a job, so that the next submit with this key runs it anew; one that still runs is cancelled."""
        with self._lock:
            job = self._jobs.pop(key, None)
        if job:
            job.cancel()

    def all(self) -> list[Job]:
        """Every job that is still kept, oldest first."""
        with self._lock:
            return sorted(self._jobs.values(), key=lambda job: job.submitted)

    def close(self) -> None:
        """Cancel what runs, stop the embedded cluster, disconnect. Happens by itself when Python exits."""
        atexit.unregister(self.close)
        for job in self.all():
            job._end("cancelled")
        with self._starting:
            self._disconnect()

    def _connect(self):
        """The connected client, made now if there is none that works. Raises JobError."""
        with self._starting:
            if self._client and self._client.status == "running" and (self._cluster is None or self._cluster.alive):
                return self._client
            self._disconnect()
            self._failure = None
            try:
                self._client = self._open()
            except Exception as error:  # of Dask, of the network, of the operating system: all mean no long work
                self._disconnect()
                self._failure = str(error) if isinstance(error, RuntimeError) else _sentence(error)
                raise JobError(self._failure) from error
            atexit.register(self.close)
            return self._client

    def _open(self):
        import dask
        from distributed import Client

        for name in ("distributed", "distributed.client"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # a lost connection is told by the jobs
        dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"})  # a model's weights are no graph
        if self._scheduler is None:
            self._cluster = EmbeddedCluster(self._workers)
        address = self._scheduler or self._cluster.address
        try:
            client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise JobError(f"No Dask scheduler answers at {address}: check the address, and that it runs.") from error
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError as error:
            client.close()
            raise JobError(f"The Dask scheduler at {address} has no workers: start one with `dask worker`.") from error
        return client

    def _disconnect(self) -> None:
        if self._client:
            self._client.close(timeout=1)
        if self._cluster:
            self._cluster.close()
        self._client = self._cluster = None

    def _run(self, job: Job, function: Callable, parts: list[tuple], shared: dict[str, object]) -> None:
        """See one job through; the body of its thread."""
        try:
            if parts:
                self._follow(job, function, parts, shared)
            else:
                job._end("done")
        except Exception as error:  # the job's own: reported where the job is shown
            job._end("failed", _sentence(error))
        with self._lock:
            over = [key for key, kept in self._jobs.items() if kept.state in OVER]
            for key in over[:-KEPT]:
                del self._jobs[key]

    def _follow(self, job: Job, function: Callable, parts: list[tuple], shared: dict[str, object]) -> None:
        import cloudpickle
        from distributed import as_completed

        client = self._connect()
        futures = _submit(client, function, parts, shared)
        index = {future.key: i for i, future in enumerate(futures)}
        job._begin()
        completed = as_completed(futures, loop=client.loop, with_results=True, raise_errors=False)
        try:
            while not job._over.wait(POLL_SECONDS):
                for future, result in completed.next_batch(block=False):
                    if isinstance(result, bytes):
                        job._finish(index[future.key], cloudpickle.loads(result))
                    elif isinstance(result, tuple):  # (type, exception, traceback)
                        job._end("failed", _sentence(result[1]))
                    else:
                        job._end("failed", "The workers went away while this ran: start it again.")
        finally:
            client.cancel(futures)


def _submit(client, function: Callable, parts: list[tuple], shared: dict[str, object]) -> list:
    """One future a part, of the pickled result.

    We pickle both ways, so that Dask neither looks into arguments nor hashes them, and so that a result that cannot
    be read fails the job instead of Dask's event loop.
    """
    from cloudpickle import dumps, loads

    def run(payload, common):  # nested: sent by value, so that the scheduler need not import torch
        function, part = loads(payload)
        return dumps(function(*part, **common))

    # A task and not a scattered value: when a worker dies with it, Dask makes it again from the pickle. And one task
    # for all values: parts that need five or more would all go to the workers at once, ahead of any job after this one.
    common = client.submit(loads, dumps(shared), pure=False)
    return [
        # First parts of all jobs before second parts: two visitors advance side by side.
        client.submit(run, dumps((function, part)), common, pure=False, priority=-i)
        for i, part in enumerate(parts)
    ]


def _sentence(error: BaseException) -> str:
    """An exception as one sentence for a person."""
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        return "The worker was killed every time it ran this, probably for want of memory: try a smaller batch."
    message = " ".join(str(error).split()) or type(error).__name__
    return message if message.endswith((".", "!", "?")) else message + "."
