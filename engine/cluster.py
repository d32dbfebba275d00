"""The embedded Dask cluster: a process of its own, which ends when the one that started it ends, however that ends.

It lives outside the web server's process for two reasons. Streamlit replaces sys.modules["__main__"] by the script of
the page, and multiprocessing would run that script again in every worker it spawns, also when Dask replaces a killed
one. And Dask writes OMP_NUM_THREADS=1 into the environment of the process that spawns workers.

Run as a script, with the number of workers, it writes one line, the scheduler's address or "error: …", and stops at
the end of its standard input.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NICE = 10
START_SECONDS = 120
STOP_SECONDS = 5
CHECK_SECONDS = 2
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}  # idle threads sleep: else they would starve the pages
CORES_A_WORKER, MOST_WORKERS = 4, 8
WORKERS = "BNTT_WORKERS"  # how many share the machine: in the environment of each


class EmbeddedCluster:
    """A scheduler and `workers` single-task worker processes on this machine, reachable from this machine only.

    workers: None chooses one for each GPU, or without GPUs one for every four cores and at most eight.
    address: of the scheduler, "tcp://127.0.0.1:…". alive: whether its process still runs.
    Raises RuntimeError with one sentence when it cannot be started.
    """

    def __init__(self, workers: int | None = None):
        path = str(ROOT), os.environ.get("PYTHONPATH")
        # -P keeps engine/ itself off sys.path. A session of its own keeps the terminal's Ctrl-C away from workers.
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(workers or _usual_workers())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            env=os.environ | WAITING | {"PYTHONPATH": os.pathsep.join(filter(None, path))},
        )
        line = self._process.stdout.readline().strip()
        if not line.startswith("tcp://"):
            self.close()
            reason = line.removeprefix("error: ") or "it ended"
            raise RuntimeError(f"The worker process could not be started: {reason}.")
        self.address = line

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """Stop scheduler and workers, at the latest a few seconds from now. May be called again."""
        self._process.stdin.close()
        try:
            self._process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def _usual_workers() -> int:
    from engine.device import gpu_count

    return gpu_count() or max(1, min(MOST_WORKERS, (os.cpu_count() or 1) // CORES_A_WORKER))


def dask_setup(worker) -> None:
    """Called by Dask in each new worker process: let the pages come first, and load torch before the first task."""
    if hasattr(os, "nice"):
        os.nice(NICE)
    from engine.device import keep_freed_memory

    keep_freed_memory()


def _serve(workers: int) -> None:
    """Run the cluster until standard input ends, which it also does when the starting process is killed."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a task prints must not fill the pipe nobody reads
    ended = threading.Event()
    with tempfile.TemporaryDirectory(prefix="bntt-", ignore_cleanup_errors=True) as scratch:
        try:
            cluster = _local_cluster(workers, scratch)
        except Exception as error:  # whatever it is, the starting process reports it
            print("error:", " ".join(str(error).split()) or type(error).__name__, file=answers, flush=True)
            ended.set()
        else:
            print(cluster.scheduler_address, file=answers, flush=True)
            threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
        while not ended.wait(CHECK_SECONDS):
            cluster.scale(workers)  # Dask gives up a worker that died while starting, or slept with the laptop
        for worker in multiprocessing.active_children():
            worker.kill()  # Dask's own close waits for running tasks
    os._exit(0)


def _local_cluster(workers: int, scratch: str):
    import dask
    from dask.system import CPU_COUNT
    from distributed import LocalCluster

    threads = int(os.environ.get("BNTT_WORKER_THREADS") or max(1, CPU_COUNT // workers))
    environment = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    environment[WORKERS] = str(workers)
    dask.config.set({"temporary-directory": scratch, "distributed.scheduler.allowed-failures": 1})
    dask.config.set({"distributed.nanny.pre-spawn-environ": environment})
    dask.config.set({"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []})
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",  # None would take 8787, where somebody's own Dask may want to be
        scheduler_kwargs={"dashboard": False},
        preload=["engine.cluster"],
        death_timeout=START_SECONDS,
    )


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
