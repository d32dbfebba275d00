"""The logic of every page under AppTest: its numbers are the engine's, and nothing a visitor does shows a traceback."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from streamlit.testing.v1 import AppTest

from dashboard import show, work
from engine import ModelConfig, build_model, bundled, connection, load_checkpoint, save_checkpoint
from engine.analysis import activity, early_exit, evaluation, gamma, robustness, verdict
from engine.analysis.evaluation import evaluate_rows
from engine.analysis.robustness import attack_rows
from engine.attacks import KINDS, Attack, Attacker
from engine.datasets import fit, get
from engine.jobs import OVER
from engine.snn import Surrogate
from tests.dashboard.apps import APP, WAIT, assert_drawn, drawn, finished, healthy, said, serving
from tests.engine.checkpoint_files import norm_stack, published_state, torch_bytes

ROOT = Path(__file__).resolve().parents[2]
TITLES = {
    "overview": "Overview",
    "gamma": "Gamma",
    "spikes": "Spikes",
    "early_exit": "Early exit",
    "robustness": "Robustness",
    "baselines": "Baselines",
}
NEED_A_NETWORK = ("spikes", "early_exit", "robustness", "baselines")


@pytest.fixture(scope="module", autouse=True)
def runs(tmp_path_factory):
    """A folder of tiny trained models, and the work queue, which is closed at the end."""
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)

    def network(name, faded_from=None, dataset="digits", **change):
        values = {"arch": "vgg-small", "steps": 5, "in_shape": (1, 16, 16), "layout": "C4 P F8", **change}
        model = build_model(ModelConfig(**values))
        for key, tensor in model.state_dict().items():
            if key.endswith("running_var"):
                tensor.fill_(0.2)
            if faded_from and re.fullmatch(r"bntt\w+\.\d+\.weight", key) and int(key.split(".")[1]) >= faded_from - 1:
                tensor.fill_(0.05)
        moments = get("digits").moments(values["in_shape"][0]) if dataset == "digits" else ((), ())
        described = {"dataset": dataset, "mean": moments[0] or None, "std": moments[1] or None}
        save_checkpoint(
            folder / name / "model.safetensors", model, **{key: value for key, value in described.items() if value}
        )

    network("tiny")
    network("fading", faded_from=3)
    network("single", steps=1)
    network("direct", encoding="direct")
    network(
        "hundred",
        arch="vgg11",
        layout="C4 P C8 C8 G F16",
        classes=100,
        in_shape=(3, 32, 32),
        steps=2,
        dataset="cifar100",
    )
    with serving(folder):
        yield folder


def opened(page="overview", model="runs/tiny", **query) -> AppTest:
    """A page as a new visitor sees it who follows a link."""
    app = AppTest.from_file(APP, default_timeout=WAIT)
    app.query_params.update({"model": model, **query})
    app.run()
    return turned(app, page)


def turned(app, page) -> AppTest:
    """The same visitor, on another page."""
    return app if page == "overview" else app.switch_page(f"../pages/{page}.py").run()


def control(app, kind, name):
    """A widget by its name in the URL, which for most models ends with a piece of the file's hash."""
    return next(w for w in getattr(app, kind) if re.fullmatch(rf"{name}(_[0-9a-f]+)?", w.key or ""))


def metrics(app) -> list[str]:
    return [metric.value for metric in app.metric]


def checkpoint_of(name, runs, **changes):
    group, _, rest = name.partition("/")
    return load_checkpoint(bundled.path(rest) if group == "bundled" else runs / rest / "model.safetensors", **changes)


def evaluated(checkpoint):
    """The engine's own evaluation of the whole test split, in one piece."""
    pixels, labels = get("digits").load("test")
    pixels = fit(pixels, checkpoint.config.in_shape)
    shared = {"pixels": pixels, "labels": labels, "mean": checkpoint.mean, "std": checkpoint.std, "seed": work.SEED}
    return evaluate_rows(0, len(labels), model=checkpoint.model, **shared)


