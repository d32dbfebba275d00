"""The Training page under AppTest: its settings are those of presets and of the run it starts, its curves those of the run."""

import json
import re
from contextlib import contextmanager
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from filelock import FileLock
from streamlit.testing.v1 import AppTest

from dashboard import work
from engine.cost import Cost
from engine.datasets import get
from engine.presets import PRESETS
from engine.run_library import list_runs, read_run
from engine.runs import create_run
from engine.snn import LAYOUTS
from tests.dashboard.apps import APP, WAIT, finished, healthy

DIGITS = PRESETS["digits"]
EPOCHS = 4
TINY = {"T_digits": 3, "epochs_digits": 2, "batch_digits": 200, "validation_digits": 10.0}


@pytest.fixture(scope="module", autouse=True)
def queue():
    """The work queue, which is closed at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BNTT_SCHEDULER", raising=False)
        yield
        work.jobs().close()
        work.jobs.clear()


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The runs folder, empty. Nothing is measured: every training costs an hour an epoch."""
    monkeypatch.setattr(work.cost, "measure", _cost_of_an_hour)
    monkeypatch.setenv("BNTT_RUNS", str(tmp_path))
    return tmp_path


def row(epoch, config):
    """An epoch as engine.training writes it, of made-up numbers."""
    random = np.random.default_rng(epoch)
    layers = [spec.name for spec in config.hidden_layers()]
    return {
        "epoch": epoch,
        "loss": 2 / epoch,
        "train_accuracy": 0.5 + epoch / 10,
        "train_accuracy_steps": random.random(config.steps).tolist(),
        "validation_accuracy": random.random(config.steps).tolist(),
        "lr": 0.1 / epoch,
        "gamma": {name: random.random(config.steps).tolist() for name in layers} if config.norm == "bntt" else {},
        "firing_rate": {name: random.random() for name in layers},
        "seconds": 1.5,
    }


