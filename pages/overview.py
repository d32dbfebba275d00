"""What this network is, and what stands out about it."""

import pandas as pd
import streamlit as st

from dashboard import data, navigation, show, work
from dashboard.charts import gamma as gamma_charts
from dashboard.session import current
from engine.analysis import findings, gamma

view = current()
checkpoint = view.checkpoint


def facts() -> None:
    """The network in a row of numbers."""
    config = checkpoint.config
    if config is None:
        st.info(f"γ-only mode: {checkpoint.missing}")
        items = {
            "BNTT layers": str(len(checkpoint.stacks)),
            "Timesteps T": str(view.steps),
            "γ values": f"{sum(stack.gamma.size for stack in checkpoint.stacks.values()):,}",
        }
    else:
        items = {
            "Network": config.arch + (" (ANN)" if config.kind == "ann" else ""),
            **({} if config.kind == "ann" else {"Timesteps T": str(config.steps), "Leak λ": f"{config.leak:g}"}),
            "Norm": {"bntt": "BNTT", "tdbn": "tdBN", "bn": "BatchNorm"}.get(config.norm, config.norm),
            "Input": "×".join(map(str, config.in_shape)),
            "Classes": str(config.classes),
            "Parameters": _short(sum(p.numel() for p in checkpoint.model.parameters())),
        }
    with st.container(horizontal=True, gap="small"):
        for label, value in items.items():
            st.metric(label, value, border=True, width="content")


def _short(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number >= 1e6 else f"{number / 1e3:.1f} k"


def _said(value) -> str:
    return (
        ", ".join(f"{v:g}" for v in value)
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def cards(found: list[findings.Finding]) -> None:
    """Findings side by side, each with the way to its page."""
    for column, finding in zip(st.columns(len(found)), found):
        with column.container(border=True, height="stretch"):
            st.markdown(f"**{finding.headline}**")
            st.markdown(finding.text)
            navigation.link(finding.page)


def measured() -> None:
    """Findings from γ at once, those from the test samples as soon as they are there."""
    found = findings.from_weights(checkpoint)
    if found:
        cards(found)
    if checkpoint.model is None:
        return
    if view.missing:
        data.offer(view.data, view.missing)
        return
    job = work.evaluation_job(view)
    if view.caution:
        st.warning(view.caution)

    def draw():
        if job.state == "done":
            found = findings.from_evaluation(checkpoint, work.joined(job))
            cards([finding for finding in found if finding.page == "spikes"] if view.caution else found)

    work.live(job, draw)


show.heading(
    "Overview",
    view,
    "What this network is, and what stands out about it. In a network trained with Batch Normalization Through Time (BNTT), "
    "every layer has a scale γ of its own for each timestep ([Kim & Panda 2021](https://arxiv.org/abs/2010.01729)).",
)
facts()
show.what_kind(view)
st.subheader("What stands out", anchor=False)
measured()

if checkpoint.stacks:
    st.subheader(
        "When each layer works",
        anchor=False,
        help="γ scales a layer's normalised input at each timestep. Near zero, the layer adds nothing then.",
    )
    means = gamma.layer_means(checkpoint)
    show.chart(
        gamma_charts.mean_curves(means, "mean γ", 0.1, None),
        means.rename(columns={"value": "mean γ"}),
        "overview_gamma",
        "Mean γ of each layer against the timestep.",
    )

st.subheader("Layers", anchor=False)
if checkpoint.config:
    st.dataframe(
        pd.DataFrame(
            {
                "Layer": spec.name,
                "Kind": {"conv": "3×3 convolution", "linear": "linear"}[spec.kind]
                + ("" if spec.spiking else ", read-out"),
                "Output": "×".join(map(str, spec.out_shape)),
                "Neurons": spec.neurons,
                "Weights": int(pd.Series(spec.weight_shape).prod()),
                "MACs": spec.macs,
                "Then": {"": "", "P": "2×2 average pool", "G": "global average pool"}[spec.pool],
            }
            for spec in checkpoint.config.layers()
        ),
        hide_index=True,
        column_config={
            "Neurons": st.column_config.NumberColumn(format="localized"),
            "Weights": st.column_config.NumberColumn(format="localized"),
            "MACs": st.column_config.NumberColumn(help="Multiply-accumulates of one dense pass", format="localized"),
        },
    )
else:
    st.dataframe(
        pd.DataFrame(
            {"Layer": name, "Timesteps": stack.gamma.shape[0], "Channels": stack.gamma.shape[1]}
            for name, stack in checkpoint.stacks.items()
        ),
        hide_index=True,
    )

st.subheader("Where this comes from", anchor=False)
kinds = {
    "bntt-reference": "a checkpoint in the published layout",
    "engine": "a checkpoint of this project",
    "gamma-only": "a file with BNTT layers of another library",
}
st.markdown(f"{kinds[checkpoint.source].capitalize()}: `{checkpoint.name}`")
if not any(note.guessed for note in checkpoint.notes):
    st.markdown("Nothing had to be guessed: every setting was read from the file or set by you.")
else:
    st.dataframe(
        pd.DataFrame(
            {
                "What": note.field,
                "Value": _said(note.value),
                "How it is known": note.reason,
                "": "guessed" if note.guessed else "read",
            }
            for note in checkpoint.notes
        ),
        hide_index=True,
    )
if checkpoint.metadata:
    with st.expander("What else the file says"):
        st.json(checkpoint.metadata, expanded=True)