def exit_table(checkpoint):
    return early_exit.exit_table(checkpoint.config, evaluated(checkpoint))


def assert_exit_numbers(app, row):
    """Accuracy, spikes and energy of an exit step are among the metrics."""
    expected = [show.share(row["accuracy"]), show.amount(row["spikes"]), show.energy(row["energy_nj"])]
    assert metrics(app)[:3] == expected


# --------------------------------------------------------------------------------------------- every page


@pytest.mark.parametrize("page", TITLES)
@pytest.mark.parametrize("model", ["bundled/digits", "runs/tiny", "runs/single", "runs/direct", "runs/hundred"])
def test_page_opens_and_fills(page, model):
    app = healthy(opened(page, model))
    assert [title.value for title in app.title] == [TITLES[page]]
    assert model in said(app)
    finished(app)
    assert not app.error and not app.info
    if (page, model) == ("baselines", "runs/hundred"):  # it compares on a network's own data alone
        assert ["CIFAR-100, which is not here" in box.value for box in app.main.warning] == [True]
    else:
        assert app.get("plotly_chart"), "something is drawn"


@pytest.mark.parametrize("page", TITLES)
def test_network_of_other_data_is_met_with_caution(page):
    """100 classes on ten digits: one warning wherever accuracy or answers are shown, and no name of a digit."""
    app = finished(opened(page, "runs/hundred"))
    assert len(app.main.warning) == (page != "gamma")
    assert not finished(opened(page, "bundled/digits")).main.warning, "a trained network on its own data"


@pytest.mark.parametrize("page", TITLES)
def test_leak_reaches_every_page(page, runs):
    """The heading says it, and what is shown is that of a network loaded with this λ."""
    app = opened(page)
    control(app, "number_input", "leak").set_value(0.5).run()
    finished(app)
    assert re.search(r"λ = 0\.5\b", said(app))
    checkpoint = checkpoint_of("runs/tiny", runs, leak=0.5)
    if page == "overview":
        assert "0.5" in metrics(app)
        assert f"{exit_table(checkpoint)['spikes'].iloc[-1]:,.0f} spikes" in said(app)
    elif page == "spikes":
        rates = recorded(checkpoint, 0).firing_rates()
        assert_drawn(app, "firing_rates", rates[rates["layer"] == "fc1"]["rate"])
    elif page == "early_exit":
        assert_exit_numbers(app, exit_table(checkpoint).iloc[-1])
    elif page == "robustness":
        assert_sweep_equals_engine(run_sweep(app), checkpoint)


@pytest.mark.parametrize("page", TITLES)
def test_settings_of_one_model_are_not_those_of_another(page):
    app = opened(page)
    control(app, "number_input", "leak").set_value(0.5).run()
    app.selectbox(key="model").select("runs/fading").run()
    assert re.search(r"λ = 0\.95\b", said(finished(app)))
    app.selectbox(key="model").select("runs/tiny").run()
    assert "runs/tiny" in said(healthy(app))


@pytest.mark.parametrize("field", ["mean", "std"])
@pytest.mark.parametrize("text", ["abc", "", "0.1, 0.2", "nan", "inf"])
def test_bad_normalisation_is_one_error_until_it_is_mended(field, text):
    app = opened("gamma")
    before = control(app, "text_input", field).value
    healthy(control(app, "text_input", field).set_value(text).run())
    assert len(app.error) == 1 and "\n" not in app.error[0].value
    healthy(control(app, "text_input", field).set_value(before).run())
    assert not app.error and app.title[0].value == "Gamma"


