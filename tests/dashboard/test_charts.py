"""The charts: their data equal the frames, axes carry units, marks stand where they should, odd input still draws."""

import ast
import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dashboard.charts import baselines, early_exit, exit_rules, gamma, robustness, spikes, theme

T, CHANNELS = 25, 12
LAYERS = ["conv1", "conv2", "conv3", "fc1"]


def layer_frame(value: str = "value", steps: int = T, layers: list[str] = LAYERS) -> pd.DataFrame:
    """γ as the paper describes it: peaks early in shallow layers, later in deep ones, then fades."""
    t = np.arange(1, steps + 1)
    parts = [
        pd.DataFrame({"layer": name, "step": t, value: np.exp(-(((t - 1 - 2 * place) / (3 + place)) ** 2))})
        for place, name in enumerate(layers)
    ]
    return pd.concat(parts, ignore_index=True)


def channel_values(steps: int = T, channels: int = CHANNELS) -> np.ndarray:
    return np.random.default_rng(0).random((steps, channels), dtype=np.float32)


def quantile_frame(steps: int = T) -> pd.DataFrame:
    values = channel_values(steps, 40)
    names = ["min", "p05", "p25", "median", "p75", "p95", "max"]
    table = dict(zip(names, np.quantile(values, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1], axis=1), strict=True))
    return pd.DataFrame({"step": np.arange(1, steps + 1), **table, "mean": values.mean(axis=1)})


def exit_frame(steps: int = T) -> pd.DataFrame:
    t = np.arange(1, steps + 1)
    accuracy = 0.99 - 0.8 * np.exp(-t / 2)
    costs = {"spikes": 1000.0 * np.sqrt(t), "energy_nj": 30.0 * t**0.7, "latency_ms": 0.3 + 0.2 * t}
    return pd.DataFrame({"step": t, "accuracy": accuracy, "low": accuracy - 0.02, "high": accuracy + 0.01, **costs})


def membrane_frame(steps: int = T, threshold: float = 1.0) -> pd.DataFrame:
    rng, u, rows = np.random.default_rng(5), 0.0, []
    for step in range(1, steps + 1):
        before = u = 0.95 * u + rng.normal(0.3, 0.3)
        fired = u > threshold
        u -= threshold * fired
        rows.append((step, before, u, bool(fired)))
    return pd.DataFrame(rows, columns=["step", "before", "after", "spike"])


def score_frame(steps: int = T, classes: int = 10) -> pd.DataFrame:
    scores = np.random.default_rng(6).normal(size=(steps, classes)).cumsum(axis=0)
    share = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    rows = [(t + 1, f"class {k}", share[t, k]) for t in range(steps) for k in range(classes)]
    return pd.DataFrame(rows, columns=["step", "class_name", "probability"])


def bar_frame() -> pd.DataFrame:
    rows = [(layer, name, 100.0 * (i + 1)) for i, layer in enumerate(LAYERS) for name in ("clean", "FGSM ε = 8/255")]
    return pd.DataFrame(rows, columns=["layer", "condition", "spikes"])


def sweep_frame(points: int = 4) -> pd.DataFrame:
    rows = [(attack, eps, 0.9 - 0.05 * eps, 0.85 - 0.05 * eps, 0.92 - 0.05 * eps, 100)
            for attack in ("FGSM", "PGD") for eps in range(points)]  # fmt: skip
    return pd.DataFrame(rows, columns=["attack", "strength", "accuracy", "low", "high", "samples"])


def curve_frame(steps: int = T) -> pd.DataFrame:
    rows = [("FGSM", eps, t, 0.9 * (1 - 0.5**t) / (1 + eps)) for eps in (0, 4, 8) for t in range(1, steps + 1)]
    return pd.DataFrame(rows, columns=["attack", "strength", "step", "accuracy"])


def exits_frame(classes: int = 10, steps: int = T) -> pd.DataFrame:
    """Samples that leave: class k at step k + 1 (k + 1 of them), and one of each class at T."""
    early = [(k, min(k, steps - 1) + 1, k + 1, k) for k in range(classes)]
    late = [(k, steps, 1, 0) for k in range(classes) if min(k, steps - 1) + 1 != steps]
    return pd.DataFrame(early + late, columns=["label", "step", "samples", "correct"])


RULE_TITLES = {"fixed": "fixed step", "confidence": "confidence"}


def front_frame(steps: int = T) -> pd.DataFrame:
    rows = [(rule, t, 0.9 * (1 - 0.5**t) + (rule != "fixed") * 0.05, t - 0.1, 900.0 * t, 400.0 * t)
            for rule in RULE_TITLES for t in range(1, steps + 1)]  # fmt: skip
    return pd.DataFrame(rows, columns=["rule", "threshold", "accuracy", "mean_step", "spikes", "energy_nj"])


def front_marks() -> pd.DataFrame:
    point = {"accuracy": 0.9, "mean_step": 1.0, "spikes": 500.0, "energy_nj": 800.0}
    return pd.DataFrame(
        [
            {"name": "γ rule, t = 1", "color": theme.RULE, "symbol": "diamond", **point},
            {"name": "your choice", "color": theme.EXIT, "symbol": "circle", **point},
        ]
    )


