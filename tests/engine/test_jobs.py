"""Long work: results, sharing, cancelling, failing, killed processes, and no process left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from engine import connection
from engine.cluster import NICE, EmbeddedCluster
from engine.jobs import KEPT, Job, JobError, Jobs

ROOT = Path(__file__).resolve().parents[2]
WAIT = 60


@pytest.fixture(scope="module")
def jobs():
    jobs = Jobs()
    jobs.start()
    yield jobs
    jobs.close()


def square(x, offset=0):
    return x * x + offset


def slow_pid(_):
    time.sleep(0.3)
    return os.getpid()


def until(condition, seconds=WAIT):
    """Wait for a condition; fails the test when it does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_results_come_in_part_order(jobs):
    job = jobs.submit("squares", "Squares", square, [(x,) for x in range(7)], {"offset": 1})
    assert job.wait(WAIT)
    assert (job.state, job.error, job.done, job.total) == ("done", None, 7, 7)
    assert job.results == [x * x + 1 for x in range(7)]
    assert sorted(job.finished()) == list(enumerate(job.results))
    assert job.seconds_left() is None


def test_results_can_be_read_while_the_rest_runs(jobs):
    job = jobs.submit("partial", "Partial", slow_pid, [(x,) for x in range(5)])
    until(lambda: job.done >= 2)
    assert job.state == "running"
    assert [result is not None for result in job.results] == [True, True, False, False, False]
    assert 0 < job.seconds_left() < 30
    job.cancel()


def test_same_key_is_the_same_job(jobs):
    first = jobs.submit("shared key", "First", square, [(1,)])
    assert jobs.submit("shared key", "Second", square, [(2,)]) is first
    assert jobs.get("shared key") is first
    assert first in jobs.all()
    assert jobs.get("no such key") is None
    assert first.wait(WAIT)
    assert jobs.submit("shared key", "Third", square, [(3,)]) is first


def test_submit_does_not_wait_for_the_cluster():
    fresh = Jobs()
    begin = time.monotonic()
    job = fresh.submit("lazy", "Lazy", square, [(3,)])
    assert time.monotonic() - begin < 0.5
    assert job.state == "starting"
    assert job.wait(WAIT) and job.results == [9]
    fresh.close()


def test_shared_values_travel_once_and_under_any_name(jobs):
    def identity(_, key, workers, priority):
        return os.getpid(), id(key), workers, priority

    shared = {"key": bytes(1_000_000), "workers": "w", "priority": 3}
    job = jobs.submit("shared", "Shared", identity, [(x,) for x in range(4)], shared)
    assert job.wait(WAIT) and job.state == "done", job.error
    assert len(set(job.results)) == 1, "each part got an object of its own"
    assert job.results[0][2:] == ("w", 3)


def test_worker_is_polite_and_knows_the_project(jobs):
    def describe():
        import torch

        import engine.snn

        waiting = os.environ["OMP_WAIT_POLICY"], os.environ["GOMP_SPINCOUNT"]
        return os.nice(0), torch.get_num_threads(), engine.snn.__name__, os.getpid(), waiting

    job = jobs.submit("describe", "Describe", describe, [()])
    assert job.wait(WAIT) and job.state == "done", job.error
    nice, threads, name, pid, waiting = job.results[0]
    assert nice == os.nice(0) + NICE
    assert threads == int(os.environ.get("BNTT_WORKER_THREADS") or len(os.sched_getaffinity(0)))
    assert name == "engine.snn"
    assert pid != os.getpid()
    assert waiting == ("PASSIVE", "0"), "its idle threads sleep"


def test_raising_part_fails_the_job_in_one_sentence(jobs):
    def picky(x):
        time.sleep(0.1)
        if x == 1:
            raise ValueError("noise must not\n be negative")
        return x

    job = jobs.submit("picky", "Picky", picky, [(x,) for x in range(50)])
    assert job.wait(WAIT)
    assert (job.state, job.error) == ("failed", "noise must not be negative.")
    assert job.done < 50
    again = jobs.submit("picky", "Picky", square, [(2,)])
    assert again is not job and again.wait(WAIT) and again.results == [4]