@pytest.mark.parametrize(
    "query",
    [
        {"t": "99"},
        {"t": "x"},
        {"sample": "9999"},
        {"sample": "-1"},
        {"leak": "5"},
        {"threshold": "0"},
        {"encoding": "x"},
        {"layer": "conv99"},
        {"samples": "0"},
        {"attacks": "x"},
        {"sigma": ""},
        {"threshold_gamma": "7"},
        {"quantity": "x"},
        {"precision": "x"},
    ],
    ids=str,
)
def test_nonsense_in_a_link_is_ignored(query):
    app = opened(model="bundled/digits", **query)
    for page, title in TITLES.items():
        healthy(turned(app, page))
        assert app.title[0].value == title and not app.error and not app.warning
        assert re.search(r"bundled/digits .* λ = 0\.95 · θ = 1 ", said(app))


@pytest.mark.parametrize("data", ["x", "cifar10-dvs", "../../etc"])
def test_link_to_data_that_cannot_be_shown_is_told_until_another_is_chosen(data):
    app = healthy(opened("spikes", model="bundled/digits", data=data))
    assert len(app.sidebar.warning) == 1 and data in app.sidebar.warning[0].value
    assert "Digits, sample 0" in said(app) and not app.error
    app = next(box for box in app.sidebar.selectbox if box.label == "Data set").set_value("mnist").run()
    assert not healthy(app).sidebar.warning


@pytest.mark.parametrize("model", ["../../../etc/passwd", "uploads/somebody's", "runs/..", "bundled/"])
def test_link_to_a_model_that_is_not_here_is_told(model):
    app = healthy(opened(model=model))
    assert len(app.sidebar.warning) == 1 and model in app.sidebar.warning[0].value
    assert "bundled/digits" in said(app) and not app.error


def test_model_that_vanished_gives_way_to_the_default(runs):
    shutil.copytree(runs / "tiny", runs / "gone")
    app = opened("gamma", "runs/gone")
    assert "runs/gone" in said(app)
    shutil.rmtree(runs / "gone")
    healthy(app.run())
    assert len(app.sidebar.warning) + len(app.error) == 1
    assert "bundled/digits" in said(app)


def test_damaged_model_is_told_and_another_can_be_chosen(runs):
    (runs / "damaged").mkdir()
    (runs / "damaged" / "model.safetensors").write_bytes(b"\0" * 100)
    try:
        app = healthy(opened("gamma", "runs/damaged"))
        assert len(app.error) == 1 and "\n" not in app.error[0].value
        app.selectbox(key="model").select("runs/tiny").run()
        assert not healthy(app).error and "runs/tiny" in said(app)
    finally:
        shutil.rmtree(runs / "damaged")


# ------------------------------------------------------------------------------------------------ uploads


def upload(app, name, content):
    return app.file_uploader[0].set_value((name, content, "application/octet-stream")).run()


@pytest.mark.parametrize("page", TITLES)
def test_gamma_only_file(page):
    """Overview and Gamma work; the others say in one sentence what is missing."""
    stacks = norm_stack("net.bn1", 3, 4, torch.Generator()) | norm_stack("net.bn2", 5, 2, torch.Generator())
    app = healthy(upload(opened(page), "stacks.pth", torch_bytes(stacks)))
    assert "uploads/stacks.pth" in said(app) and not app.error
    assert len(app.info) == (page != "gamma")
    if page in NEED_A_NETWORK:
        assert not app.get("plotly_chart") and "\n" not in app.info[0].value
    else:
        assert app.get("plotly_chart")
    if page == "overview":
        assert {"2", "5", f"{3 * 4 + 5 * 2}"} <= set(metrics(app)), "layers, T, values"


def test_uploaded_network_is_chosen_and_its_owners_alone():
    owner, stranger = opened("gamma"), opened("gamma")
    upload(owner, "net_timestep3_leak0.9.pth", torch_bytes({"state_dict": published_state()}))
    assert "uploads/net_timestep3_leak0.9.pth" in said(healthy(owner)) and "λ = 0.9 " in said(owner)
    assert any("was guessed" in caption.value for caption in owner.sidebar.caption)
    stranger.run()
    assert "uploads/net_timestep3_leak0.9.pth" in owner.selectbox(key="model").options
    assert not [name for name in stranger.selectbox(key="model").options if name.startswith("uploads/")]


