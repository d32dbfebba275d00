"""What a run writes while it goes: progress, failures, locks, TensorBoard; and what a killed process leaves."""

import importlib.util
import itertools
import json
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch

from engine import load_checkpoint, training
from engine import runs as runs_module
from engine.progress import Progress, ProgressFile, read_progress
from engine.run_library import read_run
from engine.runs import TrainingError, create_run, failures_kept, open_run
from engine.snn import ModelConfig
from engine.training import Recipe, train

CONFIG = ModelConfig(arch="vgg-small", steps=3, in_shape=(1, 8, 8), layout="C4 P F8")
RECIPE = Recipe(epochs=3, batch=200, lr=0.1, validation=0.2)


def stop(*_):
    raise KeyboardInterrupt


# ------------------------------------------------------------------------------------------------------ progress


def reports(tmp_path, epochs, events, clock):
    """What progress.json says after each (seconds, report)."""
    file = ProgressFile(tmp_path, epochs, clock=lambda: clock[0])
    found = []
    for seconds, *said in events:
        clock[0] = seconds
        file.report(*said)
        found.append(read_progress(tmp_path))
    return found


def test_time_left_is_the_pace_of_the_first_epoch_and_then_the_mean_of_the_last(tmp_path):
    """By hand: the first batch takes 10 s and the others 2 s; the first epoch 30 s in all and the second 20 s."""
    events = [
        (0, "training", 1, 0, 10),
        (10, "training", 1, 1, 10, 2.5),
        (12, "training", 1, 2, 10, 2.0),
        (28, "training", 1, 10, 10, 1.0),
        (30, "training", 2, 0, 10),
        (32, "training", 2, 1, 10, 1.0),
        (33, "training", 2, 2, 10, 1.0),
        (48, "validating", 2, 0, 50, 1.0),
        (49, "validating", 2, 25, 50, 1.0),
        (50, "training", 3, 0, 10, 1.0),
        (60, "testing", 3, 0, 100, 1.0),
        (70, "testing", 3, 50, 100, 1.0),
    ]
    left = [found.seconds_left for found in reports(tmp_path, 3, events, [0.0])]
    one, two = 30.0, 25.0  # means of the epochs so far
    assert left == [None, 90 + 200, 16 + 40, 0 + 40, 2 * one, 18 + one, 8 + one, one, 1 + one, two, 0, 10]
    assert read_progress(tmp_path) == Progress("testing", 3, 3, 50, 100, 1.0, 10.0)


def test_progress_is_written_once_a_second(tmp_path):
    events = [(tenth / 10, "training", 1, tenth, 100, 1.0) for tenth in range(35)]
    found = reports(tmp_path, 1, events, [0.0])
    assert [progress.batch for progress in found] == [10 * (tenth // 10) for tenth in range(35)]


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), None])
def test_a_loss_that_is_no_number_is_none(loss, tmp_path):
    (found,) = reports(tmp_path, 1, [(0, "training", 1, 1, 4, loss)], [0.0])
    assert found.loss is None


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"stage": "sleeping", "epoch": 1, "epochs": 1, "batch": 1, "batches": 1}']
    + [
        json.dumps(asdict(Progress("training", 1, 2, 3, 4, None, None)) | {"batch": bad})
        for bad in (-1, 1.5, True, "1")
    ],
)
def test_damaged_progress_is_none(content, tmp_path):
    (tmp_path / "progress.json").write_text(content)
    assert read_progress(tmp_path) is None


def test_a_run_tells_its_stages_while_it_is_held(tmp_path, monkeypatch):
    """Training, validating, testing; afterwards there is no progress any more."""
    monkeypatch.setattr("engine.progress.WRITE_SECONDS", 0.0)
    folder, seen = tmp_path / "run", []

    def look(*_):
        run = read_run(folder)
        seen.append((run.state, run.progress.stage, run.progress.epoch, run.progress.batch, run.progress.batches))

    def on_trained(report):
        report(30, 60)
        look()
        return {"test_accuracy": 1.0}

    def on_epoch(row):
        look()

    train(CONFIG, RECIPE, folder, on_batch=look, on_epoch=on_epoch, on_trained=on_trained)
    expected = []
    for epoch in (1, 2, 3):
        expected += [("running", "training", epoch, batch, 5) for batch in range(1, 6)]
        expected.append(("running", "validating", epoch, 256, 280))  # the second of its chunks has begun
    assert seen == [*expected, ("running", "testing", 3, 30, 60)]
    run = read_run(folder)
    assert (run.state, run.progress, run.result) == ("finished", None, {"test_accuracy": 1.0})
    assert not (folder / "progress.json").exists()