def disturbed_frame(steps: int = T) -> pd.DataFrame:
    rows = [(t, 1 / steps, name) for name in ("clean", "Gaussian σ = 0.2") for t in range(1, steps + 1)]
    return pd.DataFrame(rows, columns=["step", "share", "condition"])


def transfer_frame() -> pd.DataFrame:
    rows = [
        (a, b, share, share - 0.1, share + 0.1, 0.9, 50) for share, (a, b) in zip((0.2, 0.8, 0.7), ("xx", "xy", "yx"))
    ]
    return pd.DataFrame(rows, columns=["made_on", "tried_on", "accuracy", "low", "high", "clean", "samples"])


@cache
def every_chart(steps: int) -> dict:
    """Each chart drawn on data with the given T."""
    values, means, exits = channel_values(steps), layer_frame(steps=steps), exit_frame(steps)
    energy = pd.DataFrame({"layer": LAYERS, "energy_nj": [4.0, 3.0, 2.0, 1.0]})
    film = np.sign(np.random.default_rng(1).normal(size=(steps, 8, 8)))
    return {
        "layer_heatmap": gamma.layer_heatmap(means, "mean γ", 0.1, 1, 1),
        "channel_heatmap": gamma.channel_heatmap(values, np.arange(CHANNELS), "γ", 1),
        "distribution": gamma.distribution(quantile_frame(steps), "γ", 0.1),
        "mean_curves": gamma.mean_curves(means, "mean γ", 0.1, 1),
        "input_film": spikes.input_film(film, list(range(1, steps + 1))),
        "raster": spikes.raster(values > 0.5, np.arange(CHANNELS), 1),
        "channel_rates": spikes.channel_rates(values, 1),
        "firing_rates": spikes.firing_rates(layer_frame("rate", steps), 1),
        "membrane": spikes.membrane(membrane_frame(steps), 1.0, 1),
        "class_scores": spikes.class_scores(score_frame(steps), "softmax of the running score", 1, "class 3"),
        "spikes_by_layer": spikes.spikes_by_layer(bar_frame()),
        "accuracy_curve": early_exit.accuracy_curve(exits, 1, steps),
        "cost_curves": early_exit.cost_curves(exits, 1, steps),
        "trade_off": early_exit.trade_off(exits, 1, steps),
        "energy_by_layer": early_exit.energy_by_layer(energy),
        "energy_by_layer and twin": early_exit.energy_by_layer(energy, energy.assign(energy_nj=9.0)),
        "energy_by_step": early_exit.energy_by_step(means.rename(columns={"value": "energy_nj"}), 1, steps),
        "histogram": exit_rules.histogram(exits_frame(10, steps), list("0123456789"), steps, 1.0),
        "histogram of many": exit_rules.histogram(exits_frame(40, steps), [f"kind {k}" for k in range(40)], steps),
        "front": exit_rules.front(front_frame(steps), RULE_TITLES, "energy_nj", front_marks()),
        "disturbed_exits": exit_rules.disturbed_exits(disturbed_frame(steps), steps),
        "sweep": robustness.sweep(sweep_frame(), "ε (1/255)", 0.95, 0.1),
        "exit_curves": robustness.exit_curves(curve_frame(steps)),
        "spikes_over_time": baselines.spikes_over_time(layer_frame("spikes", steps), 900.0),
        "transfer": baselines.transfer(transfer_frame()),
    }


NAMES = list(every_chart(2))


def named(fig, name: str):
    """The one trace with this name."""
    (trace,) = [trace for trace in fig.data if trace.name == name]
    return trace


def lines_at(fig, color: str) -> list:
    """Positions (x, or y where x spans the plot) of the straight marks in one colour."""
    marks = [shape for shape in fig.layout.shapes if shape.line.color == color]
    return [shape.y0 if shape.xref == "x domain" else shape.x0 for shape in marks]


def texts(fig) -> list[str]:
    return [note.text for note in fig.layout.annotations]


# ---- what holds for all of them


@pytest.mark.parametrize("steps", [1, 2, 25, 100])
def test_every_chart_draws_at_any_length(steps):
    for name, fig in every_chart(steps).items():
        layout = json.loads(fig.to_json())["layout"]
        assert layout["height"] >= 80, name
        assert layout["uirevision"] and "transition" not in layout, name  # with one, Plotly draws twice
        assert "title" not in layout and layout["paper_bgcolor"] == "rgba(0,0,0,0)", name
        assert layout["legend"]["orientation"] == "h" and layout["legend"]["y"] > 1, name
        assert not any("gl" in trace.type for trace in fig.data), name