def test_bad_upload_is_told_and_leaves_the_view_alone():
    app = upload(opened("gamma"), "notes.pth", b"no checkpoint")
    assert [error.value.count("\n") for error in healthy(app).sidebar.error] == [0]
    assert "notes.pth" in app.sidebar.error[0].value
    assert "runs/tiny" in said(app) and app.title[0].value == "Gamma"
    upload(app, "stacks.pth", torch_bytes(norm_stack("bn", 3, 4, torch.Generator())))
    assert not healthy(app).error and "uploads/stacks.pth" in said(app)


# ----------------------------------------------------------------------------------------------- overview


@pytest.mark.parametrize("model", ["bundled/digits", "runs/fading"])
def test_overview_tells_the_findings(model, runs):
    app = finished(opened("overview", model))
    checkpoint = checkpoint_of(model, runs)
    table, rule = exit_table(checkpoint), gamma.exit_rule(checkpoint)
    text = said(app)
    assert f"{table['accuracy'].iloc[-1]:.1%}" in text, "test accuracy"
    assert f"{table['spikes'].iloc[-1]:,.0f} spikes" in text
    assert re.search(rf"leaves at t = {rule}\b", text)
    assert {str(checkpoint.config.steps), str(checkpoint.config.classes), checkpoint.config.arch} <= set(metrics(app))
    assert_drawn(app, "overview_gamma", checkpoint.stacks["fc1"].gamma.mean(1))


# -------------------------------------------------------------------------------------------------- gamma


@pytest.mark.parametrize("quantity", gamma.QUANTITIES)
def test_gamma_draws_every_quantity(quantity, runs):
    app = opened("gamma")
    app.button_group(key="quantity").set_value(quantity).run()
    app.selectbox(key="channel_quantity").select(quantity).run()
    checkpoint = checkpoint_of("runs/tiny", runs)
    means = gamma.layer_means(healthy(app) and checkpoint, quantity)
    assert_drawn(app, "gamma_layers", means.pivot(index="layer", columns="step", values="value").loc[["conv1", "fc1"]])
    table = gamma.values(checkpoint, "conv1", quantity)
    assert_drawn(app, "gamma_spread", np.median(table, 1))


@pytest.mark.parametrize("layer", ["conv1", "fc1"])
def test_gamma_orders_the_channels(layer, runs):
    """By peak time, against Python's sort; as stored; by mean and by the last timestep, which must fall."""
    app = opened("gamma")
    control(app, "selectbox", "layer").select(layer).run()
    table = checkpoint_of("runs/tiny", runs).stacks[layer].gamma.T  # [C, T]
    sort = app.selectbox(key="sort")
    by_peak = np.array(sorted(table.tolist(), key=lambda row: (np.argmax(row), -max(row))))
    assert_drawn(app, "gamma_channels", by_peak)
    expected = {0: table, 2: table[np.argsort(-table.mean(1))], 3: table[np.argsort(-table[:, -1])]}
    for option, rows in expected.items():
        app.selectbox(key="sort").select_index(option).run()
        assert_drawn(healthy(app), "gamma_channels", rows)
    assert len(sort.options) == 4


@pytest.mark.parametrize("threshold", [0.0, 0.04, 0.1, 1.0])
def test_gamma_threshold_moves_the_rule(threshold, runs):
    """The network fades to γ = 0.05 at t = 3 of 5; before, γ is 1."""
    app = opened("gamma", "runs/fading")
    app.slider(key="threshold_gamma").set_value(threshold).run()
    rule = gamma.exit_rule(checkpoint_of("runs/fading", runs), threshold)
    assert rule == (3 if threshold in (0.1, 1.0) else None)
    told = re.search(r"t = (\d+)\W* of 5", said(healthy(app)))
    assert (int(told.group(1)) if told else None) == rule


# ------------------------------------------------------------------------------------------------- spikes


