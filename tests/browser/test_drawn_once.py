"""A figure that Streamlit hands to Plotly twice is drawn once, by the plotly.js that comes with Plotly's Python package."""

import json
from pathlib import Path

import numpy as np
import plotly
import pytest

from dashboard.charts import gamma as charts
from dashboard.charts import spikes, theme
from engine import bundled, load_checkpoint
from engine.analysis import gamma

pytestmark = pytest.mark.browser
PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
CHANGES = """async (spec) => {
  const place = document.getElementById("place"), figure = () => { const it = structuredClone(spec); it.layout.width = 700; return it; };
  const quiet = () => new Promise((resolve) => setTimeout(resolve, 300));
  let changes = 0;
  new MutationObserver((seen) => { changes += seen.length; }).observe(place, { subtree: true, childList: true, attributes: true });
  await Plotly.newPlot(place, figure());
  await quiet();
  const first = changes;
  await Plotly.react(place, figure());
  await quiet();
  return [first, changes - first];
}"""


@pytest.fixture(scope="module")
def figures():
    checkpoint = load_checkpoint(bundled.path("digits"))
    means, table = gamma.layer_means(checkpoint), gamma.values(checkpoint, "conv1", "gamma")
    heat = charts.layer_heatmap(means, "mean γ", 0.1, None, rule_step=19)
    return {
        "heat map and outline": heat,
        "a changed copy": theme.Figure(heat).update_traces(zmax=2.0, selector={"type": "heatmap"}),
        "lines": charts.mean_curves(means, "mean γ", 0.1, 7),
        "channels": charts.channel_heatmap(table, np.arange(table.shape[1]), "γ", None),
        "bands": charts.distribution(gamma.quantiles(table), "γ", 0.1),
        "raster": spikes.raster(table > 0.3, np.arange(table.shape[1]), 5),
    }


def test_handed_over_again_nothing_of_a_chart_is_drawn_again(visit, figures):
    page = visit()
    page.set_content("<div id=place></div>")
    page.add_script_tag(path=PLOTLY)
    for name, figure in figures.items():
        first, again = page.evaluate(CHANGES, json.loads(figure.to_json()))
        assert first > 100 and again == 0, name
