"""Runs listed, read, renamed, deleted and packed; and what is made of files that are damaged, old or hostile."""

import json
import os
import shutil
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from engine import load_checkpoint, run_library, run_metrics
from engine.files import write_text
from engine.run_library import archive_run, delete_run, list_runs, read_run, rename_run
from engine.run_metrics import (
    LINE_BYTES,
    exit_accuracy,
    firing_rates,
    gamma_at,
    gamma_epochs,
    last_epoch,
    mean_gamma,
    metrics,
)
from engine.runs import TrainingError, create_run, held
from engine.snn import ModelConfig
from engine.training import Recipe, train

CONFIG = ModelConfig(arch="vgg-small", steps=3, in_shape=(1, 8, 8), layout="C4 P F8")
RECIPE = Recipe(epochs=2, batch=200, lr=0.1, validation=0.2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A runs folder with one finished run of two epochs."""
    folder = tmp_path_factory.mktemp("library")
    train(CONFIG, RECIPE, folder / "mine", command="the command")
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of it to change."""
    shutil.copytree(trained, tmp_path / "runs")
    return tmp_path / "runs"


def written(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------------------------ what is read


def test_a_finished_run_is_read(trained):
    (run,) = list_runs(trained)
    assert (run.name, run.folder, run.config, run.recipe) == ("mine", trained / "mine", CONFIG, RECIPE)
    assert (run.state, run.epochs_done, run.command, run.error, run.result) == ("finished", 2, "the command", "", {})
    assert abs(run.created - (trained / "mine" / "config.json").stat().st_mtime) < 5 and run.progress is None


def test_tables_hold_what_the_rows_hold(trained):
    rows = written(trained / "mine")
    table = metrics(trained / "mine")
    assert table["epoch"].tolist() == [1, 2]
    for name in ("loss", "train_accuracy", "lr", "seconds"):
        assert table[name].tolist() == [row[name] for row in rows]
    assert table["validation_accuracy"].tolist() == [row["validation_accuracy"][-1] for row in rows]
    curves = exit_accuracy(trained / "mine").set_index(["epoch", "split", "step"])["accuracy"]
    assert len(curves) == 2 * 2 * 3
    assert curves[2, "train", 1] == rows[1]["train_accuracy_steps"][0]
    assert curves[1, "validation", 3] == rows[0]["validation_accuracy"][2]
    rates = firing_rates(trained / "mine").set_index(["epoch", "layer"])["rate"]
    assert rates.to_dict() == {(row["epoch"], k): v for row in rows for k, v in row["firing_rate"].items()}


def test_gamma_of_each_epoch_is_kept(trained):
    """The last file holds what the last network holds, and its means are those of the metrics."""
    assert gamma_epochs(trained / "mine") == [1, 2]
    last = load_checkpoint(trained / "mine" / "last.safetensors")
    found = gamma_at(trained / "mine", 2)
    assert list(found) == ["conv1", "fc1"]
    for layer, stack in found.items():
        for part, other in zip(stack, last.stacks[layer]):
            np.testing.assert_array_equal(part, other)
    means = mean_gamma(trained / "mine").set_index(["epoch", "layer", "step"])["value"]
    assert means[1, "fc1", 2] == pytest.approx(gamma_at(trained / "mine", 1)["fc1"].gamma[1].mean(), abs=1e-5)
    assert len(means) == 2 * 2 * 3


def test_an_old_run_is_read(folder):
    """Its config.json lacks the newer names, its metrics have fewer, and there is no history of γ."""
    mine = folder / "mine"
    config = json.loads((mine / "config.json").read_text())
    old = {"model": config["model"], "recipe": {k: v for k, v in config["recipe"].items() if k not in ("optimizer",)}}
    (mine / "config.json").write_text(json.dumps(old))
    rows = [
        {k: v for k, v in row.items() if k not in ("train_accuracy_steps", "firing_rate", "validation_accuracy")}
        for row in written(mine)
    ]
    (mine / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.rmtree(mine / "gamma")
    run = read_run(mine)
    assert (run.state, run.command, run.epochs_done) == ("finished", "", 2)
    assert run.created == (mine / "config.json").stat().st_mtime
    assert metrics(mine)["validation_accuracy"].isna().all() and metrics(mine)["loss"].notna().all()
    assert exit_accuracy(mine).empty and firing_rates(mine).empty and gamma_epochs(mine) == []
    assert len(mean_gamma(mine)) == 12


def test_runs_are_listed_newest_first_and_two_deep(folder):
    for number, name in enumerate(("older", "set/inner", "set/other", ".hidden")):
        create_run(folder / name, CONFIG, RECIPE, command="", threads=1)
        file = folder / name / "config.json"
        changed = json.loads(file.read_text()) | {"created": f"2001-01-0{number + 1}T00:00:00+00:00"}
        file.write_text(json.dumps(changed))
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{")
    assert [run.name for run in list_runs(folder)] == ["mine", "set/other", "set/inner", "older"]
    assert list_runs(folder / "nowhere") == []


# ------------------------------------------------------------------------------------------------------- states


def test_states_of_a_run(folder):
    """Created, held, failed, over, measured."""
    new = folder / "new"
    create_run(new, CONFIG, RECIPE, command="c", threads=1)
    assert (read_run(new).state, read_run(new).epochs_done) == ("interrupted", 0)
    with held(new):
        assert read_run(new).state == "running"
    assert read_run(new).state == "interrupted"
    write_text(new / "stopped.json", '{"error": "the loss\\nbecame nan"}')
    assert (read_run(new).state, read_run(new).error) == ("failed", "the loss?became nan")
    (new / "stopped.json").unlink()
    write_text(new / "result.json", '{"test_accuracy": 0.5}')
    assert (read_run(new).state, read_run(new).result) == ("finished", {"test_accuracy": 0.5})


def looked_at(folder, readers, looks):
    """The states that many threads see at once."""
    found, begin = [], threading.Barrier(readers)

    def look():
        begin.wait(20)
        found.extend(read_run(folder).state for _ in range(looks))

    threads = [threading.Thread(target=look) for _ in range(readers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_readers_do_not_take_each_other_for_a_training(folder):
    assert looked_at(folder / "mine", 8, 60) == ["finished"] * 480


def test_readers_do_not_where_locks_cannot_be_shared(folder, monkeypatch):
    monkeypatch.setattr(run_library, "fcntl", None)
    assert looked_at(folder / "mine", 2, 20) == ["finished"] * 40
    with held(folder / "mine"):
        assert read_run(folder / "mine").state == "running"


HOLDER = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_what_another_process_holds_is_running_until_it_ends(folder):
    command = [sys.executable, "-c", HOLDER, str(folder / "mine" / ".lock")]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    assert looked_at(folder / "mine", 4, 5) == ["running"] * 20
    holder.communicate()
    assert read_run(folder / "mine").state == "finished"


def test_a_look_at_a_run_does_not_keep_it_from_being_renamed(folder):
    """A reader that holds the lock for a moment, as one does where locks cannot be shared."""
    lock = FileLock(folder / "mine" / ".lock", thread_local=False)
    lock.acquire()
    threading.Timer(0.2, lock.release).start()
    assert rename_run(folder, "mine", "new") == "new"


def test_killed_while_it_was_measured_a_run_is_interrupted(folder):
    write_text(folder / "mine" / "progress.json", "{}")
    assert read_run(folder / "mine").state == "interrupted"


@pytest.mark.parametrize("patience, state", [(1, "interrupted"), (None, "interrupted"), (2, "finished")])
def test_patience_ends_a_run_before_its_last_epoch(patience, state, folder):
    """Best at epoch 2, seen 4 of 9; with patience 1 epoch 3 had been the last, but a better epoch 4 came."""
    accuracies = [0.1, 0.5, 0.2, 0.4] if patience != 1 else [0.1, 0.2, 0.3, 0.4]
    mine, recipe = folder / "mine", replace(RECIPE, epochs=9, patience=patience)
    (mine / "config.json").write_text(json.dumps({"model": CONFIG.to_dict(), "recipe": asdict(recipe)}))
    rows = [{"epoch": n, "validation_accuracy": [0.0, accuracy]} for n, accuracy in enumerate(accuracies, 1)]
    (mine / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_run(mine).state == state


# ------------------------------------------------------------------------------------------- damaged and hostile


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=5), inside, max_size=4),
    max_leaves=8,
)
names = st.sampled_from(
    ["epoch", "loss", "lr", "seconds", "gamma", "firing_rate", "train_accuracy_steps", "validation_accuracy"]
)
good_row = st.fixed_dictionaries({"epoch": st.integers(1, 50), "loss": st.floats(0, 9)})
any_row = st.dictionaries(names, json_values).map(json.dumps)
any_line = st.one_of(
    st.binary(max_size=30), any_row.map(str.encode), st.just(b"[" * 5000), st.just(b'{"epoch": 1e999}')
)


@given(st.lists(good_row, max_size=5), st.lists(any_line, max_size=8), st.randoms())
def test_metrics_of_any_bytes_are_tables_with_every_good_row(tmp_path_factory, good, bad, random):
    folder = tmp_path_factory.mktemp("fuzz")
    bad = [line for line in bad if not _counts(line)]
    lines = [json.dumps(row).encode() for row in good] + bad
    random.shuffle(lines)
    (folder / "metrics.jsonl").write_bytes(b"\n".join(lines))
    table = metrics(folder)
    last = {json.loads(line)["epoch"]: json.loads(line)["loss"] for line in lines if line not in bad}
    assert dict(zip(table["epoch"], table["loss"])) == last and table["epoch"].is_monotonic_increasing
    assert (table.drop(columns="epoch").dtypes == "float64").all() and not np.isinf(table).any(axis=None)
    exit_accuracy(folder), firing_rates(folder), mean_gamma(folder)
    assert (last_epoch(folder) == 0) == (not last)


def _counts(line):
    """Whether a line, or one of those its bytes make, is a row with an epoch."""
    for part in line.split(b"\n"):
        try:
            row = json.loads(part)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and type(row.get("epoch")) is int and 1 <= row["epoch"] <= 10**6:
            return True
    return False


@given(any_row)
def test_any_values_beside_an_epoch_are_finite_numbers_or_nan(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "metrics.jsonl").write_text(json.dumps(json.loads(text) | {"epoch": 7}))
    for table, value in (
        (exit_accuracy(folder), "accuracy"),
        (firing_rates(folder), "rate"),
        (mean_gamma(folder), "value"),
    ):
        assert table["epoch"].isin([7]).all() and table[value].dtype == "float64"
        assert not np.isinf(table[value]).any() and pd.api.types.is_integer_dtype(table["epoch"])


def test_a_line_too_long_is_left_out_and_later_ones_are_read(tmp_path):
    long = json.dumps({"epoch": 1, "loss": 1.0, "x": "x" * LINE_BYTES})
    (tmp_path / "metrics.jsonl").write_text(long + "\n" + '{"epoch": 2, "loss": 0.5}\n' + '{"epoch": 3, "lo')
    assert metrics(tmp_path)["epoch"].tolist() == [2] and last_epoch(tmp_path) == 2


def test_a_huge_history_takes_little_memory(tmp_path):
    """3 MB of short numbers; peak as Python and NumPy report it, which is 32 bytes and more for each that is an object."""
    line = json.dumps({"epoch": 0, "gamma": {"conv1": [0.5] * 10_000}, "x": [1.5] * 10_000})
    lines = [line.replace('"epoch": 0', f'"epoch": {epoch}') for epoch in range(1, 31)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    tracemalloc.start()
    table = mean_gamma(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table) == 30 * 10_000 and peak < 40e6


def test_lists_and_tables_beyond_any_network_are_left_out(tmp_path):
    """The row itself stays; of rows that are more than fit, the first stay."""
    rows = [
        {"epoch": 1, "loss": 1.0, "gamma": {"conv1": [1.0] * 10_001, "conv2": [2.0]}},
        {"epoch": 2, "loss": 1.0, "gamma": {f"conv{n}": [1.0] for n in range(101)}, "firing_rate": {"conv1": 0.5}},
        {"epoch": 3, "loss": 1.0, "train_accuracy_steps": [0.5] * 10_000},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert metrics(tmp_path)["epoch"].tolist() == [1, 2, 3] and last_epoch(tmp_path) == 3
    assert mean_gamma(tmp_path).to_numpy().tolist() == [[1, "conv2", 1, 2.0]]
    assert len(firing_rates(tmp_path)) == 1 and len(exit_accuracy(tmp_path)) == 10_000


def test_numbers_beyond_what_is_kept_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(run_metrics, "MOST_CELLS", 350)
    rows = [{"epoch": n, "gamma": {"conv1": [1.0] * 100}} for n in range(1, 5)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert metrics(tmp_path)["epoch"].tolist() == [1, 2] and len(mean_gamma(tmp_path)) == 200


def test_a_pipe_and_a_folder_in_the_place_of_files(folder):
    """Neither blocks."""
    mine = folder / "mine"
    for name in ("metrics.jsonl", "result.json", "stopped.json"):
        (mine / name).unlink(missing_ok=True)
        os.mkfifo(mine / name)
    assert metrics(mine).empty and read_run(mine).state == "failed"
    (mine / "config.json").unlink()
    (mine / "config.json").mkdir()
    with pytest.raises(TrainingError, match="config.json of the run"):
        read_run(mine)


SETUP = {"model": CONFIG.to_dict(), "recipe": asdict(RECIPE)}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"[" * 100_000,
        json.dumps({"model": {}, "recipe": []}).encode(),
        json.dumps(SETUP | {"model": {"arch": ["vgg9"]}}).encode(),
        json.dumps(SETUP | {"recipe": {"epochs": 1.5}}).encode(),
        json.dumps(SETUP | {"recipe": {"epochs": True}}).encode(),
        json.dumps(SETUP | {"recipe": {"lr": "big"}}).encode(),
        json.dumps(SETUP | {"recipe": {"milestones": 3}}).encode(),
        json.dumps(SETUP | {"recipe": {"surprise": 3}}).encode(),
        json.dumps(SETUP | {"recipe": {"epochs": 10**400}}).encode(),
        json.dumps(SETUP | {"recipe": {"batch": 10**400}}).encode(),
        json.dumps(SETUP | {"recipe": {"weight_decay": 10**400}}).encode(),
        json.dumps(SETUP | {"recipe": {"gamma_decay": 10**400}}).encode(),
        json.dumps(SETUP | {"recipe": {"clip": 10**400}}).encode(),
        json.dumps(SETUP | {"recipe": {"patience": 10**400, "validation": 0.1}}).encode(),
        json.dumps(SETUP | {"recipe": {"milestones": [0.5] * 101}}).encode(),
        json.dumps(SETUP).replace('"clip": null', '"clip": 1e999').encode(),
        b'{"model": {"leak": 1e999}, "recipe": {}}',
        b" " * (2**20 + 1),
    ],
    ids=range(21),
)
def test_a_config_of_any_content_is_refused_in_a_sentence(content, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_bytes(content)
    with pytest.raises(TrainingError, match="config.json of the run") as refused:
        read_run(tmp_path / "bad")
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 600
    assert list_runs(tmp_path) == []


def test_odd_values_beside_good_settings_do_no_harm(tmp_path):
    odd = SETUP | {"command": 5, "created": "yesterday", "threads": -3}
    (tmp_path / "config.json").write_text(json.dumps(odd))
    run = read_run(tmp_path)
    assert run.command == "" and run.created == (tmp_path / "config.json").stat().st_mtime


def gamma_file(**changes):
    ones = {f"conv1.{part}": np.ones((3, 4), np.float32) for part in ("gamma", "running_mean", "running_var")}
    return safetensors.numpy.save(ones | changes)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 100,
        (2**60).to_bytes(8, "little") + b"{}",
        gamma_file()[:-1],
        safetensors.numpy.save({"conv1.gamma": np.ones((3, 4), np.float32)}),
        safetensors.numpy.save({}),
        gamma_file(**{"conv1.gamma": np.ones((3, 4))}),
        gamma_file(**{"conv1.gamma": np.ones((2, 4), np.float32)}),
        gamma_file(**{"conv1.gamma": np.ones(3, np.float32)}),
        gamma_file(**{"conv1.gamma": np.full((3, 4), np.nan, np.float32)}),
        gamma_file(**{"x y.gamma": np.ones((3, 4), np.float32)}),
    ],
    ids=range(11),
)
def test_gamma_files_of_any_content_are_refused_in_a_sentence(content, tmp_path):
    (tmp_path / "gamma").mkdir()
    (tmp_path / "gamma" / "0001.safetensors").write_bytes(content)
    with pytest.raises(TrainingError, match="γ of epoch 1 in .* is damaged") as refused:
        gamma_at(tmp_path, 1)
    assert "\n" not in str(refused.value)


def test_gamma_that_was_not_kept_is_told(trained):
    with pytest.raises(TrainingError, match="γ of epoch 9 cannot be read"):
        gamma_at(trained / "mine", 9)


def test_layers_come_in_the_order_of_the_network(tmp_path):
    (tmp_path / "gamma").mkdir()
    ones = np.ones((2, 3), np.float32)
    layers = ["conv1", "conv2", "conv10", "fc1", "fc2"]
    parts = {f"{layer}.{part}": ones for layer in layers for part in ("gamma", "running_mean", "running_var")}
    (tmp_path / "gamma" / "0001.safetensors").write_bytes(safetensors.numpy.save(parts))
    assert list(gamma_at(tmp_path, 1)) == layers


# ------------------------------------------------------------------------------------- renamed, deleted, packed


def test_a_run_is_renamed(folder):
    assert rename_run(folder, "mine", "yours-2.0") == "yours-2.0"
    assert [run.name for run in list_runs(folder)] == ["yours-2.0"]
    shutil.move(folder / "yours-2.0", folder / "set" / "inner")
    assert rename_run(folder, "set/inner", "outer") == "set/outer"
    assert (folder / "set" / "outer" / "model.safetensors").exists()


def test_a_run_is_deleted(folder):
    shutil.copytree(folder / "mine", folder / "other")
    delete_run(folder, "mine")
    assert [run.name for run in list_runs(folder)] == ["other"] and os.listdir(folder) == ["other"]


def test_what_a_delete_that_died_left_goes_with_the_next(folder, monkeypatch):
    """But nothing that another process may be deleting, no link's other end, and nothing else hidden."""
    shutil.copytree(folder / "mine", folder / "set" / "inner")
    for name in (".deleted-0123abcd", "set/.deleted-0123abcd", ".mine", "../out"):
        (folder / name).mkdir(parents=True)
        (folder / name / "kept").write_text("x")
    (folder / ".deleted-aaaaaaaa").symlink_to(folder.parent / "out")
    delete_run(folder, "mine")
    assert (folder / ".deleted-0123abcd" / "kept").exists()
    monkeypatch.setattr(run_library, "LEFT_SECONDS", 0)
    delete_run(folder, "set/inner")
    assert not list(folder.rglob(".deleted-0123abcd"))
    assert (folder / ".mine" / "kept").exists() and (folder.parent / "out" / "kept").exists()


@pytest.mark.parametrize("new", ["", ".x", "..", "a/b", "a b", "ä", "x" * 61, "a\n", "mine", "taken", "link"])
def test_bad_new_names_are_refused(new, folder):
    (folder / "taken").mkdir()
    (folder / "link").symlink_to("nowhere")
    with pytest.raises(TrainingError, match="no name for a run|taken"):
        rename_run(folder, "mine", new)
    assert (folder / "mine" / "config.json").exists()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../out", "/etc", "a/b/c", "mine/", "mine/..", "none", "link", "set/in"]
)
def test_nothing_outside_the_folder_is_touched(name, folder):
    """Names that lead out of it, and links."""
    out = folder.parent / "out"
    shutil.copytree(folder / "mine", out / "in")
    shutil.copy(out / "in" / "config.json", out / "config.json")
    (folder / "link").symlink_to(out)
    (folder / "set").symlink_to(out)
    for change in (lambda: delete_run(folder, name), lambda: rename_run(folder, name, "new")):
        with pytest.raises(TrainingError):
            change()
    assert (out / "config.json").exists() and (out / "in" / "config.json").exists()


def test_a_link_inside_a_run_is_not_followed_when_it_is_deleted_or_packed(folder):
    out = folder.parent / "out"
    out.mkdir()
    (out / "kept").write_text("mine")
    (folder / "mine" / "linked").symlink_to(out)
    (folder / "mine" / "linked-file").symlink_to(out / "kept")
    archive_run(folder / "mine", folder.parent / "run.zip")
    assert not [name for name in zipfile.ZipFile(folder.parent / "run.zip").namelist() if "linked" in name]
    delete_run(folder, "mine")
    assert (out / "kept").read_text() == "mine"


def test_a_running_run_is_neither_renamed_nor_deleted(folder):
    """Held by another thread, as it is by another process: each opens the lock's file anew."""
    ready, done = threading.Event(), threading.Event()

    def hold():
        with FileLock(folder / "mine" / ".lock"):
            ready.set()
            done.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert ready.wait(20)
    try:
        for change in (lambda: delete_run(folder, "mine"), lambda: rename_run(folder, "mine", "new")):
            with pytest.raises(TrainingError, match="mine is being trained"):
                change()
    finally:
        done.set()
        thread.join()
    assert rename_run(folder, "mine", "new") == "new"


def test_a_run_is_packed_whole_but_for_hidden_files(folder):
    mine, target = folder / "mine", folder.parent / "mine.zip"
    (mine / ".state.pt.abcdefgh").write_text("half")
    archive_run(mine, target)
    with zipfile.ZipFile(target) as archive:
        packed = {name: archive.read(name) for name in archive.namelist()}
    files = [path for path in mine.rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert packed == {f"mine/{path.relative_to(mine).as_posix()}": path.read_bytes() for path in files}
    assert {"mine/state.pt", "mine/gamma/0002.safetensors"} < set(packed)