def recorded(checkpoint, sample):
    pixels, _ = get("digits").load("test")
    image = fit(pixels[sample : sample + 1], checkpoint.config.in_shape)[0]
    return activity.record(checkpoint.model, image, sample, checkpoint.mean, checkpoint.std, seed=work.SEED)


def test_spikes_follow_the_sample(runs):
    app = opened("spikes")
    app.number_input(key="sample").set_value(17).run()
    run = recorded(checkpoint_of("runs/tiny", runs), 17)
    rates = run.firing_rates()
    for layer, rows in rates.groupby("layer"):
        assert_drawn(healthy(app), "firing_rates", rows["rate"])
    answer = run.probabilities()[-1].argmax()
    assert re.search(rf"\b{answer}\b.* {100 * run.probabilities()[-1].max():.1f} %", said(app))


@pytest.mark.parametrize("way", ["even", "active", "rates"])
@pytest.mark.parametrize("layer", ["conv1", "fc1"])
def test_spikes_inside_a_layer(layer, way, runs):
    app = opened("spikes")
    control(app, "selectbox", "layer").select(layer).run()
    app.selectbox(key="raster").select(way).run()
    run = recorded(checkpoint_of("runs/tiny", runs), 0)
    neuron = control(app, "number_input", f"neuron_{layer}")
    assert neuron.max == run.spikes[layer].shape[1] - 1
    assert run.spikes[layer][:, int(neuron.value)].sum() == run.spikes[layer].sum(0).max(), "the most active one"
    neuron.set_value(3).run()
    assert f"fires {run.spikes[layer][:, 3].sum()} times" in said(healthy(app))


def test_direct_coding_has_no_input_spikes():
    app = opened("spikes")
    charts = len(app.get("plotly_chart"))
    control(app, "selectbox", "encoding").select("direct").run()
    assert len(healthy(app).get("plotly_chart")) == charts - 1


# --------------------------------------------------------------------------------------------- early exit


def test_exit_numbers_at_every_step(runs):
    app = finished(opened("early_exit"))
    table = exit_table(checkpoint_of("runs/tiny", runs))
    assert control(app, "slider", "t").value == 5, "no rule: at T"
    assert_exit_numbers(app, table.iloc[-1])
    predictions = evaluated(checkpoint_of("runs/tiny", runs)).predictions
    for step in range(1, 6):
        control(app, "slider", "t").set_value(step).run()
        assert_exit_numbers(healthy(app), table.iloc[step - 1])
        changed = int((predictions[step - 1] != predictions[-1]).sum())
        assert re.search(rf"\*\*{changed}\*\* of 399|None of the 399" if changed else "None of the 399", said(app))


@pytest.mark.parametrize("model", ["bundled/digits", "runs/fading"])
@pytest.mark.parametrize("page", ["early_exit", "spikes"])
def test_exit_slider_begins_at_the_rule(page, model, runs):
    app = finished(opened(page, model))
    checkpoint = checkpoint_of(model, runs)
    slider = control(app, "slider", "t")
    assert (slider.min, slider.max, slider.value) == (1, checkpoint.config.steps, gamma.exit_rule(checkpoint))


def test_exit_step_is_shared_by_the_pages():
    app = finished(opened("early_exit"))
    control(app, "slider", "t").set_value(2).run()
    assert control(healthy(turned(app, "spikes")), "slider", "t").value == 2


@pytest.mark.parametrize("page", ["early_exit", "spikes"])
def test_single_timestep_has_no_slider(page):
    app = finished(opened(page, "runs/single"))
    assert not [slider for slider in app.slider if slider.key.startswith("t")]


def test_exit_numbers_with_direct_coding(runs):
    app = opened("early_exit")
    control(app, "selectbox", "encoding").select("direct").run()
    checkpoint = checkpoint_of("runs/tiny", runs, encoding="direct")
    assert_exit_numbers(finished(app), exit_table(checkpoint).iloc[-1])


