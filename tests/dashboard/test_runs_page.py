"""The Runs page and the epoch slider of Gamma, on small real trainings: what they show is what the folders hold."""

import json
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
from filelock import FileLock
from streamlit.testing.v1 import AppTest

from dashboard import models, one_run, run_choice, run_table, runs_now, show, work
from engine import ModelConfig, load_checkpoint
from engine.analysis import early_exit, robustness
from engine.analysis.evaluation import evaluate_rows, wilson
from engine.analysis.robustness import Attack, attack_rows
from engine.datasets import get
from engine.job import Job
from engine.recipe import Recipe
from engine.runs import TrainingError, create_run
from engine.training import train
from tests.dashboard.apps import APP, WAIT, assert_drawn, drawn, figure, finished, healthy, said

SMALL = ModelConfig(arch="vgg-small", layout="C4 P F8", steps=3, in_shape=(1, 16, 16))
SHORT = Recipe(epochs=3, validation=0.1)
RESULT = {"test_accuracy": 0.5, "test_correct": 200, "test_samples": 400, "evaluation_seed": 0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs with BNTT (one of them longer in T) and without, one that failed, one that has not begun, on other data."""
    folder = tmp_path_factory.mktemp("trained")
    train(SMALL, SHORT, folder / "first", command="python -m engine train --out first")
    train(replace(SMALL, steps=4), replace(SHORT, seed=1), folder / "second")
    train(replace(SMALL, norm="tdbn"), replace(SHORT, validation=0.0), folder / "sets" / "plain")
    create_run(folder / "failed", SMALL, SHORT, command="", threads=1)
    (folder / "failed" / "stopped.json").write_text(json.dumps({"error": "the loss was no number in epoch 1"}))
    other = ModelConfig(arch="mlp", steps=3, in_shape=(1, 28, 28), classes=5)
    create_run(folder / "waiting", other, Recipe(dataset="mnist", epochs=7), command="", threads=1)
    (folder / "first" / "result.json").write_text(json.dumps(RESULT))
    for age, name in enumerate(("failed", "waiting", "sets/plain", "second", "first")):
        change(folder / name / "config.json", created=f"2026-01-0{9 - age}T12:00:00+00:00")
    return folder


@pytest.fixture
def runs(trained, tmp_path, monkeypatch):
    """A copy of them that a test may change, and the work queue, which is closed at the end."""
    shutil.copytree(trained, tmp_path / "runs")
    monkeypatch.setenv("BNTT_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("BNTT_SCHEDULER", raising=False)
    return tmp_path / "runs"


@pytest.fixture(scope="module", autouse=True)
def queue():
    yield
    work.jobs().close()
    work.jobs.clear()


def change(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def opened(page="runs", **query) -> AppTest:
    """A page as a new visitor sees it who follows a link."""
    app = AppTest.from_file(APP, default_timeout=WAIT)
    app.query_params.update(query)
    return healthy(app.run().switch_page(f"../pages/{page}.py").run())


def chosen(app) -> list[str]:
    return app.multiselect(key=run_choice.KEY).value


def choose(app, *names):
    return healthy(app.multiselect(key=run_choice.KEY).set_value(list(names)).run())


def listed(app) -> pd.DataFrame:
    return app.main.dataframe[0].value


def button(app, label):
    (found,) = (one for one in app.button if one.label == label)
    return found


def sentences(app) -> list[str]:
    return [box.value for kind in ("error", "warning", "info") for box in getattr(app.main, kind)]


# ----------------------------------------------------------------------------------------------------------- list


def test_every_run_is_listed_newest_first(runs):
    """Against a plain reading of the files."""
    table = listed(opened()).set_index("Run")
    assert table.index.tolist() == ["failed", "waiting", "sets/plain", "second", "first"]
    assert table["Epochs"].tolist() == ["0/3", "0/7", "3/3", "3/3", "3/3"]
    assert table["Data set"].tolist() == ["digits", "mnist", "digits", "digits", "digits"]
    assert [text.split()[1] for text in table["State"]] == ["failed", "interrupted", *3 * ["finished"]]
    assert table["Test"].dropna().to_dict() == {"first": 50.0}
    for name in ("first", "second"):
        rows = [json.loads(line) for line in (runs / name / "metrics.jsonl").read_text().splitlines()]
        assert table["Validation"][name] == pytest.approx(100 * max(row["validation_accuracy"][-1] for row in rows))
    on_disk = sum(os.path.getsize(os.path.join(at, file)) for at, _, files in os.walk(runs / "first") for file in files)
    assert table["Size"]["first"] == on_disk
    assert table["Started"]["first"] == pd.Timestamp("2026-01-05T12:00:00Z")


def test_no_runs_lead_to_training_and_the_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("BNTT_RUNS", str(tmp_path / "none yet"))
    app = opened()
    assert "Nothing has been trained here yet" in said(app) and not app.main.dataframe
    assert app.get("page_link")
    assert [code.value for code in app.main.code] == [f"python -m engine train --out '{tmp_path}/none yet/first'"]


def test_many_runs_can_be_searched_and_stay_chosen(runs):
    for number in range(5):
        create_run(runs / f"more-{number}", SMALL, SHORT, command="", threads=1)
    app = choose(opened(), "first")
    healthy(app.text_input(key="find_runs").set_value("tdbn DIGITS").run())
    assert listed(app)["Run"].tolist() == ["sets/plain"] and chosen(app) == ["first"]
    healthy(app.text_input(key="find_runs").set_value("nothing like it").run())
    assert "No run matches" in said(app) and chosen(app) == ["first"]
    shutil.rmtree(runs / "more-0"), shutil.rmtree(runs / "more-1")
    assert not [box for box in healthy(app.run()).text_input if box.key == "find_runs"]


def test_ticks_of_the_table_and_the_box_below_are_one_choice(runs):
    app = opened()
    table = re.search(r"runs [0-9a-f]{12}$", app.main.dataframe[0].proto.id).group()
    choose(app, "second")
    assert app.session_state[table]["selection"]["rows"] == [3]
    link = opened(compare=["second", "failed"])
    assert link.session_state[table]["selection"]["rows"] == [0, 3]


@pytest.mark.parametrize("name", ["gone", "../../etc", "sets"])
def test_link_to_a_run_that_is_not_here_is_told(name, runs):
    app = opened(compare=["first", name])
    assert name in app.main.warning[0].value and chosen(app) == ["first"]
    assert not choose(app, "second").main.warning


# -------------------------------------------------------------------------------------------------------- one run


def test_one_run_opens_in_the_sidebar(runs):
    app = choose(opened(), "first")
    assert "3 of 3 epochs" in said(app) and "50.0 %" in said(app)
    healthy(button(app, "Open in the dashboard").click().run())
    assert app.title[0].value == "Overview" and app.selectbox(key="model").value == "runs/first"


@pytest.mark.parametrize(
    "name, told", [("failed", "It stopped: the loss was no number in epoch 1."), ("waiting", None)]
)
def test_a_run_without_a_network_cannot_be_opened(name, told, runs):
    app = choose(opened(), name)
    assert button(app, "Open in the dashboard").proto.disabled
    assert sentences(app) == ([told] if told else [])


def test_one_run_shows_its_curves_and_settings(runs):
    app = choose(opened(), "first")
    rows = [json.loads(line) for line in (runs / "first" / "metrics.jsonl").read_text().splitlines()]
    assert_drawn(app, "run_loss", [row["loss"] for row in rows])
    assert_drawn(app, "run_accuracy", [100 * row["validation_accuracy"][-1] for row in rows])
    settings = app.main.dataframe[1].value.set_index("Setting")["Value"]
    assert settings[["Timesteps T", "Layers", "Normalisation", "Validation share"]].tolist() == [
        "3",
        "C4 P F8",
        "BNTT",
        "0.1",
    ]
    assert "python -m engine train --out first" in [code.value for code in app.main.code]


def rename(app, new):
    name = chosen(app)[0]
    app.text_input(key=f"name {name}").set_value(new)
    return healthy(button(app, "Rename it").click().run())


@pytest.mark.parametrize("new", ["", "a/b", "..", ".hidden", "sp ace", "é", "second"])
def test_a_bad_or_taken_name_is_one_sentence(new, runs):
    app = rename(choose(opened(), "first"), new)
    assert len(sentences(app)) == 1 and "\n" not in sentences(app)[0]
    assert chosen(app) == ["first"] and (runs / "first").is_dir()


@pytest.mark.parametrize("name, new, whole", [("first", "renamed", "renamed"), ("sets/plain", "tdbn", "sets/tdbn")])
def test_what_shows_a_run_follows_its_new_name(name, new, whole, runs):
    app = choose(opened(model=f"runs/{name}"), name, "second")
    rename(choose(app, name), new)
    assert chosen(app) == [whole] and app.selectbox(key="model").value == f"runs/{whole}"
    assert not sentences(app) and not app.sidebar.warning
    assert (runs / whole / "model.safetensors").exists() and not (runs / name).exists()
    assert f"runs/{whole}" in said(healthy(app.switch_page("../pages/gamma.py").run()))


def test_deleting_asks_first_and_leaves_a_working_page(runs):
    app = choose(opened(model="runs/first"), "first")
    healthy(button(app, "Delete …").click().run())
    (question,) = (text.value for text in app.markdown if "for good" in text.value)
    assert "**first**" in question and "3 epochs" in question
    healthy(button(app, "Keep it").click().run())
    assert (runs / "first").is_dir()
    button(app, "Delete …").click().run()
    healthy(button(app, "Delete it for good").click().run())
    assert not (runs / "first").exists() and sorted(runs.iterdir()) == sorted(
        runs / n for n in ("second", "sets", "failed", "waiting")
    )
    healthy(app.run())
    assert chosen(app) == [] and app.selectbox(key="model").value == models.DEFAULT
    assert "first" not in listed(app)["Run"].tolist() and not sentences(app) and not app.sidebar.warning


def test_a_run_that_trains_is_left_alone(runs):
    with FileLock(runs / "second" / ".lock"):
        app = choose(opened(), "second")
        assert listed(app).set_index("Run")["State"]["second"].split()[1] == "running"
        assert button(app, "Delete …").proto.disabled


def test_a_run_that_begins_to_train_while_one_asks_is_kept(runs):
    app = choose(opened(), "second")
    button(app, "Delete …").click().run()
    with FileLock(runs / "second" / ".lock"):
        healthy(button(app, "Delete it for good").click().run())
        assert (runs / "second").is_dir()
        assert any("being trained" in error.value for error in app.error)


def test_a_run_that_somebody_else_deletes_leaves_the_choice(runs):
    app = choose(opened(), "first", "second")
    shutil.rmtree(runs / "first")
    assert chosen(healthy(app.run())) == ["second"]


@pytest.fixture
def begun(runs, monkeypatch):
    """A training of the run "waiting" that does not hold its folder yet; job._begin() and others change its state."""
    job = Job("training", "Training waiting", 1)
    monkeypatch.setattr(work, "training_job", lambda name, start: job if name == "waiting" and not start else None)
    return job


@pytest.mark.parametrize("state", ["starting", "waiting"])
def test_a_training_that_does_not_hold_its_folder_yet_is_left_alone(state, begun):
    if state == "waiting":
        begun._wait_for_a_slot()
    app = choose(opened(), "waiting")
    assert listed(app).set_index("Run")["State"]["waiting"].split()[1] == state
    assert button(app, "Delete …").proto.disabled
    assert [link.proto.label for link in app.main.get("page_link")][0] == "Watch it train"
    begun.cancel()
    assert listed(healthy(app.run())).set_index("Run")["State"]["waiting"].split()[1] == "interrupted"
    assert not button(app, "Delete …").proto.disabled


def test_a_run_whose_training_begins_to_wait_while_one_asks_is_kept(runs, begun):
    begun._end("cancelled")
    app = choose(opened(), "waiting")
    button(app, "Delete …").click().run()
    begun._state = "waiting"
    healthy(button(app, "Delete it for good").click().run())
    assert (runs / "waiting").is_dir()
    assert any("about to be" in error.value for error in app.error)


def test_the_size_of_a_run_whose_files_come_and_go_is_told(runs, monkeypatch):
    """A file that is listed and then gone, as progress.json is while a run trains."""
    lstat = os.lstat

    def gone(path, *more, **others):
        if str(path).endswith("state.pt"):
            raise FileNotFoundError(path)
        return lstat(path, *more, **others)

    with FileLock(runs / "first" / ".lock"):
        run = runs_now.read("first")
        whole = run_table.size(run)
        monkeypatch.setattr(os, "lstat", gone)
        assert run_table.size(run) == whole - lstat(runs / "first" / "state.pt").st_size


def test_the_size_of_a_run_that_nobody_trains_is_looked_up_once(runs, monkeypatch):
    run, walks, walk = runs_now.read("second"), [], os.walk
    monkeypatch.setattr(os, "walk", lambda *args: walks.append(args) or walk(*args))
    first = run_table.size(run)
    assert run_table.size(run) == first and len(walks) == 1
    (runs / "second" / "gamma" / "0009.safetensors").write_bytes(b"0123456789")
    assert run_table.size(run) == first + 10


@pytest.mark.parametrize("hidden", [".deleted-0123abcd", "sets/.deleted-0123abcd"])
def test_what_is_being_deleted_is_not_offered(hidden, runs):
    (runs / "first").rename(runs / hidden)
    assert [name for name in models.names() if name.startswith("runs/")] == [
        "runs/second",
        "runs/sets/plain",
    ]


# ------------------------------------------------------------------------------------------------------- download


def test_a_run_too_large_for_a_browser_names_its_folder(runs, monkeypatch):
    monkeypatch.setattr(one_run, "LARGEST", 1000)
    found = [one for one in choose(opened(), "first").get("download_button") if "Download" in one.proto.label]
    assert found[0].proto.disabled and str(runs / "first") in found[0].proto.help


def test_why_a_download_failed_is_told_when_the_page_is_drawn_next(runs):
    """Its file is packed apart from the page: the folder is gone by then."""
    app, run = choose(opened(), "first"), runs_now.read("first")
    failures = app.session_state["failed_downloads"]
    with pytest.raises(TrainingError):
        one_run._packed(replace(run, folder=runs / "gone"), failures)
    (told,) = sentences(healthy(app.run()))
    assert told.startswith("The download failed") and "\n" not in told
    assert not sentences(healthy(app.run()))


# ----------------------------------------------------------------------------------------------------- comparison


def test_only_settings_that_differ_are_shown(runs):
    app = opened(compare=["first", "second"])
    table = app.main.dataframe[1].value
    assert table.to_numpy().tolist() == [["Timesteps T", "3", "4"], ["Seed", "0", "1"]]
    copy = shutil.copytree(runs / "first", runs / "copy")
    assert "same settings" in said(opened(compare=["first", copy.name]))


def test_curves_of_all_runs_lie_in_one_chart(runs):
    app = opened(compare=["first", "second", "sets/plain"])
    for name in chosen(app):
        rows = [json.loads(line) for line in (runs / name / "metrics.jsonl").read_text().splitlines()]
        assert_drawn(app, "run_loss", [row["loss"] for row in rows])
        assert_drawn(app, "run_accuracy", [100 * row["train_accuracy"] for row in rows])


def test_gamma_of_one_less_that_of_the_other(runs):
    """Against the tensors of the two files, averaged by NumPy in float64."""

    def means(name, steps):
        tensors = safetensors.numpy.load_file(runs / name / "model.safetensors")
        return np.array(
            [
                [tensors[f"{norm}.{t}.weight"].mean(dtype=np.float64) for t in range(steps)]
                for norm in ("bntt1", "bntt_fc")
            ]
        )

    app = opened(compare=["first", "second"])
    shown = next(trace for trace in figure(app, "gamma_difference")["data"] if trace["type"] == "heatmap")
    assert shown["zmin"] == -shown["zmax"]
    expected = np.full((2, 4), np.nan)
    expected[:, :3] = means("first", 3) - means("second", 4)[:, :3]
    got = [array for array in drawn(app, "gamma_difference") if array.shape == (2, 4)]
    assert any(np.allclose(array, expected, atol=1e-6, equal_nan=True) for array in got)
    app.selectbox(key="gamma_a").select("second").run()
    app.selectbox(key="gamma_b").select("first").run()
    got = [array for array in drawn(healthy(app), "gamma_difference") if array.shape == (2, 4)]
    assert any(np.allclose(array, -expected, atol=1e-6, equal_nan=True) for array in got)


def test_what_cannot_be_compared_is_said(runs):
    app = opened(compare=["first", "waiting", "sets/plain"])
    told = sentences(app)
    assert any("different data" in sentence and "mnist" in sentence for sentence in told)
    assert any("20 % for waiting" in sentence and "10 % for first, sets/plain" in sentence for sentence in told)
    assert any("waiting has no network yet" in sentence for sentence in told)
    assert "It takes two runs with BNTT" in said(app)
    assert button(app, "Measure on the test samples") and all("\n" not in sentence for sentence in told)


def test_a_damaged_network_is_one_sentence_and_the_rest_goes_on(runs):
    (runs / "first" / "model.safetensors").write_bytes(b"\0" * 100)
    app = opened(compare=["first", "second", "sets/plain"])
    assert len(sentences(app)) == 1 and "model.safetensors" in sentences(app)[0]
    assert button(app, "Measure on the test samples")


def measured(runs, name):
    """The engine's own exit table of a run on all test samples."""
    checkpoint = load_checkpoint(runs / name / "model.safetensors")
    pixels, labels = get("digits").load("test")
    shared = {"pixels": pixels, "labels": labels, "mean": checkpoint.mean, "std": checkpoint.std, "seed": work.SEED}
    return early_exit.exit_table(checkpoint.config, evaluate_rows(0, len(labels), model=checkpoint.model, **shared))


def test_exit_curves_are_measured_on_request_and_known_ever_after(runs):
    names = ["new", "plain"]  # which no page has looked at before
    train(SMALL, Recipe(epochs=1, seed=5), runs / "new")
    train(replace(SMALL, norm="bn", steps=5), Recipe(epochs=1, seed=6), runs / "plain")
    app = opened(compare=names)
    assert not [chart for chart in app.get("plotly_chart") if chart.proto.id.endswith("run_exits")]
    button(app, "Measure on the test samples").click().run()
    finished(app)
    for visitor in (app, opened(compare=names)):
        assert button(visitor, "Measure on the test samples").proto.disabled, "nothing is left to measure"
        for name in names:
            expected = measured(runs, name)
            assert_drawn(visitor, "run_exits", 100 * expected["accuracy"].to_numpy())
            last = expected.iloc[-1]
            low, high = wilson(last["correct"], last["samples"])
            cells = sum((list(column) for table in visitor.main.dataframe for _, column in table.value.items()), [])
            assert f"{show.share(low)} to {show.share(high)}" in cells
    another = opened(compare=["new", "failed"])
    assert_drawn(another, "run_exits", 100 * measured(runs, "new")["accuracy"].to_numpy())


def test_robustness_curves_equal_the_engine(runs):
    """σ = 0.3 on 20 samples, for two networks."""
    app = opened(compare=["first", "sets/plain"], attacks="Gaussian noise", sigma="0.3", samples="20", encodings="1")
    button(app, "Disturb them").click().run()
    finished(app)
    attacks = [Attack("gaussian", 0.0), Attack("gaussian", 0.3)]
    pixels, labels = get("digits").load("test")
    for name in ("first", "sets/plain"):
        found = load_checkpoint(runs / name / "model.safetensors")
        shared = {"pixels": pixels, "labels": labels, "mean": found.mean, "std": found.std, "seed": 0}
        table = robustness.sweep_table([(a, attack_rows(a, 0, 20, model=found.model, **shared)) for a in attacks])
        final = table[table["step"] == found.config.steps]
        assert_drawn(app, "run_gaussian", 100 * final["accuracy"].to_numpy(dtype=float))
        cells = [str(cell) for table in app.main.dataframe for cell in table.value.to_numpy().ravel()]
        assert all(any(show.share(value) in cell for cell in cells) for value in final["accuracy"])
    healthy(app.text_input(key="sigma").set_value("much").run())
    assert [error.value.count("\n") for error in app.main.error] == [0]


def test_measuring_can_be_cancelled_and_begun_again(runs):
    app = opened(compare=["first", "second"], attacks="PGD", samples="399", pgd_steps="200")
    button(app, "Disturb them").click().run()
    stop = next(one for one in app.main.button if one.label == "Cancel")
    healthy(stop.click().run())
    assert {job.state for job in work.jobs().all() if "Disturbing 399" in job.title} == {"cancelled"}
    healthy(app.run())
    assert not button(app, "Disturb them").proto.disabled and "Cancelled" in sentences(app)[-1]


# ---------------------------------------------------------------------------------------- the epoch slider of Gamma


def slider(app):
    found = [one for one in app.main.slider if one.label == "Epoch"]
    return found[0] if found else None


def stacks(runs, name, epoch):
    return safetensors.numpy.load_file(runs / name / "gamma" / f"{epoch:04}.safetensors")


@pytest.mark.parametrize("quantity", ["gamma", "running_mean", "running_var"])
def test_gamma_shows_every_epoch_in_one_colour_range(quantity, runs):
    """Against the tensors that the run kept; the colours hold what all epochs have."""
    app = opened("gamma", model="runs/first")
    app.button_group(key="quantity").set_value(quantity).run()
    app.selectbox(key="channel_quantity").select(quantity).run()
    app.selectbox(key="sort").select_index(0).run()
    everything = [stacks(runs, "first", epoch)[f"conv1.{quantity}"] for epoch in (1, 2, 3)]
    ranges = set()
    for epoch, conv1 in enumerate(everything, 1):
        healthy(slider(app).set_value(epoch).run())
        fc1 = stacks(runs, "first", epoch)[f"fc1.{quantity}"]
        assert_drawn(app, "gamma_layers", [conv1.mean(1), fc1.mean(1)])
        assert_drawn(app, "gamma_channels", conv1.T)
        assert_drawn(app, "gamma_spread", np.median(conv1, 1))
        shown = figure(app, "gamma_channels")["data"][0]
        ranges.add((shown["zmin"], shown["zmax"], *figure(app, "gamma_spread")["layout"]["yaxis"]["range"]))
    ((zmin, zmax, low, high),) = ranges
    assert max(zmin, low) <= min(table.min() for table in everything)
    assert min(zmax, high) >= max(table.max() for table in everything)


def test_the_slider_begins_at_the_network_that_was_kept(runs):
    app = opened("gamma", model="runs/first")
    best = load_checkpoint(runs / "first" / "model.safetensors").metadata["epoch"]
    assert (slider(app).min, slider(app).max, slider(app).value) == (1, 3, best)
    assert f"after epoch {best} of 3" in said(app)
    growth = [
        json.loads(line)["gamma"]["conv1"] for line in (runs / "first" / "metrics.jsonl").read_text().splitlines()
    ]
    assert_drawn(app, "gamma_growth", growth)


def test_the_rule_speaks_of_the_epoch(runs):
    """A history in which γ fades at t = 2 in the last epoch alone."""
    file = runs / "first" / "gamma" / "0003.safetensors"
    tensors = safetensors.numpy.load_file(file)
    for layer in ("conv1", "fc1"):
        tensors[f"{layer}.gamma"] = tensors[f"{layer}.gamma"].copy()
        tensors[f"{layer}.gamma"][1:] = 0.01
    safetensors.numpy.save_file(tensors, file)
    app = opened("gamma", model="runs/first")
    slider(app).set_value(2).run()
    assert "At epoch 2, mean γ is never below" in said(healthy(app))
    slider(app).set_value(3).run()
    assert "At epoch 3, mean γ is below" in said(healthy(app)) and "**t = 2** of 3" in said(app)


@pytest.mark.parametrize("model", ["bundled/digits", "runs/sets/plain", "runs/second"])
def test_no_history_no_slider(model, runs):
    shutil.rmtree(runs / "second" / "gamma")
    app = opened("gamma", model=model)
    assert slider(app) is None and "At epoch" not in said(app)


def test_an_epoch_that_cannot_be_read_is_one_sentence(runs):
    (runs / "first" / "gamma" / "0002.safetensors").write_bytes(b"\0" * 50)
    app = opened("gamma", model="runs/first")
    healthy(slider(app).set_value(2).run())
    assert len(app.main.error) == 1 and "epoch 2" in app.main.error[0].value
    healthy(slider(app).set_value(1).run())
    assert not app.main.error and app.get("plotly_chart")


def larger(tensors):
    return {name: np.ones((3, 500_000), np.float32) for name in tensors}


def with_another_layer(tensors):
    return tensors | {name.replace("conv1", "conv2"): table for name, table in tensors.items() if "conv1" in name}


def of_fewer_steps(tensors):
    return {name: table[:2].copy() for name, table in tensors.items()}


@pytest.mark.parametrize("change", [larger, with_another_layer, of_fewer_steps])
def test_a_history_of_another_network_is_one_sentence_and_no_slider(change, runs, monkeypatch):
    """Of a larger one no byte is read."""
    for file in (runs / "first" / "gamma").iterdir():
        safetensors.numpy.save_file(change(safetensors.numpy.load_file(file)), file)
    if change is larger:
        monkeypatch.setattr("engine.run_metrics.gamma_at", lambda *_: pytest.fail("read"))
    app = opened("gamma", model="runs/first")
    assert slider(app) is None and [box.value for box in app.main.warning if "not of this network" in box.value]
    own = safetensors.numpy.load_file(runs / "first" / "model.safetensors")
    conv1 = [own[f"bntt1.{t}.weight"].mean() for t in range(3)]
    fc1 = [own[f"bntt_fc.{t}.weight"].mean() for t in range(3)]
    assert_drawn(app, "gamma_layers", [conv1, fc1])
