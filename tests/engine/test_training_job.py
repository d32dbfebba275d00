"""A training as long work: it ends with the weights of one in a terminal, and stops, waits and dies well."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from engine.checkpoint import load_checkpoint
from engine.jobs import Jobs
from engine.recipe import Recipe
from engine.run_library import read_run
from engine.runs import create_run
from engine.snn import ModelConfig
from engine.training_job import train_run

ROOT = Path(__file__).resolve().parents[2]
WAIT = 90
CONFIG = ModelConfig(layout="C4 P F8", steps=3, classes=10, in_shape=(1, 16, 16))


@pytest.fixture(scope="module")
def jobs():
    jobs = Jobs()
    jobs.start()
    yield jobs
    jobs.close()


@pytest.fixture
def begin(jobs, tmp_path):
    """begin(name, epochs) → the job of a new run; begin(name) resumes one."""

    def start(name, epochs=None, queue=jobs, seed=0):
        folder = tmp_path / name
        if epochs:
            recipe = Recipe(epochs=epochs, batch=200, lr=0.1, seed=seed)
            create_run(folder, CONFIG, recipe, command="", threads=1)
        parts = [(str(folder), str(tmp_path / "data"))]
        return queue.submit(f"training {folder}", name, train_run, parts, training=True)

    return start


def until(condition):
    """Wait for a condition; fails the test when it does not come true."""
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def epochs_done(folder):
    return read_run(folder).epochs_done


def trainings(folder):
    """The processes that train there."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "engine.tethered" in command and str(folder) in command:
            found.append(process)
    return found


def weights(folder):
    return load_checkpoint(folder / "model.safetensors").model.state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_it_ends_with_the_weights_of_a_run_in_a_terminal(begin, tmp_path):
    job = begin("app", 3)
    assert job.wait(WAIT) and job.state == "done", job.error
    command = (
        f"train --layout,C4 P F8,--steps,3,--epochs,3,--batch,200,--lr,0.1,--threads,1,--out,{tmp_path / 'terminal'}"
    )
    subprocess.run(
        [sys.executable, "-m", "engine", "train", *command.removeprefix("train ").split(",")],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    assert same(weights(tmp_path / "app"), weights(tmp_path / "terminal"))
    assert read_run(tmp_path / "app").state == "finished" and read_run(tmp_path / "app").result["test_samples"] == 399


def test_a_stop_takes_effect_at_once_and_resuming_gives_the_same_weights(begin, tmp_path):
    whole = begin("whole", 8)
    assert whole.wait(WAIT) and whole.state == "done", whole.error
    job = begin("run", 8)
    until(lambda: epochs_done(tmp_path / "run") >= 2)
    (process,) = trainings(tmp_path / "run")
    job.cancel()
    process.wait(5)
    assert job.state == "cancelled" and trainings(tmp_path / "run") == []
    stopped = read_run(tmp_path / "run")
    assert stopped.state == "interrupted" and 2 <= stopped.epochs_done < 8
    again = begin("run")
    assert again is not job and again.wait(WAIT) and again.state == "done", again.error
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))
    assert not [path.name for path in (tmp_path / "run").glob(".*") if path.name != ".lock"]


def test_other_work_goes_on_beside_it_and_another_training_waits(begin, jobs, tmp_path):
    first, second = begin("first", 500), begin("second", 2)
    until(lambda: second.state == "waiting" and epochs_done(tmp_path / "first") >= 1)
    short = jobs.submit("short", "Short", pow, [(x, 2) for x in range(5)])
    assert short.wait(WAIT) and short.results == [0, 1, 4, 9, 16]
    assert second.state == "waiting" and not trainings(tmp_path / "second")
    first.cancel()
    assert second.wait(WAIT) and second.state == "done", second.error


def test_a_training_that_waits_can_be_cancelled(begin, tmp_path):
    first, second = begin("first", 500), begin("second", 2)
    until(lambda: second.state == "waiting")
    second.cancel()
    first.cancel()
    until(lambda: not trainings(tmp_path / "first"))
    assert second.state == "cancelled" and epochs_done(tmp_path / "second") == 0


def test_a_killed_worker_is_told_and_the_training_goes_on(begin, tmp_path):
    job = begin("run", 15)
    until(lambda: epochs_done(tmp_path / "run") >= 2)
    (process,) = trainings(tmp_path / "run")
    process.parent().kill()
    process.wait(10)
    assert job.wait(WAIT) and job.state == "done", job.error
    (note,) = job.notes
    assert note.startswith("A worker process was lost")
    assert read_run(tmp_path / "run").state == "finished"


def test_a_killed_training_is_told_in_one_sentence_and_resumed(begin, tmp_path):
    job = begin("run", 15)
    until(lambda: epochs_done(tmp_path / "run") >= 1)
    (process,) = trainings(tmp_path / "run")
    process.kill()
    assert job.wait(WAIT) and job.state == "failed"
    assert (
        job.error.startswith("The process that trained was killed, probably for want of memory")
        and "\n" not in job.error
    )
    again = begin("run")
    assert again.wait(WAIT) and again.state == "done", again.error


def test_why_it_cannot_train_is_told(begin, tmp_path):
    create_run(tmp_path / "run", CONFIG, Recipe(dataset="mnist", epochs=1), command="", threads=1)
    job = begin("run")
    assert job.wait(WAIT) and job.state == "failed"
    assert "MNIST" in job.error and "Traceback" not in job.error


def test_a_worker_that_does_not_see_the_folder_says_so(begin, tmp_path):
    job = begin("nowhere/run")
    assert job.wait(WAIT) and job.state == "failed"
    assert "does not see the folder" in job.error and str(tmp_path / "nowhere") in job.error


def test_a_run_that_went_while_its_training_waited_is_told(begin, tmp_path):
    """Its neighbours are seen, so the folder is no other than the dashboard's."""
    job = begin("gone")
    assert job.wait(WAIT) and job.state == "failed"
    assert job.error == f"The run in {tmp_path / 'gone'} is no longer there."


SERVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.engine.test_training_job import CONFIG, Jobs, Recipe, create_run, epochs_done, train_run, until

folder = Path(sys.argv[2])
create_run(folder, CONFIG, Recipe(epochs=500, batch=200, lr=0.1), command="", threads=1)
job = Jobs().submit("training", "Training", train_run, [(str(folder), str(folder / "data"))], training=True)
until(lambda: epochs_done(folder) >= 1)
print("ready", flush=True)
job.wait(60)
"""


def test_no_training_outlives_a_killed_server(tmp_path):
    command = [sys.executable, "-c", SERVER, str(ROOT), str(tmp_path / "run")]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert server.stdout.readline() == "ready\n"
    (process,) = trainings(tmp_path / "run")
    os.kill(server.pid, signal.SIGKILL)
    server.wait(10)
    process.wait(20)
    until(lambda: read_run(tmp_path / "run").state == "interrupted")