def test_precision_is_compared_in_sight(runs):
    app = finished(opened("early_exit"))
    app.button_group(key="precision").set_value("bfloat16").run()
    finished(app)
    pixels, labels = get("digits").load("test")
    checkpoint = checkpoint_of("runs/tiny", runs)
    shared = {"pixels": pixels, "labels": labels, "mean": checkpoint.mean, "std": checkpoint.std, "seed": work.SEED}
    rough = evaluate_rows(0, 399, model=checkpoint.model, precision="bfloat16", **shared)
    changed = (rough.predictions[-1] != evaluated(checkpoint).predictions[-1]).sum()
    assert show.share(rough.accuracy()["accuracy"].iloc[-1]) in metrics(app)
    assert f"{changed} of 399" in metrics(app)


# --------------------------------------------------------------------------------------------- robustness


def run_button(app):
    return app.main.button(key="run_sweep")


def can_run(app):
    return not run_button(app).proto.disabled


def run_sweep(app):
    """A sweep of σ = 0.3 over 20 samples, to its end."""
    app.button_group(key="attacks").set_value(["gaussian"]).run()
    app.text_input(key="sigma").set_value("0.3").run()
    app.number_input(key="samples").set_value(20).run()
    if can_run(app):
        run_button(app).click().run()
    return finished(app)


def swept(checkpoint, seed=0):
    """The same sweep by the engine, at the last timestep."""
    pixels, labels = get("digits").load("test")
    shared = {"pixels": pixels, "labels": labels, "mean": checkpoint.mean, "std": checkpoint.std, "seed": seed}
    attacks = [Attack("gaussian", 0.0), Attack("gaussian", 0.3)]
    found = [(a, attack_rows(a, 0, 20, model=checkpoint.model, **shared, encodings=3)) for a in attacks]
    table = robustness.sweep_table(found, 3)
    return table[table["step"] == checkpoint.config.steps]


def table_columns(app):
    """Of the table of accuracies."""
    (table,) = (table.value for table in app.main.dataframe if "Disturbance" in table.value)
    return [list(column) for _, column in table.items()]


def assert_sweep_equals_engine(app, checkpoint, seed=0):
    expected, columns = swept(checkpoint, seed), table_columns(app)
    assert [show.share(value) for value in expected["accuracy"]] in columns
    assert [show.amount(value) for value in expected["spikes"]] in columns
    assert [f"{value:.1f} of 20" for value in expected["correct"]] in columns
    assert [f"{100 * value:.1f} points" for value in expected["spread"]] in columns


def test_sweep_equals_the_engine_and_stays(runs):
    checkpoint = checkpoint_of("runs/tiny", runs)
    app = opened("robustness")
    assert not app.main.dataframe and can_run(app)
    assert_sweep_equals_engine(run_sweep(app), checkpoint)
    assert not can_run(app), "there is nothing left to run"
    healthy(turned(app, "gamma"))
    assert_sweep_equals_engine(healthy(turned(app, "robustness")), checkpoint)
    link = opened("robustness", attacks="Gaussian noise", sigma="0.3", samples="20")
    assert_sweep_equals_engine(healthy(link), checkpoint)
    app.number_input(key="seed").set_value(1).run()
    assert can_run(app)
    run_button(app).click().run()
    assert_sweep_equals_engine(finished(app), checkpoint, seed=1)


@pytest.mark.parametrize(
    "key, text",
    [("sigma", "much"), ("sigma", "0"), ("sigma", "nan"), ("sigma", "11"), ("epsilon", "-1"), ("epsilon", "8/255")],
)
def test_bad_strength_is_one_error(key, text):
    app = opened("robustness")
    healthy(app.text_input(key=key).set_value(text).run())
    assert len(app.error) == 1 and "\n" not in app.error[0].value
    healthy(app.text_input(key=key).set_value("0.2; 0.1").run())
    assert not app.error and can_run(app)