@pytest.mark.parametrize(
    ("name", "x", "y"),
    [
        ("layer_heatmap", "timestep t", None),
        ("channel_heatmap", "timestep t", "channel"),
        ("distribution", "timestep t", "γ over channels"),
        ("mean_curves", "timestep t", "mean γ"),
        ("raster", "timestep t", "neuron"),
        ("channel_rates", "timestep t", "channel"),
        ("firing_rates", "timestep t", "spikes per neuron per timestep"),
        ("membrane", "timestep t", "membrane potential u"),
        ("class_scores", "timestep t", "softmax of the running score (%)"),
        ("spikes_by_layer", "spikes", None),
        ("accuracy_curve", "exit step t", "accuracy (%)"),
        ("cost_curves", "exit step t", "share of the full-T cost (%)"),
        ("trade_off", "energy per sample (nJ)", "accuracy (%)"),
        ("energy_by_layer", "energy per sample (nJ)", None),
        ("sweep", "ε (1/255)", "accuracy (%)"),
        ("exit_curves", "exit step t", "accuracy (%)"),
        ("spikes_over_time", "timestep t", "spikes a sample, per timestep"),
        ("transfer", "tried on", "made on"),
    ],
)
def test_axes_say_what_and_in_which_unit(name, x, y):
    fig = every_chart(5)[name]
    assert (fig.layout.xaxis.title.text, fig.layout.yaxis.title.text) == (x, y)


@pytest.mark.parametrize("name", NAMES)
def test_every_hover_text_is_ours(name):
    for trace in every_chart(5)[name].data:
        silent = trace.hoverinfo == "skip" or (trace.x is not None and len(trace.x) == 1 and trace.x[0] is None)
        assert silent or trace.hovertemplate.endswith("<extra></extra>"), trace.name


@pytest.mark.parametrize(
    "draw",
    [
        lambda none: gamma.layer_heatmap(none, "mean γ", 0.1, 3),
        lambda none: gamma.distribution(none, "γ", 0.1),
        lambda none: gamma.mean_curves(none, "mean γ", None, None),
        lambda none: gamma.channel_heatmap(np.zeros((0, 4)), np.arange(4), "γ", None),
        lambda none: gamma.channel_heatmap(np.full((3, 2), np.nan), np.arange(2), "γ", None),
        lambda none: spikes.input_film(np.zeros((0, 8, 8)), []),
        lambda none: spikes.raster(np.zeros((5, 0), dtype=bool), np.zeros(0), 2),
        lambda none: spikes.channel_rates(np.zeros((0, 0)), None),
        lambda none: spikes.firing_rates(none, 1),
        lambda none: spikes.membrane(none, 1.0, 1),
        lambda none: spikes.class_scores(none, "softmax", 1, None),
        lambda none: spikes.spikes_by_layer(none),
        lambda none: early_exit.accuracy_curve(none, 1, 1),
        lambda none: early_exit.cost_curves(none, 1, 1),
        lambda none: early_exit.trade_off(none, 1, 1),
        lambda none: early_exit.energy_by_layer(none),
        lambda none: early_exit.energy_by_step(none, 1, 1),
        lambda none: exit_rules.histogram(none, ["a"], 3),
        lambda none: exit_rules.front(none, RULE_TITLES, "spikes", none),
        lambda none: exit_rules.disturbed_exits(none, 3),
        lambda none: robustness.sweep(none, "σ", None, None),
        lambda none: robustness.exit_curves(none),
        lambda none: baselines.spikes_over_time(none),
        lambda none: baselines.transfer(none),
        lambda none: baselines.transfer(transfer_frame().assign(accuracy=np.nan)),
        lambda none: gamma.mean_curves(layer_frame().assign(value=np.nan), "mean γ", 0.1, 3),
        lambda none: spikes.firing_rates(layer_frame("rate").assign(rate=np.nan), 3),
        lambda none: early_exit.accuracy_curve(exit_frame().assign(accuracy=np.nan), 1, 1),
        lambda none: early_exit.trade_off(exit_frame().assign(energy_nj=np.nan), 1, 1),
    ],
)
def test_nothing_to_draw_is_said_in_a_sentence(draw):
    fig = draw(pd.DataFrame())
    assert len(texts(fig)) == 1 and texts(fig)[0].startswith("No ") and not fig.data
    assert not fig.layout.xaxis.visible


@pytest.mark.parametrize("exit_step", [None, 0, 26])
@pytest.mark.parametrize("chart", [gamma.layer_heatmap, gamma.mean_curves])
def test_an_exit_outside_the_steps_draws_no_mark(chart, exit_step):
    assert lines_at(chart(layer_frame(), "mean γ", None, exit_step), theme.EXIT) == []


@pytest.mark.parametrize(("step", "anchor"), [(1, "left"), (13, "center"), (25, "right")])
def test_mark_labels_turn_inwards_at_the_edges(step, anchor):
    (note,) = gamma.mean_curves(layer_frame(), "mean γ", None, step).layout.annotations
    assert (note.text, note.xanchor) == (f"your exit, t = {step}", anchor)


def test_charts_do_not_know_streamlit():
    for path in Path(theme.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "")]
            assert not any((name or "").split(".")[0] == "streamlit" for name in names), path.name


