"""The connection to Dask's scheduler and workers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from .cluster import EmbeddedCluster
from .device import gpu_count

CONNECT_SECONDS = 10


class JobError(RuntimeError):
    """Long work cannot run; the message is one sentence for a person."""


class Connection:
    """One client, made when it is first needed and again when it is lost; see engine.jobs.Jobs for the arguments.

    trainings: a semaphore with a permit for each training that may run at once: one on this machine, or one for each of
    its GPUs; on somebody's cluster one a worker.
    """

    def __init__(self, scheduler: str | None, workers: int | None):
        self._scheduler, self._workers = scheduler, workers
        self._cluster: EmbeddedCluster | None = None
        self._client = None
        self._failure: str | None = None
        self._lock = threading.Lock()
        self.trainings = threading.Semaphore(0)

    def open(self):
        """The connected client, made now if there is none that works. Raises JobError."""
        with self._lock:
            if self._client and self._client.status == "running" and (self._cluster is None or self._cluster.alive):
                return self._client
            self._close()
            self._failure = None
            try:
                self._client = self._open()
            except Exception as error:  # of Dask, of the network, of the operating system: all mean no long work
                self._close()
                self._failure = str(error) if isinstance(error, RuntimeError) else sentence(error)
                raise JobError(self._failure) from error
            self.trainings = threading.Semaphore(max(1, gpu_count() if self._cluster else len(self.workers())))
            return self._client

    def tell_failure(self) -> None:
        """Raise JobError if the last open() failed; once, so that the next one connects anew."""
        failure, self._failure = self._failure, None
        if failure:
            raise JobError(failure)

    def workers(self) -> set[str]:
        """Addresses of the workers, as known a moment ago."""
        return set(self._client.scheduler_info(n_workers=-1)["workers"]) if self._client else set()

    def close(self) -> None:
        """Disconnect, and stop the embedded cluster."""
        with self._lock:
            self._close()

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

    def _close(self) -> None:
        if self._client:
            self._client.close(timeout=1)
        if self._cluster:
            self._cluster.close()
        self._client = self._cluster = None


def submit_parts(client, function: Callable, parts: list[tuple], shared: dict[str, object], *, computing: bool) -> list:
    """One future a part, of the pickled (engine version of the worker, result). computing: whether the parts need a GPU
    where there is one, and its engine decides what comes out.

    We pickle both ways, so that Dask neither looks into arguments nor hashes them, and so that a result that cannot
    be read fails the job instead of Dask's event loop.
    """
    from cloudpickle import dumps, loads

    def run(payload, common):  # nested: sent by value, so that the scheduler need not import torch
        function, part = loads(payload)
        if not computing:
            return dumps((None, function(*part, **common)))
        from distributed import get_worker

        from engine.device import exclusive
        from engine.question import engine_version
        from engine.training_job import stop_if_cancelled

        worker = get_worker()
        task = worker.get_current_task()
        with exclusive(lambda: stop_if_cancelled(worker, task)):
            return dumps((engine_version(), function(*part, **common)))

    # A task and not a scattered value: when a worker dies with it, Dask makes it again from the pickle. And one task
    # for all values: parts that need five or more would all go to the workers at once, ahead of any job after this one.
    common = client.submit(loads, dumps(shared), pure=False)
    return [
        # First parts of all jobs before second parts: two visitors advance side by side.
        client.submit(run, dumps((function, part)), common, pure=False, priority=-i)
        for i, part in enumerate(parts)
    ]


def sentence(error: BaseException) -> str:
    """An exception as one sentence for a person."""
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        return "The worker was killed every time it ran this, probably for want of memory: try a smaller batch."
    message = " ".join(str(error).split()) or type(error).__name__
    return message if message.endswith((".", "!", "?")) else message + "."