@pytest.mark.parametrize("choice", [{"attacks": []}, {"attacks": ["gaussian"], "sigma": ""}], ids=str)
def test_nothing_to_try_cannot_be_run(choice):
    app = opened("robustness")
    app.button_group(key="attacks").set_value(choice["attacks"]).run()
    if "sigma" in choice:
        app.text_input(key="sigma").set_value(choice["sigma"]).run()
    assert not can_run(healthy(app))


def test_attacker_is_the_one_chosen(runs):
    """Every choice of the gradient's, against the engine; and a literal gradient, with which nothing moves."""
    app = opened(
        "robustness",
        **{"attacks": "PGD", "epsilon": "60", "samples": "20", "encodings": "1", "pgd_steps": "2", "pgd_size": "20"},
        **{
            "surrogate": "arctangent",
            "width": "2.5",
            "width_kind": "adaptive",
            "draws": "3",
            "target": "mean of all exits",
        },
    )
    run_button(app).click().run()
    attacker = Attacker(Surrogate("arctangent", 2.5, True), True, 3, "average")
    checkpoint, (pixels, labels) = checkpoint_of("runs/tiny", runs), get("digits").load("test")
    shared = {"pixels": pixels, "labels": labels, "mean": checkpoint.mean, "std": checkpoint.std, "seed": 0}
    attacks = [Attack("gaussian", 0.0), Attack("pgd", 60 / 255, 2, 20 / 255, attacker)]
    table = robustness.sweep_table([(a, attack_rows(a, 0, 20, model=checkpoint.model, **shared)) for a in attacks])
    final = table[table["step"] == checkpoint.config.steps]
    assert [f"{value} of 20" for value in final["correct"]] in table_columns(finished(app))
    app.selectbox(key="code").select("literal").run()
    app.button_group(key="attacks").set_value(["fgsm"]).run()
    run_button(app).click().run()
    clean, moved = next(column for column in table_columns(finished(app)) if "of 20" in str(column[0]))
    assert clean == moved


@pytest.mark.parametrize("kind", ["bim", "eotpgd", "pgdl2", "cw", "deepfool", "square", "uniform", "apgd", "mifgsm"])
def test_every_disturbance_runs(kind):
    """To its end, into the panel of its norm."""
    field = "epsilon_l2" if KINDS[kind].norm == "L2" else "epsilon"
    app = opened("robustness", attacks=KINDS[kind].label, samples="3", pgd_steps="2", queries="3", **{field: "1"})
    if can_run(app):  # a verdict before may have found it out
        run_button(app).click().run()
    columns = table_columns(finished(app))
    assert ["none (clean)", KINDS[kind].label] in columns
    accuracy = next(column for column in columns if str(column[0]).endswith("%"))[1]
    points = drawn(app, "sweep_l2" if KINDS[kind].norm == "L2" else "sweep_attack")
    assert any(point.shape == (1,) and show.share(float(point[0]) / 100) == accuracy for point in points)


def test_verdict_on_a_sweep(runs):
    """It comes unasked; the evidence is the engine's own, to the digit."""
    app = opened("robustness", attacks="FGSM", epsilon="30", samples="4", encodings="1")
    run_button(app).click().run()
    finished(app)  # the sweep; the verdict begins with its last point
    finished(app)
    checkpoint, (pixels, labels) = checkpoint_of("runs/tiny", runs), get("digits").load("test")
    shared = {"pixels": pixels, "labels": labels, "mean": checkpoint.mean, "std": checkpoint.std, "seed": 0}
    shared["model"] = checkpoint.model
    measured = {
        name: (attack, robustness.answers(attack_rows(attack, 0, 4, **shared)))
        for name, attack in verdict.attacks(30 / 255, Attacker()).items()
    }
    answers = {name: share for name, (_, share) in measured.items()}
    _, curves = verdict.of_sweep(dict([measured["clean"], measured["fgsm"]]), 30 / 255, Attacker())
    zeros = verdict.zero_gradients(Attacker(), 0, 4, **shared)
    checks = verdict.verdict(answers, zeros, 30 / 255, 10, curves=curves)
    (evidence,) = (table.value for table in app.main.table)
    assert evidence["Measured"].tolist() == [check.found for check in checks]
    told = [*app.main.error, *app.main.success, *app.main.info]
    assert len(told) == 1 and ("probably an artefact" in told[0].value) == verdict.artefact(checks)