@pytest.mark.parametrize(
    ("fig", "limit"),
    [
        (lambda: gamma.channel_heatmap(channel_values(50, 4096), np.arange(4096), "γ", 9), 1_500_000),
        (lambda: gamma.layer_heatmap(layer_frame(), "mean γ", 0.1, 17), 8_000),
        (lambda: gamma.mean_curves(layer_frame(), "mean γ", 0.1, 17), 8_000),
        (lambda: spikes.raster(channel_values(100, 600) > 0.8, np.arange(600), 9), 100_000),
        (lambda: spikes.input_film(np.ones((25, 32, 32)), list(range(1, 26))), 320_000),
        (lambda: spikes.class_scores(score_frame(50, 200), "softmax", 9, None), 200_000),
        (lambda: early_exit.accuracy_curve(exit_frame(), 17, 19), 8_000),
        (lambda: early_exit.cost_curves(exit_frame(784), 17, 19), 60_000),
        (lambda: exit_rules.histogram(exits_frame(200, 784), [f"kind {k}" for k in range(200)], 784), 900_000),
        (lambda: exit_rules.front(front_frame(64), RULE_TITLES, "spikes", front_marks()), 12_000),
    ],
)
def test_figures_stay_small_on_the_wire(fig, limit):
    assert len(fig().to_json()) < limit


# ---- colours