def add_run(folder, epochs=EPOCHS, planned=10, result=None, error=None, **network):
    """A run that has come so far."""
    config = replace(DIGITS.config, **{"steps": 5, "layout": "C4 P F8", **network})
    create_run(folder, config, replace(DIGITS.recipe, epochs=planned, validation=0.1), command="", threads=1)
    rows = [row(epoch, config) for epoch in range(1, epochs + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    if result:
        (folder / "result.json").write_text(json.dumps(result))
    if error:
        (folder / "stopped.json").write_text(json.dumps({"error": error}))
    return config, rows


@contextmanager
def trained(folder, **progress):
    """As if a process trained in the folder."""
    told = {"stage": "training", "epoch": 5, "epochs": 10, "batch": 3, "batches": 4, "loss": 0.25, "seconds_left": 200}
    (folder / "progress.json").write_text(json.dumps(told | progress))
    with FileLock(folder / ".lock"):
        yield


def opened(**query) -> AppTest:
    app = AppTest.from_file(APP, default_timeout=WAIT)
    app.query_params.update(query)
    return healthy(app.switch_page("../pages/training.py").run())


def form(**query) -> AppTest:
    return opened(tab="New training", **query)


def widget(app, key):
    kinds = ("number_input", "selectbox", "text_input", "toggle", "multiselect")
    return next(one for kind in kinds for one in getattr(app.main, kind) if one.key == key)


def button(app, label):
    return next(one for one in app.main.button if one.label == label)


def said(app) -> str:
    return "\n".join(one.value for kind in ("markdown", "caption") for one in getattr(app.main, kind))


def line(app) -> str:
    """What stands over the progress bar."""
    (bar,) = app.main.get("progress")
    return bar.proto.text


def drawn(app) -> dict[str, list[dict]]:
    """Name of each chart → its traces."""
    found = {}
    for chart in app.main.get("plotly_chart"):
        name = chart.proto.id.rpartition("chart_")[2]
        found[name] = json.loads(chart.proto.spec)["data"]
    return found


# ------------------------------------------------------------------------------------------- a new training


@pytest.mark.parametrize("name", PRESETS)
def test_preset_fills_everything_in(name, runs):
    preset = PRESETS[name]
    config, recipe = preset.config, preset.recipe
    app = form(preset=preset.title)
    expected = {
        "kind": config.kind,
        "network": config.arch,
        "layers": LAYOUTS[config.arch],
        "coding": config.encoding,
        "leak": config.leak,
        "theta": config.threshold,
        "side": config.in_shape[1],
        "epochs": recipe.epochs,
        "batch": recipe.batch,
        "lr": recipe.lr,
        "validation": 0.0,
        "init": recipe.seed,
        "optimiser": recipe.optimizer,
        "schedule": recipe.schedule,
        "milestones": "50, 70, 90",
        "momentum": recipe.momentum,
        "decay": recipe.weight_decay,
        "gamma_decay": recipe.gamma_decay,
        "patience": None,
        "clip": None,
        "computed_in": recipe.precision,
        "augment": True,
    }
    assert {key: widget(app, f"{key}_{name}").value for key in expected} == expected
    assert [box.value for box in app.main.number_input if box.label == "T"] == [config.steps]
    assert [box.value for box in app.main.selectbox if box.label == "Normalisation"] == [config.norm]
    assert widget(app, f"on_{name}").value == recipe.dataset
    assert "Changed from the preset" not in said(app) and button(app, "Back to the preset").disabled
    assert preset.about in said(app)
    missing = get(recipe.dataset).missing()
    assert button(app, "Start").disabled == bool(missing)
    assert len(app.main.info) == bool(missing) and not app.main.error


def test_changes_are_told_and_taken_back(runs):
    app = form()
    widget(app, "T_digits").set_value(3).run()
    widget(app, "lr_digits").set_value(0.5).run()
    widget(app, "gamma_decay_digits").set_value(0.5).run()
    assert "Changed from the preset: T, learning rate, γ decay." in said(healthy(app))
    button(app, "Back to the preset").click().run()
    assert "Changed from the preset" not in said(healthy(app))
    assert (widget(app, "T_digits").value, widget(app, "gamma_decay_digits").value) == (25, 0.01)


def test_another_data_set_brings_its_usual_network(runs):
    app = form()
    widget(app, "T_digits").set_value(3).run()
    widget(app, "on_digits").select("sequential-mnist").run()
    data = get("sequential-mnist")
    values = {key: widget(app, f"{key}_digits_sequential-mnist").value for key in ("network", "coding", "leak", "side")}
    assert values == {"network": data.arch, "coding": data.encoding, "leak": data.leak, "side": 28}
    assert [(box.value, box.disabled) for box in app.main.number_input if box.label == "T"] == [(28, True)]
    widget(app, "on_digits").select("digits").run()
    assert widget(healthy(app), "T_digits").value == 3, "what was set for the digits is still there"


def test_ordinary_network_has_one_step_and_no_neurons(runs):
    app = form()
    widget(app, "kind_digits").select("ann").run()
    assert [(box.value, box.disabled) for box in app.main.number_input if box.label == "T"] == [(1, True)]
    assert widget(app, "leak_digits").disabled and widget(app, "theta_digits").disabled
    assert not healthy(app).main.error and not button(app, "Start").disabled


@pytest.mark.parametrize(
    "key, value, sentence",
    [
        ("layers_digits", "C8 X3", r"X3"),
        ("layers_digits", "", "no layers"),
        ("layers_digits", "C8 P P", "no convolution before P"),
        ("layers_digits", "F99999", "F99999"),
        ("lr_digits", 0.0, "above 0"),
        ("milestones_digits", "50, abc", "“abc” is not a number"),
        ("milestones_digits", "50, 150", "percentages of the epochs"),
        ("milestones_digits", "0.5, 0.7", "percentages of the epochs"),
        ("T_digits", 0, "T must be from 1 to"),
        ("T_digits", -3, "T must be from 1 to"),
        ("lr_digits", -1.0, "Learning rate must be from"),
        ("lr_digits", 1e9, "Learning rate must be from"),
        ("epochs_digits", 10**12, "Epochs must be from 1 to"),
        ("validation_digits", 90.0, "must be from 0 to"),
        ("milestones_digits", "nan", "percentages of the epochs"),
        ("milestones_digits", " ", "at least one"),
        ("patience_digits", 3, "needs validation samples"),
        ("norm_digits", "bntt", None),
        ("name digits", "", "name of a run"),
        ("name digits", "../up", "name of a run"),
        ("name digits", ".hidden", "name of a run"),
        ("name digits", "a b", "name of a run"),
        ("name digits", "x" * 61, "name of a run"),
        ("name digits", "x" * 60, None),
        ("name digits", "old", "taken"),
    ],
)
def test_what_makes_no_training_is_one_sentence(key, value, sentence, runs):
    add_run(runs / "old")
    app = form()
    healthy(widget(app, key).set_value(value).run())
    assert button(app, "Start").disabled == (sentence is not None)
    assert [re.search(sentence, error.value, re.IGNORECASE) is not None for error in app.main.error] == [True] * (
        sentence is not None
    )
    assert all(error.value.count("\n") == 0 and error.value.endswith(".") for error in app.main.error)


def test_milestones_do_not_matter_to_other_schedules(runs):
    app = form(milestones_digits="abc")
    assert button(app, "Start").disabled
    widget(app, "schedule_digits").select("cosine").run()
    assert not healthy(app).main.error and not button(app, "Start").disabled
    assert widget(app, "milestones_digits").disabled


def test_norm_of_time_does_not_suit_an_ordinary_network(runs):
    app = form()
    widget(app, "kind_digits").select("ann").run()
    widget(app, "norm_digits_ann").select("bntt").run()
    assert [error.value for error in healthy(app).main.error] == [
        "A network of kind ann has norm bn or none, not bntt."
    ]
    assert button(app, "Start").disabled


def test_names_are_counted_up(runs):
    for name in ("digits-1", "digits-2"):
        add_run(runs / name)
    assert widget(form(), "name digits").value == "digits-3"


def test_nonsense_in_a_link_is_ignored(runs):
    app = form(
        preset="x", T_digits="many", lr_digits="abc", layers_digits="", on_digits="../etc", computed_in_digits="x"
    )
    assert not app.main.exception and widget(app, "T_digits").value == 25 and widget(app, "on_digits").value == "digits"


def test_only_one_of_two_visitors_gets_a_name(runs):
    """Both look at the form, both press Start; the second is told, and the run is the first one's."""
    first, second = form(T_digits="2"), form(T_digits="4")
    for app in (first, second):
        widget(app, "name digits").set_value("mine").run()
    # a folder with config.json and without the process that would train: what begins it is tested below
    folder = runs / "mine"
    create_run(folder, replace(DIGITS.config, steps=2), DIGITS.recipe, command="", threads=1)
    for app in (first, second):
        healthy(button(app, "Start").click().run())
        assert ["mine is taken" in error.value for error in app.main.error] == [True]
    assert read_run(folder).config.steps == 2 and not [job for job in work.jobs().all() if "digits-1" in job.key]


def test_start_trains_what_the_form_says(runs):
    """A real training of two epochs, from Start to its accuracy on the test samples, and into the rest of the app."""
    app = form()
    for key, value in {**TINY, "layers_digits": "C4 P F8", "clip_digits": 5.0, "decay_digits": 0.0}.items():
        widget(app, key).set_value(value).run()
    healthy(button(app, "Start").click().run())
    folder = runs / "digits-1"
    assert widget(app, "run").value == "digits-1"
    finished(app)
    run = read_run(folder)
    assert run.state == "finished"
    assert asdict(run.config) == asdict(replace(DIGITS.config, steps=3, layout="C4 P F8"))
    changed = {"epochs": 2, "batch": 200, "validation": 0.1, "clip": 5.0, "weight_decay": 0.0}
    assert asdict(run.recipe) == asdict(replace(DIGITS.recipe, **changed))
    assert line(app).startswith(f"Finished: {100 * run.result['test_accuracy']:.1f} % of the 399 test samples")
    assert [button(app, label).disabled for label in ("Stop", "Resume", "Open in the dashboard")] == [True, True, False]
    assert [code.value for code in app.main.code] == [run.command]
    assert "--layout 'C4 P F8' --steps 3 --epochs 2 --batch 200" in run.command
    assert f"--threads {torch.get_num_threads()}" in run.command
    button(app, "Open in the dashboard").click().run()
    assert app.title[0].value == "Overview" and app.selectbox(key="model").value == "runs/digits-1"


def test_resume_goes_on_to_the_end(runs):
    recipe = replace(DIGITS.recipe, epochs=1, batch=200)
    create_run(runs / "one", replace(DIGITS.config, steps=2, layout="C4 P F8"), recipe, command="", threads=1)
    app = opened()
    assert line(app) == "Interrupted before the first epoch ended"
    button(app, "Resume").click().run()
    finished(app)
    assert read_run(runs / "one").state == "finished" and line(app).startswith("Finished: ")


# --------------------------------------------------------------------------------------------- what it costs


def test_cost_is_told_before_the_start(runs):
    app = finished(form())
    assert "About **2.5 days** and **2 GB** of memory" in said(app)
    widget(app, "epochs_digits").set_value(1).run()
    assert "About **60 min** and **2 GB** of memory" in said(healthy(app)), (
        "another number of epochs needs no new measurement"
    )
    assert not app.main.warning


def test_what_was_typed_last_counts_when_start_is_clicked(runs):
    """A browser sends the number that is still being typed together with the click."""
    app = form()
    widget(app, "epochs_digits").set_value(7)
    healthy(button(app, "Start").click().run())
    (found,) = list_runs(runs)
    assert found.recipe.epochs == 7
    for job in work.jobs().all():
        job.cancel()


def test_a_name_that_was_typed_stays_when_the_suggestion_is_taken(runs):
    """By another visitor, whose training begins meanwhile."""
    typed, waiting = form(), form()
    widget(typed, "name digits").set_value("mine").run()
    add_run(runs / "digits-1")
    assert widget(healthy(typed.run()), "name digits").value == "mine"
    assert widget(healthy(waiting.run()), "name digits").value == "digits-2"


def test_too_much_memory_is_a_warning(runs, monkeypatch):
    small = replace(_cost_of_an_hour(None, None, 0), machine=10**9)
    monkeypatch.setattr(work.cost, "measure", lambda config, recipe, samples: small)
    app = form()
    widget(app, "batch_digits").set_value(33).run()  # which no other test has measured
    (warning,) = finished(app).main.warning
    assert "**2 GB**" in warning.value and "This machine has 1 GB" in warning.value


def test_few_samples_tell_very_roughly(runs, monkeypatch):
    few = replace(_cost_of_an_hour(None, None, 0), batch_measured=8)
    monkeypatch.setattr(work.cost, "measure", lambda config, recipe, samples: few)
    app = form()
    widget(app, "batch_digits").set_value(34).run()  # which no other test has measured
    assert "Very roughly **2.5 days**" in said(finished(app)) and "of 8 samples instead of 34" in said(app)


def _cost_of_an_hour(config, recipe, samples):
    return Cost(seconds_epoch=3600.0, seconds=3600.0, memory=2 * 10**9, batch_measured=64, steps_measured=2)


# ------------------------------------------------------------------------------------------------- watching


def test_without_runs_the_form_comes_first(runs):
    app = opened()
    assert [tab.label for tab in app.tabs if tab.children] == ["New training"]
    add_run(runs / "one")
    app = opened()
    assert [tab.label for tab in app.tabs if tab.children] == ["Watch"] and widget(app, "run").value == "one"


@pytest.mark.parametrize(
    "made, expected, stop, resume",
    [
        ({}, "Interrupted after epoch 4 of 10", False, True),
        ({"epochs": 0}, "Interrupted before the first epoch ended", False, True),
        ({"error": "the loss became nan in epoch 5"}, "Failed after epoch 4 of 10", False, True),
        (
            {"result": {"test_accuracy": 0.987, "test_samples": 399}, "planned": 4},
            "Finished: 98.7 % of the 399",
            False,
            False,
        ),
        ({"result": {"test_accuracy": 0.5, "test_samples": 10}}, "Finished early, after epoch 4 of 10", False, False),
        ({"result": {"test_accuracy": "98", "test_samples": []}, "planned": 4}, "Finished", False, False),
    ],
)
def test_state_and_what_can_be_done(made, expected, stop, resume, runs):
    add_run(runs / "one", **made)
    app = opened()
    assert line(app).startswith(expected)
    labels = ("Stop", "Resume", "Open in the dashboard")
    assert [not button(app, label).disabled for label in labels] == [stop, resume, False]
    assert [error.value for error in app.main.error] == (["The loss became nan in epoch 5."] if "error" in made else [])


@pytest.mark.parametrize(
    "progress, expected",
    [
        ({}, "Running: epoch 5 of 10, loss 0.25, about 3 min left"),
        ({"stage": "validating"}, "Running: epoch 5 of 10, measuring on the validation samples, about 3 min left"),
        ({"stage": "testing"}, "All 4 epochs are done, measuring on the test samples"),
        ({"stage": "nonsense"}, "Running: reading the data"),
        ({"batch": 9, "loss": None, "seconds_left": None}, "Running: epoch 5 of 10"),
    ],
)
def test_a_run_of_a_terminal_is_watched_and_not_stopped(progress, expected, runs):
    add_run(runs / "one")
    with trained(runs / "one", **progress):
        app = opened()
        assert line(app).startswith(expected)
        assert button(app, "Stop").disabled and "Ctrl-C" in button(app, "Stop").help
        assert button(app, "Resume").disabled


def test_the_run_that_is_trained_comes_first_and_a_link_before_it(runs):
    for name in ("old", "trained", "new"):
        add_run(runs / name)
    with trained(runs / "trained"):
        assert widget(opened(), "run").value == "trained"
        assert widget(opened(run="old"), "run").value == "old"


@pytest.mark.parametrize("name", ["gone", "../../etc", ""])
def test_link_to_a_run_that_is_not_here_is_told(name, runs):
    add_run(runs / "one")
    app = opened(run=name)
    assert [name in warning.value for warning in app.main.warning] == [True] * bool(name)
    assert widget(app, "run").value == "one"


def test_link_followed_on_the_page_itself(runs):
    """From the other tab and from another run, as the sidebar's links to what runs do."""
    for name in ("one", "two"):
        add_run(runs / name)
    app = opened(run="one", tab="New training")
    del app.query_params["tab"]
    app.query_params["run"] = "two"
    assert widget(healthy(app.run()), "run").value == "two"
    widget(app, "run").select("one").run()
    assert widget(healthy(app), "run").value == "one"
    app.query_params["run"] = "two"
    assert widget(healthy(app.run()), "run").value == "two"


def test_run_that_vanished_gives_way(runs):
    add_run(runs / "one")
    add_run(runs / "two")
    app = opened(run="one")
    (runs / "one").rename(runs / ".one")
    assert widget(healthy(app.run()), "run").value == "two"


def test_curves_are_the_run_s(runs):
    config, rows = add_run(runs / "one")
    charts = drawn(opened(gamma_layer="conv1"))
    assert np.allclose(values(charts["run_loss"][0]["y"]), [one["loss"] for one in rows])
    lines = {trace["name"]: 100 * np.array(values(trace["y"])) / 100 for trace in charts["run_accuracy"]}
    assert np.allclose(lines["training"], [100 * one["train_accuracy"] for one in rows])
    assert np.allclose(lines["validation"], [100 * one["validation_accuracy"][-1] for one in rows])
    assert np.allclose(values(charts["run_gamma"][0]["z"]), [one["gamma"]["conv1"] for one in rows])
    last = [rows[-1]["gamma"][name] for name in ("conv1", "fc1")]
    assert np.allclose(values(charts["run_gamma_layers"][0]["z"]), last)
    assert np.allclose(
        values(charts["run_exits"][0]["z"]), [100 * np.array(one["validation_accuracy"]) for one in rows]
    )
    rates = {trace["name"]: values(trace["y"]) for trace in charts["run_rates"]}
    assert np.allclose(rates["fc1"], [one["firing_rate"]["fc1"] for one in rows])
    assert np.allclose(values(charts["run_lr"][0]["y"]), [one["lr"] for one in rows])


def values(found) -> np.ndarray:
    """Numbers of a trace, which travel as a list or packed."""
    import base64

    if isinstance(found, list):
        return np.array(found, dtype=float)
    array = np.frombuffer(base64.b64decode(found["bdata"]), np.dtype(found["dtype"]))
    return array.reshape([int(n) for n in found.get("shape", str(array.size)).split(",")])


def test_other_runs_are_laid_over(runs):
    for name, epochs in (("one", 4), ("two", 7), ("three", 2)):
        add_run(runs / name, epochs)
    app = opened(run="one")
    assert len(drawn(app)["run_loss"]) == 1
    widget(app, "against").set_value(["two", "three"]).run()
    lines = {trace["name"]: len(values(trace["y"])) for trace in drawn(healthy(app))["run_loss"]}
    assert lines == {"one": 4, "two": 7, "three": 2}
    assert len(drawn(app)["run_lr"]) == 1, "and over these two alone"


@pytest.mark.parametrize(
    "network, lacks", [({"norm": "bn"}, {"run_gamma", "run_gamma_layers"}), ({"steps": 1}, {"run_exits"})]
)
def test_what_a_network_has_not_is_not_drawn(network, lacks, runs):
    add_run(runs / "one", **network)
    everything = {"run_loss", "run_accuracy", "run_gamma", "run_gamma_layers", "run_exits", "run_rates", "run_lr"}
    assert set(drawn(opened())) == everything - lacks


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\n", b'{"epoch": 1}\n', b'{"epoch": 1, "gamma": [], "loss": "x"}\n', b"[" * 9999]
)
def test_damaged_metrics_are_no_curves(content, runs):
    add_run(runs / "one")
    (runs / "one" / "metrics.jsonl").write_bytes(content)
    assert line(opened()).startswith("Interrupted")


def test_command_of_an_old_run_is_made_from_its_settings(runs):
    add_run(runs / "one")
    (code,) = opened().main.code
    assert re.search(
        r"train .*--layout 'C4 P F8' --steps 5 .*--epochs 10 .*--validation 0.1 .*--out \S+/one", code.value
    )
