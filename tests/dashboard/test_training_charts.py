"""Charts of trainings and of several runs: their data equal the tables, nothing jumps while epochs arrive, runs keep
their colours, long names stay apart."""

import json
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from dashboard.charts import comparison, run_looks, theme, training

EPOCHS, T = 12, 25
LONG = "baselines/vgg9-cifar10-bntt-T25-lambda095-seed{}-lr0.1-cosine-a"
EIGHT = [
    "mine",
    *(LONG.format(seed) for seed in range(3)),
    "a/b",
    "ann",
    "baselines/tdbn",
    "experiments/2026-05-01/resnet19-warmup",
]
LAYERS = ["conv1", "conv2", "conv10", "fc1"]


def metrics(runs=("mine", "baselines/bn"), epochs: int = EPOCHS) -> pd.DataFrame:
    """Odd runs have no validation samples."""
    rows = [
        (
            run,
            epoch,
            2.3 * 0.97**epoch + 0.1 * place,
            0.9 - 0.7 * 0.8**epoch,
            (0.85 - 0.7 * 0.8**epoch) if place % 2 == 0 else np.nan,
            0.1 if epoch < 6 else 0.01,
        )
        for place, run in enumerate(runs)
        for epoch in range(1, epochs + 1)
    ]
    return pd.DataFrame(rows, columns=["run", "epoch", "loss", "train_accuracy", "validation_accuracy", "lr"])


def grid(name: str, epochs: int = EPOCHS, steps: int = T) -> pd.DataFrame:
    """Something between 0 and 1 for each epoch and timestep."""
    values = np.random.default_rng(0).random((100, steps))[:epochs]
    epoch, step = np.indices(values.shape) + 1
    return pd.DataFrame({"epoch": epoch.ravel(), "step": step.ravel(), name: values.ravel()})


def rates(epochs: int = EPOCHS) -> pd.DataFrame:
    rows = [
        (epoch, layer, 0.2 / (place + epoch)) for epoch in range(1, epochs + 1) for place, layer in enumerate(LAYERS)
    ]
    return pd.DataFrame(rows, columns=["epoch", "layer", "rate"])


def exits(runs=("mine", "baselines/bn"), steps=(T, 10)) -> pd.DataFrame:
    rows = [(run, t, 0.95 - 0.8 * 0.7**t) for run, last in zip(runs, steps, strict=True) for t in range(1, last + 1)]
    table = pd.DataFrame(rows, columns=["run", "step", "accuracy"])
    return table.assign(low=table["accuracy"] - 0.02, high=table["accuracy"] + 0.01)


def attacked(runs=("mine", "baselines/bn")) -> pd.DataFrame:
    rows = [(run, "FGSM", e, 0.9 - 0.05 * e - 0.01 * place) for place, run in enumerate(runs) for e in (0, 2, 4, 8)]
    table = pd.DataFrame(rows, columns=["run", "attack", "strength", "accuracy"])
    return table.assign(low=table["accuracy"] - 0.03, high=table["accuracy"] + 0.02)


def points(runs=("mine", "baselines/bn")) -> pd.DataFrame:
    rows = [(run, 0.9 - 0.01 * place, 100.0 * (place + 1)) for place, run in enumerate(runs)]
    return pd.DataFrame(rows, columns=["run", "accuracy", "energy_nj"])


def gammas(layers=LAYERS, steps: int = T, seed: int = 1) -> pd.DataFrame:
    values = np.random.default_rng(seed).random((len(layers), steps))
    rows = [(layer, t + 1, values[place, t]) for place, layer in enumerate(layers) for t in range(steps)]
    return pd.DataFrame(rows, columns=["layer", "step", "value"])


def growing(epochs: int, steps: int = T, planned: int = 100, runs=("mine", "baselines/bn")) -> dict:
    """Each chart of a training after so many of the planned epochs."""
    table = metrics(runs, epochs)
    return {
        "loss": training.loss_curves(table, planned),
        "accuracy": training.accuracy_curves(table, planned, chance=0.1),
        "lr": training.learning_rate(table, planned),
        "rates": training.firing_rates(rates(epochs), planned),
        "exits": training.exit_accuracy(grid("accuracy", epochs, steps), planned),
        "gamma": training.gamma_growth(grid("value", epochs, steps), "mean γ", planned, 0.1),
    }


