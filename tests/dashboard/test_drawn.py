"""Figures that are kept: the same data give the same figure, other data another one, and nobody's copy changes them."""

import json

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from dashboard.charts import drawn, theme
from dashboard.charts import gamma as charts


def means(value: float = 1.0) -> pd.DataFrame:
    return pd.DataFrame({"layer": ["conv1"] * 3, "step": [1, 2, 3], "value": [value, 0.5, 0.25]})


@pytest.fixture
def counted(monkeypatch):
    """A chart function that tells how often it drew, and an empty store."""
    monkeypatch.setattr(drawn, "_kept", type(drawn._kept)())
    calls = []

    @drawn.drawn
    def chart(values: np.ndarray, name: str = "a") -> go.Figure:
        calls.append(name)
        fig = theme.figure(200, name)
        fig.add_scatter(y=values, name=name)
        return fig

    return chart, calls


def test_the_same_data_are_drawn_once(counted):
    chart, calls = counted
    first = chart(np.arange(3.0))
    assert chart(np.arange(3.0)) is first and calls == ["a"]


@pytest.mark.parametrize(
    "other", [(np.array([0.0, 1.0, 3.0]), "a"), (np.arange(3.0), "b"), (np.arange(3.0, dtype="f4"), "a")]
)
def test_other_data_are_another_figure(counted, other):
    chart, calls = counted
    assert chart(np.arange(3.0), "a") is not chart(*other) and len(calls) == 2


def test_the_least_recently_used_go(counted, monkeypatch):
    chart, calls = counted
    monkeypatch.setattr(drawn, "KEPT_BYTES", 2.5 * drawn._SHELL_BYTES)
    chart(np.zeros(2), "a"), chart(np.zeros(2), "b"), chart(np.zeros(2), "a"), chart(np.zeros(2), "c")
    chart(np.zeros(2), "a")
    assert calls == ["a", "b", "c"], "a was used again before c came"
    chart(np.zeros(2), "b")
    assert calls == ["a", "b", "c", "b"]


def test_a_copy_can_be_changed_and_the_kept_figure_stays():
    kept = charts.layer_heatmap(means(), "mean γ", 0.1, None)
    before = json.dumps(kept.to_dict(), default=str)
    copy = theme.Figure(kept).update_yaxes(range=[5, 6])
    assert list(copy.to_dict()["layout"]["yaxis"]["range"]) == [5, 6]
    assert json.dumps(charts.layer_heatmap(means(), "mean γ", 0.1, None).to_dict(), default=str) == before


def test_what_is_kept_is_what_plotly_says():
    kept = charts.layer_heatmap(means(2.0), "mean γ", 0.1, None)
    assert json.loads(kept.to_json()) == json.loads(theme.Figure(kept).to_json())


@pytest.mark.parametrize("order", [np.arange(200), np.arange(200)[::-1]])
def test_the_widest_label_has_room_wherever_it_stands(order):
    """Three letters of about 6.6 pixels, and the title."""
    fig = charts.channel_heatmap(np.ones((3, 200)), order, "γ", None)
    assert fig.layout.margin.l >= 3 * 6.6 + theme.TITLE


def test_plotly_can_see_that_nothing_has_changed():
    """It takes a figure that Streamlit hands over again for another one if it has a template, coded arrays or no revision."""
    said = json.loads(charts.layer_heatmap(means(), "mean γ", 0.1, None).to_json())
    assert said["layout"]["datarevision"] == 1 and "template" not in said["layout"]
    copy = theme.Figure(charts.layer_heatmap(means(), "mean γ", 0.1, None)).add_scatter(y=np.array([1.0, np.nan]))
    said = json.loads(copy.to_json())
    assert "template" not in said["layout"] and said["data"][-1]["y"] == [1.0, None]
