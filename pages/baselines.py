"""BNTT beside the networks it is compared with: over time, under noise, under attacks."""

import streamlit as st

from dashboard import baseline_panels, beside, show, transfer_panel
from dashboard.charts import run_looks
from dashboard.session import current

view = current()
show.heading(
    "Baselines",
    view,
    "BNTT beside what it is compared with: no normalisation, one BatchNorm or tdBN for all timesteps, the ordinary network "
    "(ANN) of the same layers, and that converted into a spiking one.",
)
if view.checkpoint.model is None:
    show.needs_network(view, "A comparison")
found, told = beside.choose(view)
for sentence in [*told, *beside.cautions(found)]:
    st.warning(sentence)
if len(found) < 2:
    st.markdown(
        "It takes two networks. This one has no baselines beside it: choose others above, or train BNTT and every baseline "
        f"alike by `python -m engine compare --dataset {view.checkpoint.dataset or 'NAME'} --out runs/baselines`."
    )
if not found:
    st.stop()
before = st.session_state.get("baseline_colours", {})
st.session_state["baseline_colours"] = kept = run_looks.places(found, before)
with st.container(key="over_time"):
    baseline_panels.over_time(found, kept)
st.subheader("Under noise and attacks", anchor=False)
how = baseline_panels.settings(found)
measured = []
for column, kind in zip(st.columns(len(baseline_panels.STRENGTHS)), baseline_panels.STRENGTHS):
    with column, st.container(key=f"under_{kind}"):
        measured.append(baseline_panels.disturbed(found, kind, how, kept))
baseline_panels.numbers(found, measured)
with st.container(key="transfer_matrix"):
    eps = transfer_panel.section(found, how)
with st.container(key="trusted"):
    transfer_panel.trusted(found, how, eps)