@pytest.mark.parametrize("function, part", [(square, threading.Lock()), (lambda _: threading.Lock(), 1)])
def test_what_cannot_travel_fails_the_job(jobs, function, part):
    job = jobs.submit(f"unpicklable {part}", "Unpicklable", function, [(part,)])
    assert job.wait(WAIT)
    assert job.state == "failed"
    assert "pickle" in job.error and "\n" not in job.error


def test_no_parts_is_done(jobs):
    job = jobs.submit("nothing", "Nothing", square, [])
    assert job.wait(WAIT) and (job.state, job.results) == ("done", [])


def test_cancel_is_immediate_and_frees_the_worker(jobs):
    job = jobs.submit("cancelled", "Cancelled", slow_pid, [(x,) for x in range(100)])
    until(lambda: job.done >= 1)
    job.cancel()
    assert job.state == "cancelled"
    done, begin = job.done, time.monotonic()
    after = jobs.submit("after", "After", square, [(2,)])
    assert after.wait(WAIT) and time.monotonic() - begin < 5, "waiting parts were not dropped"
    assert job.done == done and job.state == "cancelled" and job.error is None


def test_cancel_before_the_start():
    fresh = Jobs()
    job = fresh.submit("early", "Early", square, [(1,)])
    job.cancel()
    assert job.wait(0) and job.state == "cancelled"
    after = fresh.submit("later", "Later", square, [(2,)])
    assert after.wait(WAIT) and after.results == [4]
    assert job.results == [None]
    fresh.close()


@pytest.mark.parametrize("values", [0, 6])
def test_two_jobs_advance_side_by_side(jobs, values):
    def slow(_, **shared):
        time.sleep(0.3)

    shared = {f"value{i}": i for i in range(values)}
    first = jobs.submit(f"side 1 {values}", "One", slow, [(x,) for x in range(30)], shared)
    until(lambda: first.done >= 3)
    second = jobs.submit(f"side 2 {values}", "Two", slow, [(x,) for x in range(3)], shared)
    assert second.wait(WAIT)
    assert first.state == "running"
    first.cancel()


def test_many_threads_submit_at_once(jobs):
    made = []
    threads = [
        threading.Thread(target=lambda i=i: made.append(jobs.submit(f"thread {i % 2}", "T", square, [(i % 2,)])))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8 and len(set(map(id, made))) == 2
    assert all(job.wait(WAIT) and job.state == "done" for job in made)


@pytest.mark.parametrize("shared", [{}, {"model": bytes(100)}])
def test_killed_worker_is_replaced(jobs, shared):
    def pid(_, model=None):
        time.sleep(0.2)
        return os.getpid()

    job = jobs.submit(f"survivor {shared}", "Survivor", pid, [(x,) for x in range(6)], shared)
    until(lambda: job.done >= 2)
    victim = job.finished()[0][1]
    os.kill(victim, signal.SIGKILL)
    assert job.wait(WAIT) and job.state == "done", job.error
    assert set(job.results) > {victim}


def test_part_that_kills_its_worker_fails_the_job(jobs):
    job = jobs.submit("deadly", "Deadly", lambda: os.kill(os.getpid(), signal.SIGKILL), [()])
    assert job.wait(WAIT) and job.state == "failed"
    assert job.error.startswith("The worker was killed every time")
    after = jobs.submit("after deadly", "After", square, [(4,)])
    assert after.wait(WAIT) and after.results == [16]


def test_killed_cluster_fails_the_job_and_the_next_one_starts_another(capfd):
    fresh = Jobs()
    job = fresh.submit("orphan", "Orphan", slow_pid, [(x,) for x in range(50)])
    until(lambda: job.done >= 1)
    psutil.Process(job.results[0]).parent().kill()
    assert job.wait(WAIT) and job.state == "failed"
    assert job.error == "The workers went away while this ran: start it again."
    after = fresh.submit("orphan", "Orphan", square, [(5,)])
    assert after.wait(WAIT) and after.results == [25]
    fresh.close()
    assert capfd.readouterr().err == ""


def test_another_scheduler_by_address():
    cluster = EmbeddedCluster()
    elsewhere = Jobs(scheduler=cluster.address)
    job = elsewhere.submit("elsewhere", "Elsewhere", square, [(6,)])
    assert job.wait(WAIT) and job.results == [36]
    elsewhere.close()
    assert cluster.alive, "a scheduler we did not start is not ours to stop"
    cluster.close()
    assert not cluster.alive


def test_unreachable_scheduler_is_told_in_one_sentence(monkeypatch):
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 1)
    nowhere = Jobs(scheduler="tcp://127.0.0.1:9")
    nowhere.start()
    with pytest.raises(JobError, match=r"^No Dask scheduler answers at tcp://127.0.0.1:9: .*\.$"):
        nowhere.submit("x", "X", square, [(1,)])