def compared(runs=("mine", "baselines/bn"), steps: int = T) -> dict:
    return {
        "exit curves": comparison.exit_curves(exits(runs, [max(1, steps - 3 * i) for i in range(len(runs))])),
        "robustness": comparison.robustness_curves(attacked(runs), "ε (1/255)"),
        "difference": comparison.gamma_difference(gammas(steps=steps), gammas(steps=steps, seed=2), ("mine", "other")),
        "energy": comparison.accuracy_energy(points(runs)),
    }


def named(fig, name: str) -> list:
    return [trace for trace in fig.data if trace.name == name]


def texts(fig) -> list[str]:
    return [note.text for note in fig.layout.annotations]


# ---- what holds for all of them


@pytest.mark.parametrize(
    ("epochs", "steps", "runs"),
    [(1, 1, ["mine"]), (1, T, EIGHT), (100, 50, EIGHT), (100, 1, ["mine"]), (5, 2, EIGHT[:3])],
)
def test_every_chart_draws_at_any_size(epochs, steps, runs):
    for name, fig in {**growing(epochs, steps, runs=runs), **compared(runs, steps)}.items():
        text = fig.to_json()
        layout = json.loads(text)["layout"]
        assert len(text) < 120_000, name
        assert 90 <= layout["height"] <= 700 and layout["uirevision"], name
        assert "title" not in layout and layout["paper_bgcolor"] == theme.CLEAR, name
        assert layout["legend"]["yref"] == "container" and layout["legend"]["y"] == 0, name
        for trace in fig.data:
            key = trace.x is not None and len(trace.x) == 1 and trace.x[0] is None
            assert key or trace.hoverinfo == "skip" or trace.hovertemplate.endswith("<extra></extra>"), name
            assert trace.showlegend is False or len(trace.name or "") <= 44, name  # fits a phone


@pytest.mark.parametrize(
    ("name", "x", "y"),
    [
        ("loss", "epoch", "training loss"),
        ("accuracy", "epoch", "accuracy (%)"),
        ("lr", "epoch", "learning rate"),
        ("rates", "epoch", "spikes per neuron per timestep"),
        ("exits", "exit step t", "epoch"),
        ("gamma", "timestep t", "epoch"),
        ("exit curves", "exit step t", "accuracy (%)"),
        ("robustness", "ε (1/255)", "accuracy (%)"),
        ("difference", "timestep t", None),
        ("energy", "energy per sample (nJ)", "accuracy (%)"),
    ],
)
def test_axes_say_what_and_in_which_unit(name, x, y):
    fig = {**growing(3), **compared()}[name]
    assert (fig.layout.xaxis.title.text, fig.layout.yaxis.title.text) == (x, y)


@pytest.mark.parametrize("name", list(growing(1)))
def test_nothing_jumps_while_epochs_arrive(name):
    """Ranges that change would undo a zoom: plotly keeps it only while range and uirevision stay what they were."""
    figs = [growing(epochs)[name] for epochs in (3, 4, 50, 100)]
    axes = [(f.layout.xaxis.range, f.layout.yaxis.range, f.layout.uirevision, f.layout.height) for f in figs]
    assert len(set(axes)) == (2 if name == "lr" else 1)  # the learning rate turns logarithmic, once, when it drops
    whole = figs[0].layout.yaxis if name in ("exits", "gamma") else figs[0].layout.xaxis
    assert min(whole.range) < 1 and max(whole.range) > 100


@pytest.mark.parametrize("name", list(growing(1)))
def test_epochs_beyond_the_plan_are_shown(name):
    fig = growing(20, planned=10)[name]
    axis = fig.layout.yaxis if name in ("exits", "gamma") else fig.layout.xaxis
    assert max(axis.range) > 20