def test_a_costly_verdict_is_asked_for(runs, monkeypatch):
    """What the sweep's own points and one look at the gradients tell is there; the rest has a button."""
    monkeypatch.setattr(evaluation, "affordable", lambda config: 100)
    app = opened("robustness", attacks="FGSM", epsilon="31", samples="3", encodings="1")
    run_button(app).click().run()
    finished(app)
    finished(app)
    (evidence,) = (table.value for table in app.main.table)
    made = evidence["Measured"] != ""
    assert made[made].index.tolist() == ["The attacker sees a gradient", "Accuracy does not rise with ε"]
    healthy(app.button(key="run_verdict").click().run())
    (evidence,) = (table.value for table in finished(app).main.table)
    assert (evidence["Measured"] != "").sum() == 7 and "run_verdict" not in [button.key for button in app.button]


def test_verdict_is_for_attacks_alone():
    app = opened("robustness", attacks="Gaussian noise", sigma="0.3", samples="4")
    run_button(app).click().run()
    assert "Is this robustness real?" not in [heading.value for heading in finished(app).subheader]


def test_sweep_can_be_cancelled():
    """PGD on every sample at four strengths: minutes of work."""
    app = opened("robustness", "bundled/digits")
    app.button_group(key="attacks").set_value(["pgd"]).run()
    app.number_input(key="samples").set_value(399).run()
    earlier = set(work.jobs().all())
    run_button(app).click().run()
    (job,) = (job for job in work.jobs().all() if job not in earlier)
    assert job.state not in OVER
    healthy(app.button(key=f"cancel {job.key}").click().run())
    assert job.state == "cancelled" and can_run(app)


@pytest.mark.parametrize("kind", ["gaussian", "fgsm", "pgd"])
def test_one_sample_closely(kind, runs):
    app = opened("robustness")
    app.button_group(key="attacks").set_value([kind]).run()
    app.number_input(key="sample").set_value(5).run()
    app.text_input(key="sigma" if kind == "gaussian" else "epsilon").set_value(
        "0.3" if kind == "gaussian" else "8"
    ).run()
    finished(app)
    checkpoint, (pixels, labels) = checkpoint_of("runs/tiny", runs), get("digits").load("test")
    attack = Attack(kind, 0.3) if kind == "gaussian" else Attack(kind, 8 / 255)
    shared = {"pixels": pixels, "labels": labels, "mean": checkpoint.mean, "std": checkpoint.std, "seed": 0}
    close = robustness.closeup(attack, 5, model=checkpoint.model, **shared)
    assert f"{255 * np.abs(close.attacked - close.clean).max():.1f}/255" in said(app)
    for result in (close.clean_result, close.attacked_result):
        assert_drawn(app, "closeup_spikes", result.mean_spikes().sum(0))


@pytest.mark.parametrize("page", ["overview", "early_exit", "robustness"])
def test_workers_that_cannot_start_are_told(page, monkeypatch, tmp_path):
    """A cluster's address at which nobody answers: a sentence, at the first try and at later ones."""
    monkeypatch.setenv("BNTT_SCHEDULER", "tcp://127.0.0.1:9")
    monkeypatch.setenv("BNTT_STORE", str(tmp_path))  # nothing is known without them
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.5)
    work.jobs().close()
    work.jobs.clear()
    try:
        app = opened(page)
        work.jobs().start()
        told = [error.value for _ in range(3) for error in finished(app).error]
        assert told and all("127.0.0.1:9" in sentence and "\n" not in sentence for sentence in told)
        assert app.title[0].value == TITLES[page]
    finally:
        work.jobs().close()
        work.jobs.clear()