def test_cluster_that_cannot_start_is_told_in_one_sentence(monkeypatch):
    monkeypatch.setenv("BNTT_WORKER_THREADS", "many")
    with pytest.raises(RuntimeError, match=r"^The worker process could not be started: .*'many'\.$"):
        EmbeddedCluster()


def test_only_the_last_finished_jobs_are_kept():
    jobs = Jobs()  # jobs without parts start no cluster
    first = jobs.submit("kept", "Kept", square, [])
    until(lambda: not any(thread.name == "job Kept" for thread in threading.enumerate()))  # its end counts as a use
    for i in range(KEPT):
        jobs.submit(f"filler {i}", "Filler", square, []).wait(WAIT)
    until(lambda: len(jobs.all()) <= KEPT)
    assert jobs.get("kept") is None and first.state == "done"
    assert [job.key for job in jobs.all()] == [f"filler {i}" for i in range(KEPT)]


def test_pace_gives_the_time_left():
    job = Job("pace", "Pace", total=4)
    assert job.seconds_left() is None
    job._begin()
    assert job.seconds_left() is None
    job._began = time.monotonic() - 6.0
    job._finish(0, "result")
    assert job.seconds_left() == pytest.approx(18.0, abs=0.5)


SCRIPT = """
import os, signal, sys, time, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
page = types.ModuleType("__main__")  # what Streamlit does while it runs a page
page.__file__ = sys.argv[2]
sys.modules["__main__"] = page
sys.path.insert(0, sys.argv[1])
from engine.jobs import Jobs

def part(_):
    import engine.snn
    print("chatter from the worker", file=sys.stderr)
    time.sleep(0.3)
    return os.getpid()

jobs = Jobs()
job = jobs.submit("long", "Long", part, [(x,) for x in range(200)])
while not job.done:
    assert job.state != "failed", job.error
    time.sleep(0.05)
print("ready", flush=True)
if sys.argv[3] == "wait":
    time.sleep(60)
"""


@pytest.mark.parametrize("how", ["end", signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=str)
def test_no_process_outlives_the_server(tmp_path, how):
    page = tmp_path / "page.py"
    page.write_text(f"open({str(tmp_path / 'ran twice')!r}, 'w')")
    script = tmp_path / "server.py"
    script.write_text(SCRIPT)
    server = subprocess.Popen(
        [sys.executable, script, ROOT, page, "end" if how == "end" else "wait"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    family = []
    watcher = psutil.Process(server.pid)
    while server.stdout.readline().strip() != "ready":
        assert server.poll() is None, server.stderr.read()
    if how != "end":
        family = watcher.children(recursive=True)
        assert len(family) >= 2, "scheduler and worker"
        server.send_signal(how)
    _, noise = server.communicate(timeout=10)
    until(lambda: not [process for process in family if process.is_running()], seconds=5)
    until(lambda: not any(str(tmp_path) in " ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])))
    assert "chatter" not in noise
    assert noise == "" or how == signal.SIGINT and noise.rstrip().endswith("KeyboardInterrupt")
    assert not (tmp_path / "ran twice").exists()
