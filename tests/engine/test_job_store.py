"""Jobs and the results on disk: known answers, jobs a dead server left, and work that goes on from there."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from engine import bundled
from engine.checkpoint import load_checkpoint
from engine.cluster import EmbeddedCluster
from engine.jobs import Jobs
from engine.store import Store, question

ROOT = Path(__file__).resolve().parents[2]
WAIT = 60
WHERE = ("robustness", {"samples": ["4"], "attacks": ["fgsm", "pgd"]})


def counted(x, *, folder, offset=0):
    """A part that leaves a trace of each time it ran, and is slow when told so."""
    import time
    from pathlib import Path

    with (Path(folder) / f"ran-{x}").open("a") as file:
        file.write("x")
    while (Path(folder) / "slow").exists() and x >= 2:
        time.sleep(0.05)
    return pd.DataFrame({"x": [x], "square": [x * x + offset]})


def runs(folder, x):
    path = folder / f"ran-{x}"
    return len(path.read_text()) if path.exists() else 0


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint(bundled.path("digits"))


@pytest.fixture(scope="module")
def cluster():
    """Workers that outlive the servers of these tests."""
    cluster = EmbeddedCluster(1)
    yield cluster
    cluster.close()


@pytest.fixture
def asked(checkpoint, tmp_path):
    return question(checkpoint, None, counted, offset=1)


@pytest.fixture
def fresh(cluster, tmp_path):
    """fresh() → Jobs as another server on the same store would have them."""
    made = []

    def new():
        made.append(Jobs(scheduler=cluster.address, store=Store(tmp_path / "store")))
        return made[-1]

    yield new
    for jobs in made:
        jobs.close()


def submit(jobs, asked, tmp_path, count):
    parts = [(x,) for x in range(count)]
    shared = {"folder": str(tmp_path), "offset": 1}
    return jobs.submit(asked.job_key(parts), "Counted", counted, parts, shared, question=asked, where=WHERE, noted=True)


def test_a_known_answer_needs_no_workers(fresh, asked, tmp_path):
    first = submit(fresh(), asked, tmp_path, 3)
    assert first.wait(WAIT) and first.state == "done", first.error
    other = fresh()
    again = submit(other, asked, tmp_path, 3)
    assert again.wait(WAIT) and again.state == "done"
    assert [frame["square"].item() for frame in again.results] == [1, 2, 5]
    assert other._connection._client is None, "nothing was started"
    assert [runs(tmp_path, x) for x in range(3)] == [1, 1, 1]


def test_only_what_is_new_is_computed(fresh, asked, tmp_path):
    jobs = fresh()
    assert submit(jobs, asked, tmp_path, 2).wait(WAIT)
    more = submit(jobs, asked, tmp_path, 4)
    assert more.wait(WAIT) and [frame["square"].item() for frame in more.results] == [1, 2, 5, 10]
    assert [runs(tmp_path, x) for x in range(4)] == [1, 1, 1, 1]


def test_a_job_is_found_by_another_server_without_computing(fresh, asked, tmp_path):
    parts = [(x,) for x in range(2)]
    jobs, key = fresh(), asked.job_key(parts)
    assert jobs.find(key, "Counted", parts, asked, WHERE) is None
    assert submit(jobs, asked, tmp_path, 2).wait(WAIT)
    found = fresh().find(key, "Counted", parts, asked, WHERE)
    assert found.state == "done" and found.done == 2
    one_more = [*parts, (2,)]
    assert fresh().find(asked.job_key(one_more), "Counted", one_more, asked, WHERE) is None


SERVER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from tests.engine.test_job_store import Jobs, Store, bundled, counted, load_checkpoint, question, submit
from pathlib import Path

folder = Path(sys.argv[2])
jobs = Jobs(scheduler=sys.argv[3], store=Store(folder / "store"))
job = submit(jobs, question(load_checkpoint(bundled.path("digits")), None, counted, offset=1), folder, 4)
while job.done < 2:
    assert job.state in ("starting", "running"), job.error
    time.sleep(0.05)
print("half", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("how", ["end", "kill"])
def test_a_job_of_a_dead_server_is_interrupted_and_goes_on(cluster, fresh, asked, tmp_path, how):
    (tmp_path / "slow").touch()
    command = [sys.executable, "-c", SERVER, str(ROOT), str(tmp_path), cluster.address]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert server.stdout.readline() == "half\n"
    assert fresh().interrupted() == [], "its server still runs"
    if how == "kill":
        server.kill()
    server.communicate(timeout=WAIT)
    (tmp_path / "slow").unlink()

    jobs, parts = fresh(), [(x,) for x in range(4)]
    (record,) = jobs.interrupted()
    assert (record.title, record.total, record.page, record.query) == ("Counted", 4, *WHERE)
    found = jobs.find(record.key, record.title, parts, asked, WHERE)
    assert found.state == "interrupted" and found.done == 2
    if how == "end":
        jobs.forget(record.key)
        assert jobs.interrupted() == [] and fresh().interrupted() == []
    before = [runs(tmp_path, x) for x in range(2)]
    resumed = submit(jobs, asked, tmp_path, 4)
    assert resumed.wait(WAIT) and resumed.state == "done"
    assert [frame["square"].item() for frame in resumed.results] == [1, 2, 5, 10]
    assert [runs(tmp_path, x) for x in range(2)] == before == [1, 1], "what was known is not computed again"
    assert jobs.interrupted() == [] and fresh().interrupted() == []


def test_a_cancelled_job_goes_on_where_it_was(fresh, asked, tmp_path):
    (tmp_path / "slow").touch()
    jobs = fresh()
    job = submit(jobs, asked, tmp_path, 4)
    while job.done < 2:
        assert job.state in ("starting", "running"), job.error
    job.cancel()
    (tmp_path / "slow").unlink()
    assert fresh().interrupted() == [], "cancelled is not interrupted"
    jobs.close()
    again = submit(fresh(), asked, tmp_path, 4)
    assert again.wait(WAIT) and again.state == "done"
    assert [runs(tmp_path, x) for x in range(2)] == [1, 1]