@pytest.mark.parametrize(
    "draw",
    [
        lambda none: training.loss_curves(none, 10),
        lambda none: training.accuracy_curves(none, 10),
        lambda none: training.learning_rate(none, 10),
        lambda none: training.firing_rates(none, 10),
        lambda none: training.exit_accuracy(none, 10),
        lambda none: training.gamma_growth(none, "mean γ", 10, 0.1),
        lambda none: comparison.exit_curves(none),
        lambda none: comparison.robustness_curves(none, "σ"),
        lambda none: comparison.gamma_difference(none, gammas(), ("a", "b")),
        lambda none: comparison.gamma_difference(gammas(), none, ("a", "b")),
        lambda none: comparison.accuracy_energy(none),
        lambda none: training.loss_curves(metrics().assign(loss=np.nan), 10),
        lambda none: training.loss_curves(metrics().assign(loss=np.inf), 10),
        lambda none: training.accuracy_curves(metrics(["x"]).assign(train_accuracy=None, validation_accuracy=None), 9),
        lambda none: training.firing_rates(rates().assign(rate=np.nan), 10),
        lambda none: training.exit_accuracy(grid("accuracy").assign(accuracy=np.nan), 10),
        lambda none: training.gamma_growth(grid("value").assign(value=np.nan), "mean γ", 10),
        lambda none: comparison.exit_curves(exits().assign(accuracy=np.nan)),
        lambda none: comparison.accuracy_energy(points().assign(energy_nj=np.nan)),
        lambda none: comparison.gamma_difference(gammas(["conv1"]), gammas(["fc1"]), ("a", "b")),
        lambda none: comparison.gamma_difference(gammas(steps=3), gammas(steps=6).query("step > 3"), ("a", "b")),
    ],
)  # fmt: skip
def test_nothing_to_draw_is_said_in_a_sentence(draw):
    fig = draw(pd.DataFrame())
    assert len(texts(fig)) == 1 and texts(fig)[0].startswith("No ") and not fig.data
    assert not fig.layout.xaxis.visible


# ---- colours and names of runs


def colours(fig) -> dict[str, str]:
    return {t.name: t.line.color or t.marker.color for t in fig.data if t.name and t.showlegend is not False}


def test_a_run_keeps_its_colour_in_every_chart_whatever_else_is_shown():
    kept = run_looks.places(["a", "b"])
    kept = run_looks.places(["new", "a", "b"], kept)  # a newer one in front
    assert kept["a"] == 0 and kept["b"] == 1
    wanted = {run: run_looks.COLOURS[place] for run, place in kept.items()}
    for runs in (["a", "b"], ["b"], ["new", "a", "b"], ["b", "new"]):
        figs = [
            training.loss_curves(metrics(runs), 12, kept),
            training.accuracy_curves(metrics(runs), 12, kept),
            training.learning_rate(metrics(runs), 12, kept),
            comparison.exit_curves(exits(runs, [5] * len(runs)), kept),
            comparison.robustness_curves(attacked(runs), "ε", kept),
            comparison.accuracy_energy(points(runs), kept),
        ]
        for fig in figs:
            found = {name: color for name, color in colours(fig).items() if name in kept}
            assert found == {run: wanted[run] for run in runs if len(runs) > 1 or run in found}


@pytest.mark.parametrize(
    "draw",
    [
        lambda runs, count: training.loss_curves(metrics(runs, count), 12),
        lambda runs, count: training.accuracy_curves(metrics(runs, count), 12),
        lambda runs, count: comparison.exit_curves(exits(runs, [count] * len(runs))),
        lambda runs, count: comparison.robustness_curves(attacked(runs), "ε"),
        lambda runs, count: comparison.accuracy_energy(points(runs)),
    ],
)
def test_what_a_click_has_hidden_comes_back_with_other_runs_but_not_with_other_epochs(draw):
    """Plotly keeps it as long as `legend.uirevision` stays the same, and knows a line by its place alone."""
    one, grown, other = (
        draw(*args).layout.legend.uirevision for args in ((["a", "b"], 5), (["a", "b"], 9), (["c", "a", "b"], 9))
    )
    assert one == grown != other


def test_places_that_became_free_are_given_again():
    kept = run_looks.places(["a", "b", "c"])
    kept = run_looks.places(["a", "c"], kept)
    assert kept == {"a": 0, "c": 2}
    assert run_looks.places(["d", "c", "e", "a"], kept) == {"d": 1, "c": 2, "e": 3, "a": 0}


def test_runs_that_the_page_did_not_name_look_like_no_other():
    found = run_looks.looks(["x", "b", "y"], {"a": 0, "b": 1})
    assert list(found) == ["x", "b", "y"]
    assert [look.color for look in found.values()] == [run_looks.COLOURS[place] for place in (2, 1, 3)]