def linear_rgb(color: str) -> np.ndarray:
    """sRGB "#RRGGBB" or "rgb(…)" to linear light, IEC 61966-2-1."""
    parts = (
        [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        if color.startswith("#")
        else [float(part) for part in color[4:-1].split(",")]
    )
    share = np.array(parts) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def luminance(color: str) -> float:
    return float(linear_rgb(color) @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scale", [theme.LAYERS, theme.SEQUENTIAL[::-1]])
def test_ordered_colours_rise_in_lightness(scale):
    assert np.all(np.diff([luminance(color) for color in theme.colours(16, scale)]) > 0)


@pytest.mark.parametrize("color", [theme.EXIT, theme.RULE])
def test_label_colours_can_be_read_on_white(color):
    assert 1.05 / (luminance(color) + 0.05) >= 4.5  # WCAG 2 AA


def test_accents_differ_for_colour_blind_eyes():
    # Full deuteranopia and protanopia in linear light: Machado, Oliveira, Fernandes 2009, severity 1.0.
    deutan = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    protan = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    for matrix in (deutan, protan):
        seen = [np.clip(np.array(matrix) @ linear_rgb(color), 0, 1) ** (1 / 2.2) for color in (theme.EXIT, theme.RULE)]
        assert np.abs(seen[0] - seen[1]).max() > 0.4


# ---- γ


def test_layer_heatmap_shows_the_frame_and_outlines_what_is_below():
    means, threshold = layer_frame(), 0.1
    means = means[~((means["layer"] == "conv2") & (means["step"] > 20))]
    fig = gamma.layer_heatmap(means, "mean γ", threshold, 17, rule_step=19)
    heat, outline = fig.data
    expected = np.full((len(LAYERS), T), np.nan)
    for row in means.itertuples():
        expected[LAYERS.index(row.layer), row.step - 1] = row.value
    np.testing.assert_allclose(heat.z, expected, rtol=1e-6)
    assert (heat.zmin, heat.x0, heat.dx) == (0, 1, 1)
    assert list(fig.layout.yaxis.ticktext) == LAYERS and fig.layout.yaxis.range[0] > fig.layout.yaxis.range[1]

    # Every unit edge between a cell below and one that is not, found by a plain loop over the cells.
    def below(row, step):
        return 0 <= row < len(LAYERS) and 1 <= step <= T and expected[row, step - 1] < threshold

    wanted = set()
    for row in range(-1, len(LAYERS) + 1):
        for step in range(0, T + 2):
            if below(row, step) != below(row + 1, step):
                wanted.add(((step - 0.5, row + 0.5), (step + 0.5, row + 0.5)))
            if below(row, step) != below(row, step + 1):
                wanted.add(((step + 0.5, row - 0.5), (step + 0.5, row + 0.5)))
    drawn = set()
    for x0, x1, y0, y1 in zip(outline.x[::3], outline.x[1::3], outline.y[::3], outline.y[1::3], strict=True):
        if y0 == y1:
            drawn |= {((x, y0), (x + 1, y0)) for x in np.arange(x0, x1)}
        else:
            drawn |= {((x0, y), (x0, y + 1)) for y in np.arange(y0, y1)}
    assert drawn == wanted and outline.name == "mean γ below 0.1"
    assert lines_at(fig, theme.EXIT) == [17.5] and lines_at(fig, theme.RULE) == [19.5]
    assert texts(fig) == ["γ rule, t = 19", "your exit, t = 17"]


def test_layer_heatmap_says_when_nothing_is_below():
    fig = gamma.layer_heatmap(layer_frame().assign(value=0.7), "mean γ", 0.1, None)
    assert fig.data[1].name == "mean γ below 0.1: nowhere"


def test_negative_values_get_a_scale_around_zero():
    means = layer_frame()
    means["value"] -= 0.75
    (heat,) = gamma.layer_heatmap(means, "mean of the running mean", None, None).data
    assert heat.zmin == -heat.zmax and heat.zmax == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize(
    ("low", "high", "scale", "limits"),
    [
        (0.2, 1.0, theme.SEQUENTIAL, (0, 1)),
        (-0.19, 1.0, theme.SEQUENTIAL, (-0.19, 1)),
        (-0.21, 1.0, theme.DIVERGING, (-1, 1)),
        (-3.0, 1.0, theme.DIVERGING, (-3, 3)),
        (-3.0, -1.0, theme.DIVERGING, (-3, 3)),
        (0.5, 0.5, theme.SEQUENTIAL, (0, 0.5)),
    ],
)
def test_only_two_sided_channels_get_two_sided_colours(low, high, scale, limits):
    values = np.linspace(low, high, 20).reshape(5, 4)
    values[2, 2] = np.nan
    heat = gamma.channel_heatmap(values, np.arange(4), "γ", None).data[0]
    assert [color for _, color in heat.colorscale] == scale
    assert (heat.zmin, heat.zmax) == pytest.approx(limits)


def test_the_rule_is_marked_apart_from_the_exit():
    fig = gamma.layer_heatmap(layer_frame(), "mean γ", 0.1, None, rule_step=19)
    assert texts(fig) == ["γ rule, t = 19"]
    assert lines_at(fig, theme.RULE) == [19.5] and lines_at(fig, theme.EXIT) == []


def test_one_layer_and_one_channel_draw():
    means = layer_frame(layers=["conv1"])
    heat = gamma.layer_heatmap(means, "mean γ", None, None).data[0]
    np.testing.assert_allclose(heat.z, means["value"].to_numpy()[None], rtol=1e-6)
    (line,) = gamma.mean_curves(means, "mean γ", None, None).data
    np.testing.assert_allclose(line.y, means["value"], rtol=1e-6)
    values = channel_values(T, 1)
    for fig in (gamma.channel_heatmap(values, np.arange(1), "γ", 1), spikes.channel_rates(values, 1)):
        np.testing.assert_array_equal(fig.data[0].z, values.T)
        assert list(fig.data[0].y) == ["0"]


def test_all_zero_values_still_have_a_scale():
    heat = gamma.layer_heatmap(layer_frame().assign(value=0.0), "mean γ", 0.1, 3).data[0]
    assert (heat.zmin, heat.zmax) == (0, 1)


def test_channel_heatmap_keeps_the_given_order():
    values, order = channel_values(), np.array([3, 0, 2])
    fig = gamma.channel_heatmap(values, order, "γ", 17)
    (heat,) = fig.data
    assert list(heat.y) == ["3", "0", "2"] and heat.z.dtype == np.float32
    for row, channel in enumerate(order):
        np.testing.assert_array_equal(heat.z[row], values[:, channel])
    assert lines_at(fig, theme.EXIT) == [17.5]


def test_distribution_draws_the_quantiles_and_the_threshold():
    frame = quantile_frame()
    fig = gamma.distribution(frame, "γ", 0.1)
    columns = ["min", "max", "p05", "p95", "p25", "p75", "median", "mean"]
    for trace, column in zip(fig.data, columns, strict=True):
        np.testing.assert_allclose(trace.y, frame[column], rtol=1e-6)
    assert [trace.name for trace in fig.data if trace.fill] == ["min to max", "5 to 95 %", "25 to 75 %"]
    assert lines_at(fig, theme.RULE) == [0.1] and texts(fig) == ["threshold 0.1"]


def test_distribution_of_one_step_has_a_width():
    trace = gamma.distribution(quantile_frame(1), "γ", None).data[1]
    assert trace.x[0] < 1 < trace.x[1] and trace.y[0] == trace.y[1]


def test_mean_curves_draw_each_layer_in_order():
    means = layer_frame()
    fig = gamma.mean_curves(means, "mean γ", 0.1, 17)
    for trace, name in zip(fig.data, LAYERS, strict=True):
        np.testing.assert_allclose(trace.y, means.loc[means["layer"] == name, "value"], rtol=1e-6)
        assert trace.name == name and list(trace.x) == list(range(1, T + 1))
    assert np.all(np.diff([luminance(trace.line.color) for trace in fig.data]) > 0)
    assert lines_at(fig, theme.EXIT) == [17] and lines_at(fig, theme.RULE) == [0.1]


def test_long_layer_names_are_cut_but_stay_apart():
    layers = [f"module.features.bn{i}" for i in range(1, 17)]
    fig = gamma.mean_curves(layer_frame(layers=layers), "mean γ", None, None)
    assert [trace.name for trace in fig.data] == [f"bn{i}" for i in range(1, 17)]
    assert all(name in trace.hovertemplate for name, trace in zip(layers, fig.data, strict=True))
    assert theme.short(["a_name_that_never_ends_1", "conv2"]) == ["…_never_ends_1", "conv2"]


def test_a_point_between_gaps_stays_visible():
    means = layer_frame(layers=["conv1"])
    means.loc[means["step"] != 5, "value"] = np.nan
    assert gamma.mean_curves(means, "mean γ", None, None).data[0].mode == "lines+markers"


# ---- spikes


@pytest.mark.parametrize(("columns", "across"), [(8, 4), (2, 2), (1, 1)])
def test_input_film_shows_each_tile(columns, across):
    frames = np.random.default_rng(2).integers(-3, 4, (T, 8, 8))
    steps = [1, 4, 9, 25]
    fig = spikes.input_film(frames, steps, columns)
    heat, labels = fig.data[0], fig.data[1]
    found = []
    for label, x, y in zip(labels.text, labels.x, labels.y, strict=True):
        left, top = round(x - 3.5), int(np.ceil(y))
        tile = heat.z[top : top + 8, left : left + 8]
        found.append(int(label.split("\u2009")[-1]))
        np.testing.assert_array_equal(tile, frames[found[-1] - 1])
    assert found == steps and len(set(labels.x)) == across
    assert heat.zmin == -heat.zmax == -np.abs(frames[np.array(steps) - 1]).max()
    assert [trace.name for trace in fig.data[2:]] == ["negative spikes (to −3)", "positive spikes (to +3)"]


@pytest.mark.parametrize("count", [1, 2, 5, 8, 16, 25, 50])
def test_input_film_leaves_no_hole_on_a_phone(count):
    fig = spikes.input_film(np.ones((count, 32, 32)), list(range(1, count + 1)))
    plot = fig.layout.height - fig.layout.margin.t - fig.layout.margin.b
    down, across = fig.data[0].z.shape
    filled = 350 / across * down  # pixels a sheet of square cells takes when it is 350 px wide
    assert plot - filled < 50
    assert plot / down * 32 > 36  # pixels a tile's side takes on a wide page


def test_raster_shows_each_spike_in_whole_pixels():
    fired = channel_values(T, 600) > 0.7
    neurons = np.sort(np.random.default_rng(3).choice(65536, 600, replace=False))
    fig = spikes.raster(fired, neurons, 17)
    np.testing.assert_array_equal(fig.data[0].z, fired.T)
    assert fig.data[0].z.dtype == np.uint8 and list(fig.data[0].y) == [str(n) for n in neurons]
    assert fig.layout.height - fig.layout.margin.t - fig.layout.margin.b == 600
    assert lines_at(fig, theme.EXIT) == [17.5]


def test_channel_rates_show_the_array():
    rates = channel_values()
    np.testing.assert_array_equal(spikes.channel_rates(rates, None).data[0].z, rates.T)


def test_membrane_drops_at_each_spike():
    frame = membrane_frame()
    fig = spikes.membrane(frame, 1.0, 17)
    path, quiet, fired = fig.data
    assert frame["spike"].sum() >= 2
    for place, row in enumerate(frame.itertuples()):
        assert list(path.x[2 * place : 2 * place + 2]) == [row.step, row.step]
        np.testing.assert_allclose(path.y[2 * place : 2 * place + 2], [row.before, row.after], rtol=1e-5, atol=1e-7)
    assert list(fired.x) == frame.loc[frame["spike"], "step"].tolist()
    assert sorted([*quiet.x, *fired.x]) == frame["step"].tolist()
    assert lines_at(fig, theme.MUTED) == [1.0] and "threshold θ = 1" in texts(fig)


def test_class_scores_name_the_strongest_and_the_true_class():
    frame = score_frame(T, 200)
    peaks = frame.groupby("class_name")["probability"].max()
    truth = peaks.idxmin()
    fig = spikes.class_scores(frame, "softmax", 17, truth)
    shown = [trace.name for trace in fig.data if trace.name != "194 other classes"]
    answers = [frame[frame["step"] == step].set_index("class_name")["probability"].idxmax() for step in (17, T)]
    expected = list(dict.fromkeys([truth, *answers, *peaks.sort_values(ascending=False).index]))[:6]
    assert sorted(shown) == sorted([f"{truth} (true)", *expected[1:]])
    true = named(fig, f"{truth} (true)")
    assert true.line.color == theme.TRUTH and true.line.width == named(fig, answers[1]).line.width > 3
    np.testing.assert_allclose(true.y, 100 * frame.loc[frame["class_name"] == truth, "probability"], rtol=1e-5)
    others = np.asarray(fig.data[0].y).reshape(194, T + 1)
    assert np.isnan(others[:, -1]).all()
    left = frame[~frame["class_name"].isin(expected)].pivot(index="class_name", columns="step", values="probability")
    np.testing.assert_allclose(others[:, :-1], 100 * left.to_numpy(), rtol=1e-5)


def test_spikes_by_layer_group_the_conditions():
    frame = bar_frame()
    fig = spikes.spikes_by_layer(frame)
    assert [trace.name for trace in fig.data] == ["clean", "FGSM ε = 8/255"] and fig.layout.barmode == "group"
    for trace in fig.data:
        part = frame[frame["condition"] == trace.name]
        assert list(trace.y) == part["layer"].tolist() and list(trace.x) == part["spikes"].tolist()


# ---- early exit


def test_accuracy_curve_marks_exit_rule_and_full_length():
    frame = exit_frame()
    fig = early_exit.accuracy_curve(frame, 17, 19)
    np.testing.assert_allclose(named(fig, "accuracy").y, 100 * frame["accuracy"], rtol=1e-6)
    assert lines_at(fig, theme.EXIT) == [17] and lines_at(fig, theme.RULE) == [19]
    assert named(fig, "your exit").y[0] == pytest.approx(100 * frame.loc[16, "accuracy"])
    full = 100 * frame["accuracy"].iloc[-1]
    assert named(fig, f"full T = 25: {full:.1f} %").y[0] == pytest.approx(full)
    np.testing.assert_allclose(named(fig, "confidence interval").y, 100 * frame["high"], rtol=1e-6)


def test_accuracy_curve_without_interval_or_marks():
    fig = early_exit.accuracy_curve(exit_frame()[["step", "accuracy"]], None, None)
    assert not fig.layout.shapes and "confidence interval" not in [trace.name for trace in fig.data]


@pytest.mark.parametrize("accuracy", [0.0, 0.1, 1.0])
def test_equal_accuracies_keep_a_sensible_axis(accuracy):
    frame = exit_frame()[["step"]].assign(accuracy=accuracy)
    low, high = early_exit.accuracy_curve(frame, 3, None).layout.yaxis.range
    assert -1 < low < 100 * accuracy < high < 101


def test_cost_curves_are_shares_of_the_full_cost():
    frame = exit_frame()
    fig = early_exit.cost_curves(frame, 17, 19)
    for name, column in (("spikes", "spikes"), ("energy", "energy_nj"), ("latency", "latency_ms")):
        full = frame[column].tolist()[-1]
        np.testing.assert_allclose(named(fig, name).y, [100 * cost / full for cost in frame[column]], rtol=1e-5)
        np.testing.assert_allclose(named(fig, name).customdata, frame[column], rtol=1e-6)
    assert len({trace.line.dash for trace in fig.data}) == 3
    assert lines_at(fig, theme.EXIT) == [17] and lines_at(fig, theme.RULE) == [19]


def test_a_cost_of_nothing_is_not_a_share():
    fig = early_exit.cost_curves(exit_frame().assign(spikes=0.0), 17, None)
    assert np.isnan(named(fig, "spikes").y).all() and named(fig, "energy").y[-1] == 100


def test_trade_off_marks_the_two_exits():
    frame = exit_frame()
    fig = early_exit.trade_off(frame, 7, 19)
    curve = named(fig, "exit steps")
    np.testing.assert_allclose(curve.x, frame["energy_nj"], rtol=1e-6)
    np.testing.assert_allclose(curve.y, 100 * frame["accuracy"], rtol=1e-6)
    for name, step in (("your exit, t = 7", 7), ("γ rule, t = 19", 19)):
        assert named(fig, name).x[0] == pytest.approx(frame["energy_nj"][step - 1])
    labelled = fig.data[1]
    assert 1 <= len(labelled.text) <= 7 and labelled.text[0] == "t = 1"


def test_energy_by_layer_shows_the_frame():
    frame = pd.DataFrame({"layer": LAYERS, "energy_nj": [4.0, 3.0, 2.0, 1.0]})
    (bars,) = early_exit.energy_by_layer(frame).data
    assert list(bars.y) == LAYERS and list(bars.x) == [4.0, 3.0, 2.0, 1.0]


def test_large_energies_are_in_microjoule():
    """From 1,000 nJ in all, as in the text beside the charts."""
    frame = pd.DataFrame({"layer": LAYERS, "energy_nj": [400.0, 300.0, 200.0, 100.0]})
    fig = early_exit.energy_by_layer(frame)
    assert fig.layout.xaxis.title.text == "energy per sample (µJ)"
    assert list(fig.data[0].x) == pytest.approx([0.4, 0.3, 0.2, 0.1]) and "µJ" in fig.data[0].hovertemplate
    table = exit_frame()
    fig = early_exit.trade_off(table.assign(energy_nj=table["energy_nj"] * 1000), 7, None)
    np.testing.assert_allclose(named(fig, "exit steps").x, table["energy_nj"], rtol=1e-6)
    assert fig.layout.xaxis.title.text == "energy per sample (µJ)"


# ---- robustness


def test_sweep_shows_intervals_and_references():
    frame = sweep_frame()
    fig = robustness.sweep(frame, "ε (1/255)", 0.95, 0.1, x_range=(0, 16))
    for trace in fig.data:
        part = frame[frame["attack"] == trace.name]
        np.testing.assert_allclose(trace.y, 100 * part["accuracy"], rtol=1e-5)
        np.testing.assert_allclose(trace.y + trace.error_y.array, 100 * part["high"], rtol=1e-5)
        np.testing.assert_allclose(trace.y - trace.error_y.arrayminus, 100 * part["low"], rtol=1e-5)
    assert texts(fig) == ["clean 95.0 %", "chance 10.0 %"]
    assert lines_at(fig, theme.MUTED) == [pytest.approx(95), pytest.approx(10)]


def test_sweep_axes_stand_still_while_points_arrive():
    figs = [robustness.sweep(rows, "ε (1/255)", 0.95, None, (0, 16))
            for rows in (pd.DataFrame(), sweep_frame().iloc[[0]], sweep_frame())]  # fmt: skip
    assert len({(fig.layout.xaxis.range, fig.layout.yaxis.range, fig.layout.uirevision) for fig in figs}) == 1
    assert "No points yet" in texts(figs[0]) and "No points yet" not in texts(figs[1])


def test_one_point_without_a_range_has_room_around_it():
    low, high = robustness.sweep(sweep_frame().iloc[[2]], "ε", None, None).layout.xaxis.range
    assert low < 2 < high and high - low >= 1


def test_exit_curves_darken_with_strength():
    frame = curve_frame()
    fig = robustness.exit_curves(frame)
    assert [trace.name for trace in fig.data] == ["FGSM 0 (clean)", "FGSM 4", "FGSM 8"]
    assert np.all(np.diff([luminance(trace.line.color) for trace in fig.data]) < 0)
    for trace, strength in zip(fig.data, (0, 4, 8), strict=True):
        np.testing.assert_allclose(trace.y, 100 * frame.loc[frame["strength"] == strength, "accuracy"], rtol=1e-5)


def test_exits_are_stacked_by_class():
    fig = exit_rules.histogram(exits_frame(), list("0123456789"), T, 3.4)
    assert [bars.name for bars in fig.data] == list("0123456789")
    for place, bars in enumerate(fig.data):
        expected = np.zeros(T)
        expected[place] += place + 1
        expected[-1] += 1
        np.testing.assert_array_equal(bars.y, expected)
    assert lines_at(fig, theme.EXIT) == [3.4] and texts(fig) == ["mean 3.4"]
    assert len({bars.marker.color for bars in fig.data}) == 10


def test_exits_of_long_runs_are_put_together():
    """784 steps in bars of 14: what is in them is what leaves at those steps."""
    frame = pd.DataFrame({"label": [0, 0, 0, 1], "step": [1, 14, 15, 784], "samples": [3, 4, 5, 6], "correct": 0})
    one, other = exit_rules.histogram(frame, ["a", "b"], 784).data
    assert list(one.y[:3]) == [7, 5, 0] and list(one.x[:2]) == [7.5, 21.5] and len(one.y) == 56
    assert other.y[-1] == 6 and other.customdata[-1] == "771 … 784" and sum(one.y) + sum(other.y) == 18
    bars, _ = exit_rules.disturbed_exits(disturbed_frame(100), 100).data
    np.testing.assert_allclose(bars.y, [2] * 50, rtol=1e-5)


def test_exits_of_many_classes_are_a_map():
    names = [f"kind {k}" for k in range(11)]
    (cells,) = exit_rules.histogram(exits_frame(11), names, T).data
    assert cells.type == "heatmap" and cells.z.shape == (11, T) and list(cells.y) == names
    assert cells.z[4, 4] == 5 and cells.z[4, T - 1] == 1 and cells.z.sum() == 66 + 11


def test_the_front_is_looked_at_where_rules_differ():
    near = exit_rules.front(front_frame(), RULE_TITLES, "energy_nj", front_marks())
    whole = exit_rules.front(front_frame(), RULE_TITLES, "energy_nj", front_marks(), whole=True)
    assert near.layout.yaxis.range[0] > 80 and whole.layout.yaxis.range[0] < 45
    assert "µJ" in near.layout.xaxis.title.text
    np.testing.assert_allclose(named(near, "fixed step").x, 0.4 * np.arange(1, T + 1), rtol=1e-6)
    np.testing.assert_allclose(named(near, "your choice").x, [0.8])
    assert named(near, "γ rule, t = 1").marker.color == theme.RULE
    low = front_marks().assign(accuracy=0.3)
    assert exit_rules.front(front_frame(), RULE_TITLES, "spikes", low).layout.yaxis.range[0] < 30, "marks are in sight"


def test_energy_at_each_step_is_stacked_and_the_twin_stands_beside():
    frame = layer_frame(steps=T).rename(columns={"value": "energy_nj"})
    fig = early_exit.energy_by_step(frame, 7, 19)
    assert fig.layout.barmode == "stack" and len(fig.data) == len(LAYERS)
    for bars, layer in zip(fig.data, LAYERS):
        np.testing.assert_allclose(bars.y, frame[frame["layer"] == layer]["energy_nj"], rtol=1e-6)
    assert lines_at(fig, theme.EXIT) == [7.5] and lines_at(fig, theme.RULE) == [19.5]
    own = pd.DataFrame({"layer": LAYERS, "energy_nj": 100.0})
    one, other = early_exit.energy_by_layer(own, own.assign(energy_nj=5000.0)).data
    assert set(one.x) == {np.float32(0.1)} and set(other.x) == {5.0}, "both in the unit of the larger one"


def test_disturbed_exits_stand_beside_the_clean_ones():
    one, other = exit_rules.disturbed_exits(disturbed_frame(4), 4).data
    assert (one.name, other.name) == ("clean", "Gaussian σ = 0.2")
    np.testing.assert_allclose(one.y, [25] * 4)


# ---- BNTT beside its baselines


def test_panels_of_spikes_share_their_axis():
    fig = baselines.spikes_over_time(layer_frame("spikes"), 900.0)
    assert fig.layout.yaxis.range[1] > 900 and fig.layout.yaxis.range[0] < 0


def test_transfer_shows_clean_images_first_and_leaves_gaps():
    (cells,) = baselines.transfer(transfer_frame()).data
    expected = [[90.0, 90.0], [20.0, 80.0], [70.0, np.nan]]
    np.testing.assert_allclose(cells.z, expected)
    assert (
        cells.text[1][0] == ", 95 % interval 10.0 to 30.0<br>50 samples" and cells.text[0][0] == cells.text[2][1] == ""
    )
    fig = baselines.transfer(transfer_frame().assign(clean=np.nan))
    assert fig.layout.yaxis.ticktext == ("x", "y") and fig.layout.xaxis.ticktext == ("x", "y")