def test_what_progress_said_before_a_run_was_killed_no_longer_counts(tmp_path):
    """While the data is read nothing is known; and killed then, a run whose epochs are all done still has to be measured."""
    folder = tmp_path / "run"
    train(CONFIG, RECIPE, folder)
    said = Progress("testing", 3, 3, 9, 10, 1.0, 5.0)
    (folder / "progress.json").write_text(json.dumps(asdict(said)))
    with pytest.raises(KeyboardInterrupt), open_run(folder, CONFIG, RECIPE, resume=True):
        run = read_run(folder)
        assert run.state == "running" and run.progress is None
        raise KeyboardInterrupt
    assert read_run(folder).state == "interrupted"


# -------------------------------------------------------------------------------------- stopped, failed, resumed


def test_a_stopped_run_is_interrupted_and_a_failed_one_says_why_until_it_is_resumed(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, RECIPE, folder, on_batch=stop)
    assert read_run(folder).state == "interrupted"

    def fail(row):
        raise OSError(28, "No space left on device", "x")

    with pytest.raises(OSError):
        train(CONFIG, RECIPE, folder, resume=True, on_epoch=fail)
    run = read_run(folder)
    assert (run.state, run.error, run.epochs_done) == ("failed", "x: No space left on device", 1)
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, RECIPE, folder, resume=True, on_batch=stop)
    assert read_run(folder).state == "interrupted"


def test_a_diverged_run_says_so(tmp_path):
    with pytest.raises(TrainingError):
        train(CONFIG, replace(RECIPE, epochs=12, weight_decay=3e3), tmp_path / "run")
    run = read_run(tmp_path / "run")
    assert run.state == "failed" and "the network of the last finished epoch is kept" in run.error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
    ids=["python", "gpu", "cpu"],
)
def test_want_of_memory_is_told(error, tmp_path):
    with pytest.raises(TrainingError, match="try a smaller batch"), failures_kept(tmp_path):
        raise error
    assert "try a smaller batch" in json.loads((tmp_path / "stopped.json").read_text())["error"]


def test_another_error_keeps_its_kind(tmp_path):
    with pytest.raises(KeyError), failures_kept(tmp_path):
        raise KeyError("a\nb")
    assert json.loads((tmp_path / "stopped.json").read_text())["error"] == "KeyError: 'a\\nb'"


def test_what_a_killed_writer_left_goes_when_the_run_is_resumed(tmp_path):
    """Temporary files, and γ of an epoch whose state was not written yet; nothing else."""
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, RECIPE, folder, on_epoch=stop)
    left = [
        ".state.pt.abcd_123",
        ".metrics.jsonl.abcdefgh",
        "gamma/.0002.safetensors.abcdefgh",
        "gamma/0002.safetensors",
    ]
    kept = [".mine", ".notes.json.txt", "gamma/notes.safetensors"]
    for name in (*left, *kept):
        (folder / name).write_text("half")
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, RECIPE, folder, resume=True, on_batch=stop)
    assert not [name for name in left if (folder / name).exists()]
    assert all((folder / name).exists() for name in kept) and (folder / "gamma" / "0001.safetensors").exists()


# ---------------------------------------------------------------------------------------------------------- lock


HOLD = """
import sys, filelock
lock = filelock.FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_two_processes_do_not_train_in_one_folder(tmp_path, monkeypatch):
    """And the lock dies with its process."""
    monkeypatch.setattr(runs_module, "LOCK_SECONDS", 0.2)
    folder = tmp_path / "run"
    create_run(folder, CONFIG, RECIPE, command="", threads=1)
    command = [sys.executable, "-c", HOLD, str(folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"held\n" and read_run(folder).state == "running"
            with pytest.raises(TrainingError, match="another process is training in"):
                train(CONFIG, RECIPE, folder, resume=True)
        finally:
            process.kill()
    assert read_run(folder).state == "interrupted"
    train(CONFIG, RECIPE, folder, resume=True)


def test_looking_at_a_run_does_not_keep_it_from_training(tmp_path):
    """Others hold the lock for a moment, again and again: the run waits for its turn."""
    folder, done = tmp_path / "run", threading.Event()
    create_run(folder, CONFIG, RECIPE, command="", threads=1)

    def look():
        while not done.is_set():
            read_run(folder)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        train(CONFIG, replace(RECIPE), folder, resume=True)
    finally:
        done.set()
        thread.join()
    assert read_run(folder).state == "finished"


def test_a_run_is_created_once(tmp_path):
    create_run(tmp_path / "run", CONFIG, RECIPE, command="c", threads=2)
    with pytest.raises(TrainingError, match="already holds a run"):
        create_run(tmp_path / "run", CONFIG, RECIPE, command="c", threads=2)
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/inside"):
        with pytest.raises(TrainingError, match="file"):
            create_run(tmp_path / place, CONFIG, RECIPE, command="c", threads=2)


def test_a_created_run_is_begun_by_resuming_it(tmp_path):
    """As if it had been trained at once."""
    create_run(tmp_path / "run", CONFIG, RECIPE, command="c", threads=1)
    train(CONFIG, RECIPE, tmp_path / "run", resume=True)
    train(CONFIG, RECIPE, tmp_path / "other", threads=1)
    one, other = (torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("run", "other"))
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
    assert one["command"] == "c"


@pytest.mark.parametrize("epochs, command", [(1, "the first"), (0, "")])
def test_an_old_run_keeps_the_command_it_began_with(epochs, command, tmp_path):
    """Its config.json has none, so the last state's counts, and never that of the resume."""
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, RECIPE, folder, command="the first", **{"on_epoch" if epochs else "on_batch": stop})
    setup = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({name: setup[name] for name in ("model", "recipe")}))
    train(CONFIG, RECIPE, folder, resume=True, command="train --resume")
    assert torch.load(folder / "state.pt", weights_only=True)["command"] == command
    assert load_checkpoint(folder / "last.safetensors").metadata.get("command", "") == command