def test_many_runs_all_look_different():
    looks = run_looks.looks(f"run {i}" for i in range(30)).values()
    assert len({(look.color, look.dash) for look in looks}) == 30
    assert len({(look.color, look.symbol) for look in list(looks)[:8]}) == 8


def linear_rgb(color: str) -> np.ndarray:
    """sRGB "#RRGGBB" to linear light, IEC 61966-2-1."""
    share = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def oklab(linear: np.ndarray) -> np.ndarray:
    """Björn Ottosson, "A perceptual color space for image processing", 2020."""
    lms = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                    [0.0883024619, 0.2817188376, 0.6299787005]]) @ linear.clip(0, 1)  # fmt: skip
    return np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                     [0.0259040371, 0.7827717662, -0.8086757660]]) @ np.cbrt(lms)  # fmt: skip


def test_colours_of_runs_stay_apart_for_colour_blind_eyes_on_light_and_dark():
    # Full deuteranopia and protanopia in linear light: Machado, Oliveira, Fernandes 2009, severity 1.0.
    deutan = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    protan = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    for sight in (np.eye(3), deutan, protan):
        seen = [oklab(np.array(sight) @ linear_rgb(color)) for color in run_looks.COLOURS]
        assert min(np.linalg.norm(one - two) for one, two in combinations(seen, 2)) > 0.09
    for color in run_looks.COLOURS:
        light = linear_rgb(color) @ [0.2126, 0.7152, 0.0722]
        assert 1.05 / (light + 0.05) > 2.4 and (light + 0.05) / (0.006 + 0.05) > 2.4  # on white, on #0E1117


def test_long_names_are_cut_in_the_middle():
    name = "experiments/2026-05-01/resnet19-tiny-imagenet-with-warmup-T50"
    (cut,) = run_looks.short([name])
    head, tail = cut.split("…")
    assert (
        len(cut) <= run_looks.LIMIT and name.startswith(head) and name.endswith(tail) and abs(len(head) - len(tail)) < 3
    )
    assert run_looks.short(["short", "a/b"]) == ["short", "a/b"]


@pytest.mark.parametrize(
    "names",
    [
        [LONG.format(seed) for seed in range(8)],
        ["a" * 60, "a" * 59, "a" * 58],
        [f"{'x' * 20}{i}{'y' * 39}" for i in range(5)],
        [f"{'x' * 30}{i}{'y' * 20}{j}{'z' * 8}" for i in range(3) for j in range(3)],
        ["x" * 60, run_looks.short(["x" * 60])[0]],
        ["".join(word) for word in np.random.default_rng(0).choice(list("ab/"), (40, 60))],
    ],
)
def test_cut_names_stay_apart_and_fit(names):
    cut = run_looks.short(names)
    assert len(set(cut)) == len(names) and max(map(len, cut)) <= run_looks.LIMIT + 4


def test_names_that_differ_in_the_middle_show_where():
    cut = run_looks.short([LONG.format(0), LONG.format(1)])
    assert "seed0" in cut[0] and "seed1" in cut[1]


# ---- curves over the epochs


@pytest.mark.parametrize(("draw", "name"), [(training.loss_curves, "loss"), (training.learning_rate, "lr")])
def test_lines_of_runs_show_the_table(draw, name):
    table = metrics(EIGHT)
    fig = draw(table.sample(frac=1, random_state=0).sort_values("run", key=lambda c: c.map(EIGHT.index)), 30)
    for trace, run in zip(fig.data, EIGHT, strict=True):
        part = table[table["run"] == run]
        assert list(trace.x) == part["epoch"].tolist()
        np.testing.assert_allclose(trace.y, part[name], rtol=1e-6)
    assert [trace.name for trace in fig.data] == run_looks.short(EIGHT)
    assert fig.layout.yaxis.range is None and fig.layout.yaxis.autorange is None  # plotly fits it to all data


@pytest.mark.parametrize(
    ("losses", "kind"),
    [([2.0, 0.021], None), ([2.0, 0.019], "log"), ([2.0, 0.0], None), ([2.0, np.nan, 0.001], "log"), ([0.5], None)],
)
def test_losses_over_two_decades_get_a_logarithmic_axis(losses, kind):
    table = pd.DataFrame({"run": "mine", "epoch": range(1, len(losses) + 1), "loss": losses})
    fig = training.loss_curves(table, 10)
    assert fig.layout.yaxis.type == kind
    np.testing.assert_array_equal(np.isnan(fig.data[0].y), np.isnan(losses))


