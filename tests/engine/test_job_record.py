"""Jobs on disk: what is noted of them, and whether somebody still works on them."""

import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from engine import job_record, store
from engine.job import Job
from engine.store import owner_alive

ROOT = Path(__file__).resolve().parents[2]


def job(key, done=0, state="running", submitted=None, where=("overview", {"model": ["runs/a b"], "t": ["3"]})) -> Job:
    made = Job(key, f"Title of {key}", 5, where=where)
    made._state, made._results = state, dict.fromkeys(range(done))
    if submitted is not None:
        made.submitted = submitted
    return made


def test_jobs_are_recorded_newest_first(kept):
    for number in range(3):
        kept.record(job(f"job {number}", submitted=100.0 + number))
    kept.record(job("job 0", done=4, submitted=100.0))
    records = kept.jobs()
    assert [record.key for record in records] == ["job 2", "job 1", "job 0"]
    last = records[-1]
    assert (last.title, last.state, last.done, last.total) == ("Title of job 0", "running", 4, 5)
    assert last.page == "overview" and last.query == {"model": ["runs/a b"], "t": ["3"]}
    assert last.created == 100.0 and last.updated == pytest.approx(time.time(), abs=60)
    assert owner_alive(last) and not last.interrupted
    kept.forget("job 0")
    kept.forget("never recorded")
    assert [record.key for record in kept.jobs()] == ["job 2", "job 1"]


def test_the_last_200_records_are_kept(kept, monkeypatch):
    monkeypatch.setattr(store, "RECORDS", 5)
    for number in range(8):
        kept.record(job(f"job {number}", submitted=float(number)))
    kept.record(job("job 3", done=1, submitted=3.0))
    kept.record(job("job 8", submitted=8.0))
    assert [record.key for record in kept.jobs()] == [f"job {number}" for number in (8, 7, 6, 5, 3)]


def test_a_job_of_a_dead_process_is_interrupted(kept):
    """The process is a real one, killed, and at first not waited for."""
    code = (
        "import sys; from pathlib import Path; from engine.store import Store; from engine.job import Job\n"
        "one = Job('key', 'title', 3, where=('overview', {})); one._state = 'running'\n"
        "Store(Path(sys.argv[1])).record(one); print('ready', flush=True); sys.stdin.read()"
    )
    arguments = [sys.executable, "-c", code, str(kept.path.parent)]
    with subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        (record,) = kept.jobs()
        assert owner_alive(record) and not record.interrupted
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not owner_alive(record) and record.interrupted, "a zombie is dead"
    assert not owner_alive(record) and record.interrupted


@pytest.mark.parametrize(
    "state, interrupted", [("done", False), ("cancelled", False), ("failed", False), ("interrupted", True)]
)
def test_a_job_that_is_over_stays_what_it_is(state, interrupted, kept):
    kept.record(job("key", state=state))
    (record,) = kept.jobs()
    assert record.interrupted == interrupted


def record_of(owner, updated=None):
    now = time.time()
    return job_record.Record("k", "t", "running", 0, 1, "p", {}, owner, now, now if updated is None else updated)


def test_whether_an_owner_lives():
    host, number, started = job_record.owner().split(":")
    assert int(number) == os.getpid()
    assert owner_alive(record_of(f"{host}:{number}:{started}"))
    assert not owner_alive(record_of(f"{host}:{number}:{int(started) + 1}")), "another process of the same number"
    assert owner_alive(record_of(f"{host}:{number}:")), "where there is no /proc the number decides"
    assert not owner_alive(record_of(f"{host}:{2**22 + 5}:"))
    elsewhere = "another-machine:1:1"
    assert owner_alive(record_of(elsewhere, time.time() - 50))
    assert not owner_alive(record_of(elsewhere, time.time() - 70))


@pytest.mark.parametrize("rest", ["", ":", ":-1:", ":x:5", ":" + "9" * 40 + ":", ":²:", ":1"])
def test_a_damaged_owner_is_dead_or_alive_and_no_error(rest):
    assert owner_alive(record_of(f"{job_record.platform.node()}{rest}")) in (True, False)


@pytest.mark.parametrize("query", ["", "no JSON", "[1]", "5", b"\xff\xfe"])
def test_a_damaged_record_is_listed_without_its_query(query, kept):
    kept.record(job("key"))
    with closing(sqlite3.connect(kept.path)) as file, file:
        file.execute("UPDATE jobs SET query = CAST(? AS TEXT)", [query])
    (record,) = kept.jobs()
    assert record.key == "key" and record.query == {}