@pytest.mark.parametrize("name", ["gamma", "tensorboard"])
def test_files_behind_a_link_are_not_touched(name, tmp_path):
    folder, out = tmp_path / "run", tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, RECIPE, folder, on_epoch=stop)
    (folder / name).rename(out)
    (out / "0009.safetensors").write_text("somebody's")
    (folder / name).symlink_to(out)
    before = sorted(out.iterdir())
    with pytest.raises(TrainingError, match=f"{name} is a link to somewhere else"):
        train(CONFIG, RECIPE, folder, resume=True)
    assert sorted(out.iterdir()) == before


# ------------------------------------------------------------------------------------------------------- threads


def test_a_run_computes_on_the_threads_it_began_with(tmp_path):
    """Resumed elsewhere, too; and torch has its own number again afterwards."""
    seen, before = [], torch.get_num_threads()

    def count(*_):
        seen.append(torch.get_num_threads())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, RECIPE, tmp_path / "run", threads=before + 1, on_batch=count)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["threads"] == before + 1
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, RECIPE, tmp_path / "run", resume=True, on_batch=count)
    with pytest.raises(TrainingError, match="other settings"):
        train(CONFIG, RECIPE, tmp_path / "run", resume=True, threads=before)
    assert seen == [before + 1] * 2 and torch.get_num_threads() == before


def test_a_run_of_unknown_threads_takes_any(tmp_path):
    """As runs of before."""
    create_run(tmp_path / "run", CONFIG, RECIPE, command="", threads=1)
    setup = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps({name: setup[name] for name in ("model", "recipe")}))
    with open_run(tmp_path / "run", CONFIG, RECIPE, resume=True, threads=3) as run:
        assert torch.get_num_threads() == 3 and run.done == 0


# --------------------------------------------------------------------------------------------------- TensorBoard


def shown(folder):
    """Tag → {epoch: value}, as TensorBoard itself reads its files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def as_shown(folder):
    """The same from metrics.jsonl."""
    found = {}

    def add(tag, epoch, value):
        found.setdefault(tag, {})[epoch] = pytest.approx(value, rel=1e-6)

    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        epoch = row["epoch"]
        for name in ("loss", "lr"):
            add(name, epoch, row[name])
        add("accuracy/train", epoch, row["train_accuracy"])
        add("accuracy/validation", epoch, row["validation_accuracy"][-1])
        for layer in ("conv1", "fc1"):
            add(f"firing_rate/{layer}", epoch, row["firing_rate"][layer])
        for step in (1, 2, 3):
            add(f"train_accuracy_by_exit/t0{step}", epoch, row["train_accuracy_steps"][step - 1])
            add(f"validation_accuracy_by_exit/t0{step}", epoch, row["validation_accuracy"][step - 1])
            for layer in ("conv1", "fc1"):
                add(f"gamma_{layer}/t0{step}", epoch, row["gamma"][layer][step - 1])
    return found


def test_tensorboard_shows_every_epoch_once_also_after_a_stop(tmp_path, monkeypatch):
    """Stopped after the events of epoch 2 were written and before its state was: resumed, they are replaced."""
    from tensorboard.summary.writer import event_file_writer

    seconds = itertools.count(10**9)  # files are in the order of the seconds in their names
    monkeypatch.setattr(event_file_writer, "time", SimpleNamespace(time=lambda: next(seconds)))
    folder, save = tmp_path / "run", training.save_epoch

    def crash(run, model, optimizer, data, recipe, row, best):
        if row["epoch"] == 2:
            raise KeyboardInterrupt
        save(run, model, optimizer, data, recipe, row, best)

    monkeypatch.setattr(training, "save_epoch", crash)
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, RECIPE, folder)
    assert set(shown(folder)["loss"]) == {1, 2}
    monkeypatch.setattr(training, "save_epoch", save)
    train(CONFIG, RECIPE, folder, resume=True)
    assert set(shown(folder)["loss"]) == {1, 2, 3}
    assert shown(folder) == as_shown(folder)


def test_without_tensorboard_a_run_has_no_event_files(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "tensorboard" else find(name, *more)
    )
    train(CONFIG, replace(RECIPE, epochs=1), tmp_path / "run")
    assert not (tmp_path / "run" / "tensorboard").exists() and read_run(tmp_path / "run").state == "finished"
