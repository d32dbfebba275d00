"""torchrun with two processes (CPU, gloo) against one process with the doubled batch, and what ends all of them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from engine import load_checkpoint
from engine.run_library import read_run
from engine.runs import computing_on
from engine.snn import ModelConfig
from engine.training import Recipe, train

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 150
CONFIG = ModelConfig(arch="vgg-small", steps=3, in_shape=(1, 8, 8), layout="C4 P F8")
NETWORK = ["--layout", "C4 P F8", "--steps", "3", "--image-size", "8"]
PLAIN = Recipe(epochs=2, batch=200, lr=0.1, augment=False)
ALL = Recipe(epochs=3, batch=200, lr=0.1, gamma_decay=1e-2, validation=0.1, patience=3, clip=1.0)
CASES = {
    "plain": (PLAIN, ["--epochs", "2", "--lr", "0.1", "--no-augment"]),
    "augmented, judged and clipped": (
        ALL,
        "--epochs 3 --lr 0.1 --gamma-decay 0.01 --validation 0.1 --patience 3 --clip 1".split(),
    ),
}


@contextmanager
def torchrun(*arguments, processes: int = 2):
    """`torchrun --nproc-per-node 2 -m engine …` in a session of its own, of which nothing is left afterwards."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    running = subprocess.Popen(
        [*launcher, "-m", "engine", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield running
    finally:
        kill(running)


def kill(running) -> None:
    """kill -9 to torchrun and its processes, which torchrun puts in sessions of their own."""
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    for process in [running.pid, *(children.read_text().split() if children.exists() else ())]:
        try:
            os.kill(int(process), signal.SIGKILL)
        except ProcessLookupError:
            pass
    running.communicate()


def ended(*arguments, processes: int = 2) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    with torchrun(*arguments, processes=processes) as running:
        said = running.communicate(timeout=SECONDS)
        return running.returncode, *said


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) | {"seconds": 0} for line in (folder / "metrics.jsonl").read_text().splitlines()]


def numbers(value) -> list[float]:
    """All numbers of a row of metrics, in order."""
    if isinstance(value, (dict, list)):
        return [n for inner in (value.values() if isinstance(value, dict) else value) for n in numbers(inner)]
    return [value]


def agree(found: Path, expected: Path) -> None:
    """Networks with their statistics, and metrics.

    Sums in another order differ by about 1e-7 a step here, and up to 5e-7 in the end (measured with 18 seeds and
    norms); statistics of each process's own batch would differ by 4e-4 and more (tried).
    """
    for name in ("model.safetensors", "last.safetensors"):
        if (expected / name).exists():
            one, other = (load_checkpoint(folder / name) for folder in (found, expected))
            assert one.metadata["epoch"] == other.metadata["epoch"]
            torch.testing.assert_close(one.model.state_dict(), other.model.state_dict(), rtol=1e-4, atol=1e-5)
    one, other = rows_of(found), rows_of(expected)
    assert [list(row) for row in one] == [list(row) for row in other]
    assert numbers(one) == pytest.approx(numbers(other), rel=1e-4, abs=1e-5)


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    """A run of two processes, its recipe, its options, and what it said."""
    recipe, options = CASES[request.param]
    folder = tmp_path_factory.mktemp("torchrun") / "two"
    status, answer, said = ended("train", *NETWORK, *options, "--batch", "100", "--json", "--out", folder)
    assert status == 0, said
    return folder, recipe, options, json.loads(answer), said


def alone(recipe: Recipe, folder: Path, **options) -> None:
    with computing_on(1):
        train(CONFIG, recipe, folder, **options)