def test_the_learning_rate_is_drawn_in_steps():
    fig = training.learning_rate(metrics(["mine"]), EPOCHS)
    assert fig.data[0].line.shape == "hvh" and fig.layout.yaxis.type == "log" and not fig.layout.showlegend


def test_a_first_epoch_and_a_point_between_gaps_can_be_seen():
    assert training.loss_curves(metrics(["mine"], 1), 30).data[0].mode == "lines+markers"
    table = metrics(["mine"])
    table.loc[table["epoch"] != 5, "loss"] = np.nan
    assert training.loss_curves(table, 30).data[0].mode == "lines+markers"


def test_accuracy_curves_tell_training_from_validation():
    table = metrics()
    fig = training.accuracy_curves(table, 30, chance=0.1)
    train, validation = named(fig, "mine")
    (only,) = named(fig, "baselines/bn")
    for trace, run, column in (
        (train, "mine", "train_accuracy"),
        (validation, "mine", "validation_accuracy"),
        (only, "baselines/bn", "train_accuracy"),
    ):
        np.testing.assert_allclose(trace.y, 100 * table.loc[table["run"] == run, column], rtol=1e-6)
    assert train.line.color == validation.line.color != only.line.color
    assert validation.line.width > 2 * train.line.width
    assert colours(fig) == {
        "mine": run_looks.COLOURS[0],
        "baselines/bn": run_looks.COLOURS[1],
        "training": theme.MUTED,
        "validation": theme.MUTED,
    }
    assert train.legendgroup == validation.legendgroup  # a click in the legend hides both
    assert texts(fig) == ["chance 10 %"] and fig.layout.shapes[0].y0 == pytest.approx(10)


def test_accuracy_of_one_run_needs_no_name():
    fig = training.accuracy_curves(metrics(["mine"]), 30)
    assert [trace.name for trace in fig.data] == ["training", "validation"]
    assert {trace.line.color for trace in fig.data} == {run_looks.COLOURS[0]}
    assert not training.accuracy_curves(metrics(["mine"]).assign(validation_accuracy=np.nan), 30).layout.showlegend


@pytest.mark.parametrize("lowest", [0.0, 0.3, 0.5, 0.79, 0.93, 0.995, 1.0])
def test_the_axis_of_accuracies_holds_them_all_and_does_not_waste_room(lowest):
    table = metrics(["mine"]).assign(train_accuracy=np.linspace(lowest, 1, EPOCHS), validation_accuracy=np.nan)
    fig = training.accuracy_curves(table, 30, chance=0.1)
    low, high = fig.layout.yaxis.range
    assert low < 100 * lowest and high > 100 and (high - low) < max(8, 3 * (100 - 100 * lowest))
    assert bool(texts(fig)) == (low < 10)


def test_firing_rates_show_each_layer_in_order():
    table = rates()
    table = table[(table["layer"] != "conv2") | (table["epoch"] != 4)]
    fig = training.firing_rates(table, 30)
    for trace, layer in zip(fig.data, LAYERS, strict=True):
        expected = np.full(EPOCHS, np.nan)
        for row in table[table["layer"] == layer].itertuples():
            expected[row.epoch - 1] = row.rate
        np.testing.assert_allclose(trace.y, expected, rtol=1e-6)
        assert trace.name == layer and list(trace.x) == list(range(1, EPOCHS + 1))
    assert fig.layout.yaxis.range is None and fig.layout.yaxis.rangemode == "tozero"


# ---- maps that grow


def filled(table: pd.DataFrame, name: str, scale: float = 1.0) -> np.ndarray:
    expected = np.full((table["epoch"].max(), table["step"].max()), np.nan)
    for row in table.to_dict("records"):
        expected[row["epoch"] - 1, row["step"] - 1] = scale * row[name]
    return expected


def test_exit_accuracy_shows_the_table_with_the_first_epoch_on_top():
    table = grid("accuracy").drop(index=[30, 31, 77]).sample(frac=1, random_state=0)
    fig = training.exit_accuracy(table, 30)
    (heat,) = fig.data
    np.testing.assert_allclose(heat.z, filled(table, "accuracy", 100), rtol=1e-6)
    assert (heat.x0, heat.dx, heat.y0, heat.dy, heat.zmin, heat.zmax) == (1, 1, 1, 1, 0, 100)
    assert fig.layout.yaxis.range == (30.5, 0.5)


