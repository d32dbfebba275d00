"""What an operation costs, to be set, and where the energy goes."""

from __future__ import annotations

import re

import pandas as pd
import streamlit as st

from engine.analysis import energy
from engine.analysis.energy import PRESETS, Constants

from . import show
from .charts import early_exit as charts
from .knobs import Knobs, Number
from .session import View

_LOW, _HIGH = 1e-4, energy.LIMIT_PJ


def settings() -> Constants:
    """Technology and what it charges for an operation; where a number is out of bounds, it is told and the
    technology's own counts."""
    st.markdown("**What an operation costs**, here and everywhere on this page")
    one, two, three = st.columns([3, 2, 2])
    preset = one.selectbox(
        "Technology",
        list(PRESETS),
        key="technology",
        bind="query-params",
        help="45 nm: Horowitz, ISSCC 2014; the paper counts in 32-bit floats. 7 nm: Jouppi et al., ISCA 2021.",
    )
    own, knobs = PRESETS[preset], Knobs(re.sub(r"\W+", "", preset))
    about = "What one costs, in pJ. Filled in by the technology; change it for yours."
    mac = knobs.number(two, "mac", Number("Multiply-accumulate (pJ)", _LOW, _HIGH, 0.1, f"E_MAC: {about}"), own.mac_pj)
    ac = knobs.number(three, "ac", Number("Accumulate (pJ)", _LOW, _HIGH, 0.1, f"E_AC: {about}"), own.ac_pj)
    if knobs.wrong:
        st.error(f"{'; '.join(knobs.wrong)}. Until then, {preset} counts as it was published.")
        return own
    return Constants(mac, ac)


def formula(view: View, constants: Constants) -> None:
    """How energy is counted for this network, with the numbers in use."""
    config = view.checkpoint.config
    mac, ac = f"{constants.mac_pj:g} pJ", f"{constants.ac_pj:g} pJ"
    if config.kind == "ann":
        st.markdown(f"E = Σ over layers of **{mac}** × connections: a multiply-accumulate each, in one pass.")
        return
    repeated = {"rows": "for each row", "pixels": "for each pixel", "events": "for each frame of events"}
    twin = repeated.get(config.encoding, "once")
    first = (
        f" The first layer gets {'real numbers' if config.encoding == 'direct' else 'a piece of the image'}, no spikes: it "
        f"is charged **{mac}** × connections at each timestep."
        if config.analog_input
        else " The first layer is charged likewise, for the "
        + ("events of the frames." if config.encoding == "events" else "spikes of the rate code.")
    )
    st.markdown(
        f"E = Σ over layers and timesteps up to the exit of **{ac}** × connections × spikes per input neuron.{first} "
        f"ANN twin: **{mac}** × connections of the same layers, {twin}. Memory and leak are not counted."
    )


def where_it_goes(
    view: View, constants: Constants, by_layer: pd.DataFrame, spent_nj: float, step: int, rule: int | None
) -> None:
    """By layer up to the exit, against the ANN twin, and at each timestep.

    by_layer: of `energy.energy`. spent_nj: up to `step`. rule: the step of the γ rule.
    """
    config = view.checkpoint.config
    st.subheader("Where the energy goes", anchor=False)
    spent = by_layer[by_layer["step"] <= step].groupby("layer", sort=False)["energy_nj"].sum().reset_index()
    if config.kind == "ann":
        show.chart(charts.energy_by_layer(spent), spent, "energy_layers", "Energy of one sample by layer.")
        return
    twin = energy.ann_energy(config, constants)
    total = energy.ann_energy_nj(config, constants)
    ratio = f", {total / spent_nj:.3g} times as much" if spent_nj else ""
    st.markdown(
        f"Up to t = {step}: **{show.energy(spent_nj)}** for one sample; the same layers as an ordinary network: "
        f"**{show.energy(total)}**{ratio}."
    )
    left, right = st.columns(2) if view.steps > 1 else (st.container(), None)
    with left:
        st.markdown(f"**By layer**, up to t = {step}")
        table = spent.merge(twin.rename(columns={"energy_nj": "ann_energy_nj"}), on="layer")
        said = "Energy of one sample by layer, beside that of the same layers as an ordinary network."
        show.chart(charts.energy_by_layer(spent, twin), table, "energy_layers", said)
    if right is not None:
        with right:
            st.markdown("**At each timestep**, by layer")
            figure = charts.energy_by_step(by_layer, step, rule)
            show.chart(figure, by_layer, "energy_steps", "Energy of one sample at each timestep, stacked by layer.")