def test_two_processes_train_as_one_with_the_doubled_batch(pair, tmp_path):
    folder, recipe, _, answer, said = pair
    alone(recipe, tmp_path / "one")
    agree(folder, tmp_path / "one")

    config = json.loads((folder / "config.json").read_text())
    assert Recipe.from_dict(config["recipe"]) == recipe, f"the batch of both: {asdict(recipe)}"
    assert config["command"].startswith("torchrun --nproc-per-node 2 -m engine train ") and config["threads"] == 1
    run = read_run(folder)
    assert run.state == "finished" and answer == {"out": str(folder)} | run.result, "measured and told once"
    assert said.count(f"epoch {recipe.epochs} of {recipe.epochs}: ") == 1


@pytest.mark.parametrize("pair", ["augmented, judged and clipped"], indirect=True)
def test_killed_and_resumed_it_ends_with_the_same_bits(pair, tmp_path):
    """kill -9 of all after the first epoch; then two processes go on, and, from a copy, one with the doubled batch."""
    folder, recipe, options, *_ = pair
    run, copy = tmp_path / "run", tmp_path / "copy"
    with torchrun("train", *NETWORK, *options, "--batch", "100", "--out", run) as running:
        while "epoch 1 of" not in (line := running.stderr.readline()):
            assert line, "it ended by itself"
    assert read_run(run).state == "interrupted" and 1 <= len(rows_of(run)) <= recipe.epochs
    shutil.copytree(run, copy)

    status, _, said = ended("train", "--resume", "--batch", "100", "--out", run)
    assert status == 0, said
    states = [load_checkpoint(one / "model.safetensors").model.state_dict() for one in (run, folder)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert rows_of(run) == rows_of(folder)

    alone(recipe, copy, resume=True)
    agree(copy, folder)


MISTAKES = {
    "no number": (["--batch", "many"], "argument --batch: invalid int value: 'many'"),
    "folder taken": ([], "already holds a run: choose another folder, or go on with --resume"),
    "NaN": (["--epochs", "3", "--lr", "100", "--weight-decay", "1000"], "A smaller learning rate than 100.0"),
}


@pytest.mark.parametrize("options, words", MISTAKES.values(), ids=MISTAKES)
def test_what_cannot_be_is_told_once_and_ends_all(options, words, tmp_path):
    """torchrun itself says besides that its processes have ended, and with which status."""
    folder = tmp_path / "run"
    if not options:
        alone(Recipe(epochs=1, batch=200), folder)
    status, answer, said = ended("train", *NETWORK, "--out", folder, *options)
    told = [line for line in said.splitlines() if line.startswith("python -m engine")]
    assert len(told) == 1 and words in told[0] and told[0].startswith("python -m engine train: "), said
    assert status != 0 and re.search(r"exitcode *: 2", said) and not answer
    assert "ROOT/engine" not in said.replace(str(ROOT), "ROOT"), "none of our tracebacks"
    if options == MISTAKES["NaN"][0]:
        assert words in read_run(folder).error


def test_three_processes_cannot_share_four_hundred_samples(tmp_path):
    alone(Recipe(epochs=1, batch=400), tmp_path)
    status, _, said = ended("train", "--resume", "--out", tmp_path, processes=3)
    assert status != 0
    assert said.count("python -m engine train: 3 processes cannot share a batch of 400 samples equally") == 1


def test_other_commands_are_no_work_for_torchrun():
    status, _, said = ended("data", "list")
    assert status != 0 and said.count("python -m engine data: torchrun is for train") == 1


def test_ctrl_c_ends_all(tmp_path):
    with torchrun("train", *NETWORK, "--epochs", "300", "--batch", "100", "--out", tmp_path) as running:
        while "epoch 1 of" not in (line := running.stderr.readline()):
            assert line, "it ended by itself"
        began = time.monotonic()
        running.send_signal(signal.SIGINT)
        said = running.communicate(timeout=SECONDS)[1]
        assert time.monotonic() - began < SECONDS
    assert running.returncode != 0 and said.splitlines().count("stopped") == 1
    run = read_run(tmp_path)
    assert run.state == "interrupted" and 1 <= run.epochs_done < 300