@pytest.mark.parametrize("epochs", [1, 2, 5, 12, 30, 100, 150, 400, 1000])
def test_rows_of_a_map_are_whole_pixels_and_the_map_has_a_reasonable_height(epochs):
    fig = training.exit_accuracy(grid("accuracy", 1), epochs)
    plot = fig.layout.height - theme.FOOT - 10
    assert 96 <= plot <= training.MAP
    assert plot % epochs == 0 or plot == 96 or epochs > training.MAP


def test_gamma_growth_outlines_what_is_below_the_threshold():
    table = grid("value", 6, 8).assign(value=1.0)
    table.loc[(table["epoch"] == 3) & (table["step"] == 5), "value"] = 0.05
    heat, outline = training.gamma_growth(table, "mean γ of conv1", 10, 0.1).data
    np.testing.assert_allclose(heat.z, filled(table, "value"), rtol=1e-6)
    ends = zip(outline.x[::3], outline.y[::3], outline.x[1::3], outline.y[1::3], strict=True)
    corners = [(4.5, 2.5), (5.5, 2.5), (4.5, 3.5), (5.5, 3.5)]  # of the cell epoch 3, t = 5
    edges = {
        frozenset(pair) for pair in combinations(corners, 2) if (pair[0][0] == pair[1][0]) ^ (pair[0][1] == pair[1][1])
    }
    assert {frozenset([(x0, y0), (x1, y1)]) for x0, y0, x1, y1 in ends} == edges
    assert outline.name == "below 0.1" and outline.line.color == theme.RULE
    assert "mean γ of conv1" in heat.hovertemplate and heat.colorbar.title.text == "mean γ of conv1"


def test_gamma_growth_without_anything_below_or_without_a_threshold():
    table = grid("value", 6, 8).assign(value=0.7)
    assert training.gamma_growth(table, "mean γ", 10, 0.1).data[1].name == "below 0.1: nowhere"
    assert len(training.gamma_growth(table, "mean γ", 10).data) == 1


# ---- runs side by side


def test_exit_curves_show_runs_of_different_length_with_their_bands():
    table = exits()
    fig = comparison.exit_curves(table)
    bands = [trace for trace in fig.data if trace.fill == "toself"]
    for band, run in zip(bands, ("mine", "baselines/bn"), strict=True):
        part = table[table["run"] == run]
        (line,) = named(fig, run)
        np.testing.assert_allclose(line.y, 100 * part["accuracy"], rtol=1e-6)
        assert list(line.x) == part["step"].tolist() and line.legendgroup == band.legendgroup
        around = [*zip(part["step"], 100 * part["low"]), *reversed([*zip(part["step"], 100 * part["high"])])]
        np.testing.assert_allclose(np.stack([band.x, band.y], 1)[: len(around)], around, rtol=1e-6)
        assert np.isnan(band.x[-1]) and len(band.x) == len(around) + 2
    known = 100 * table[["low", "high"]].to_numpy()
    low, high = fig.layout.yaxis.range
    assert low < known.min() and high > known.max() and max(fig.layout.xaxis.range) > T
    assert fig.layout.hovermode == "x unified"


def test_bands_break_where_an_interval_is_unknown():
    table = exits(["mine"], [9])
    table.loc[table["step"].isin([4, 6]), ["low", "high"]] = np.nan
    band, line = comparison.exit_curves(table).data
    breaks = np.flatnonzero(np.isnan(band.x))
    pieces = [sorted(set(piece[np.isfinite(piece)].tolist())) for piece in np.split(band.x, breaks)]
    assert pieces[0] == [1, 2, 3] and pieces[2] == [7, 8, 9] and not pieces[3]
    assert pieces[1] == pytest.approx([4.8, 5.2])  # a single step has some width
    assert list(line.text)[3] == "" and "%" in line.text[4]
    nothing, line = comparison.exit_curves(exits(["mine"], [9]).assign(low=np.nan, high=np.nan)).data
    assert len(nothing.x) == 0 and np.isfinite(line.y).all()


def test_a_network_without_time_is_a_point_among_the_curves():
    fig = comparison.exit_curves(exits(["mine", "ann"], [T, 1]))
    (point,) = named(fig, "ann")
    assert point.mode == "lines+markers" and list(point.x) == [1]


def test_the_box_of_many_runs_has_no_intervals():
    few, many = (comparison.exit_curves(exits(EIGHT[:count], [5] * count)) for count in (4, 5))
    assert "text" in few.data[-1].hovertemplate and "text" not in many.data[-1].hovertemplate


def test_robustness_curves_show_intervals():
    table = attacked(EIGHT)
    table.loc[table["run"] == "ann", ["low", "high"]] = np.nan
    fig = comparison.robustness_curves(table, "ε (1/255)")
    for trace, run in zip(fig.data, EIGHT, strict=True):
        part = table[table["run"] == run]
        assert list(trace.x) == [0, 2, 4, 8]
        np.testing.assert_allclose(trace.y, 100 * part["accuracy"], rtol=1e-6)
        np.testing.assert_allclose(trace.y + trace.error_y.array, 100 * part["high"], rtol=1e-5)
        np.testing.assert_allclose(trace.y - trace.error_y.arrayminus, 100 * part["low"], rtol=1e-5)
        assert (trace.text[0] == "") == (run == "ann") and "FGSM" in trace.hovertemplate
    low, high = fig.layout.xaxis.range
    assert low < 0 and high > 8 and fig.layout.yaxis.range[0] < 0 and fig.layout.yaxis.range[1] > 100
    assert len({trace.marker.symbol for trace in fig.data}) == 8


def test_gamma_difference_is_a_less_b_where_both_have_a_value():
    a, b = gammas(["conv1", "conv2", "conv10", "fc1"], 6), gammas(["fc1", "conv10", "extra", "conv1"], 4, seed=2)
    b = b[~((b["layer"] == "fc1") & (b["step"] == 2))]
    fig = comparison.gamma_difference(a, b, ("mine", LONG.format(0)))
    heat = fig.data[0]
    of_a, of_b = ({(row.layer, row.step): row.value for row in table.itertuples()} for table in (a, b))
    assert list(fig.layout.yaxis.ticktext) == ["conv1", "conv10", "fc1"]
    assert heat.z.shape == (3, 6)
    for place, layer in enumerate(["conv1", "conv10", "fc1"]):
        for t in range(1, 7):
            both = (layer, t) in of_a and (layer, t) in of_b
            expected = of_a[layer, t] - of_b[layer, t] if both else np.nan
            np.testing.assert_allclose(heat.z[place, t - 1], expected, rtol=1e-4, atol=1e-6)
    assert heat.zmax == -heat.zmin == np.nanmax(np.abs(heat.z))
    assert heat.colorscale[3][1] == theme.DIVERGING[3] and heat.colorscale[3][0] == 0.5  # the middle is nearly white
    red, blue = fig.data[1:]
    assert red.name == "higher in mine" and red.marker.color == theme.DIVERGING[-2]
    assert blue.name == f"higher in {run_looks.short([LONG.format(0)])[0]}"
    assert texts(fig) == ["both up to t = 4"] and fig.layout.shapes[0].x0 == 4.5


def test_equal_runs_differ_by_nothing():
    fig = comparison.gamma_difference(gammas(), gammas(), ("a", "b"))
    assert not fig.data[0].z.any() and (fig.data[0].zmin, fig.data[0].zmax) == (-1, 1)
    assert not texts(fig) and not fig.layout.shapes


@pytest.mark.parametrize(("scale", "unit", "shown"), [(1, "nJ", 1), (10, "µJ", 0.01)])
def test_accuracy_against_energy_has_a_point_for_each_run(scale, unit, shown):
    table = points(EIGHT)
    table["energy_nj"] *= scale
    table.loc[2, "energy_nj"] = np.nan
    fig = comparison.accuracy_energy(table)
    known = table.drop(index=2)
    for trace, row in zip(fig.data, known.itertuples(), strict=True):
        assert trace.x[0] == pytest.approx(row.energy_nj / scale * shown)
        assert trace.y[0] == pytest.approx(100 * row.accuracy)
    assert fig.layout.xaxis.title.text == f"energy per sample ({unit})"
    for axis, name in ((fig.layout.xaxis, "x"), (fig.layout.yaxis, "y")):
        values = [getattr(trace, name)[0] for trace in fig.data]
        assert axis.range[0] < min(values) and axis.range[1] > max(values)
