"""The sidebar of every page: which model, which data, which sample."""

from __future__ import annotations

import streamlit as st

from engine import datasets
from engine.analysis import evaluation
from engine.checkpoint import Checkpoint, CheckpointError
from engine.checkpoint.guess import DATASETS
from engine.datasets import DataError, DataSet

from . import data, models, session
from .show import picture


def draw() -> None:
    """Draw it and leave the resulting view where `session.current` finds it. Stops the script where there is none."""
    with st.sidebar:
        name = _model()
        try:
            checkpoint = models.open_model(name)
            if checkpoint.model is not None:
                checkpoint, shown, sample, count = _settings(name, checkpoint)
            else:
                shown, sample, count = datasets.get("digits"), 0, None
                st.caption("γ only: this file holds BNTT layers but no network that could be run.")
        except CheckpointError as error:
            st.error(str(error))
            st.stop()
    st.session_state["view"] = session.view(name, checkpoint, shown, sample, count)


def _model() -> str:
    _take_upload()
    chosen = st.session_state.pop("upload_choice", None)  # by an upload or a page, before the box exists in this run
    if chosen:
        st.session_state["model"] = chosen
    names = models.names()
    asked = st.query_params.get("model")
    if asked and asked not in names and not chosen:  # else the URL still names what the choice replaces
        st.session_state["absent_model"] = asked  # the URL forgets it after this run
    absent = st.session_state.get("absent_model")
    if absent and absent not in names:
        # a run was deleted or renamed; of an upload the file is needed again
        advice = "" if absent.startswith("runs/") else " Upload the file to see it."
        st.warning(f"The model **{absent}** is not here: **{models.DEFAULT}** is shown.{advice}")
    if st.session_state.get("model", models.DEFAULT) not in names:
        st.session_state["model"] = models.DEFAULT
    name = st.selectbox(
        "Model",
        names,
        index=names.index(models.DEFAULT),
        key="model",
        bind="query-params",
        on_change=_forget_told,
        help="bundled: comes with the app. runs: trained here. uploads: yours, seen by nobody else.",
    )
    st.file_uploader(
        "Open a checkpoint",
        key=f"upload {st.session_state.get('uploads', 0)}",
        help="A .pth.tar, .pth or .pt of the published BNTT code, a .safetensors of this project, or any PyTorch file with "
        "BNTT layers (snnTorch, SpikingJelly). Nothing in a file is ever executed.",
    )
    if "upload_error" in st.session_state:
        st.error(st.session_state["upload_error"])
    return name


def _forget_told() -> None:
    """What was said of another model."""
    for told in ("absent_model", "upload_error"):
        st.session_state.pop(told, None)


def _take_upload() -> None:
    """Open the file that the uploader holds. Not a callback of its: Streamlit can lose that where it meets a redraw."""
    file = st.session_state.get(f"upload {st.session_state.get('uploads', 0)}")
    if file is None:
        return
    st.session_state.pop("upload_error", None)
    try:
        st.session_state["upload_choice"] = models.accept(file)
    except CheckpointError as error:
        st.session_state["upload_error"] = str(error)
    st.session_state["uploads"] = st.session_state.get("uploads", 0) + 1  # a fresh, empty uploader


def _settings(model: str, checkpoint: Checkpoint) -> tuple[Checkpoint, DataSet, int, int | None]:
    """Data set, sample and number of samples, and what the file did not say about the network."""
    config = checkpoint.config
    known = data.known()
    offered = [name for name, (entry, _) in known.items() if entry.suits(config.encoding)]
    own = checkpoint.dataset
    # where its own is not here, a network can at least be looked at with another
    default = own if own in offered and not known[own][1] else offered[0]
    key = session.key_of(model, checkpoint, "data")
    asked = st.query_params.get(key)
    if asked and asked not in offered:
        st.session_state["absent_data"] = asked  # the URL forgets it after this run
    if absent := st.session_state.get("absent_data"):
        st.warning(f"The link names the data set **{absent}**, which is not known here or does not fit this network.")
    data_name = st.selectbox(
        "Data set",
        offered,
        index=offered.index(default),
        key=key,
        on_change=lambda: st.session_state.pop("absent_data", None),
        bind="query-params",
        help=f"Looked for in {datasets.folder()}. A folder of class folders of images put there is offered too.",
    )
    shown = known[data_name][0]
    sample, count = _samples(shown, model, checkpoint)

    guessed = any(note.guessed for note in checkpoint.notes)
    with st.expander("Settings of the network" + (" (some guessed)" if guessed else ""), expanded=guessed):
        checkpoint = _network_settings(model, checkpoint)
        for note in checkpoint.notes:
            if note.guessed:
                st.caption(f"**{note.field}** was guessed: {note.reason}")
    return checkpoint, shown, sample, count


def _samples(chosen: DataSet, model: str, checkpoint: Checkpoint) -> tuple[int, int | None]:
    """Which test sample the pages look at, and how many of them they count over."""
    try:
        pixels, labels = session.test_samples(chosen, checkpoint.config)
    except DataError:
        st.caption(f"{chosen.title} is not here, or damaged: Overview says more.")
        return 0, None
    count = len(labels)
    usual = evaluation.affordable(checkpoint.config)
    if usual < count:
        count = st.number_input(
            "Test samples",
            1,
            len(labels),
            usual,
            100,
            key=session.key_of(model, checkpoint, f"count_{chosen.name}"),
            bind="query-params",
            help=f"How many of the {len(labels):,} the pages run. Running them all with a network of this size takes long.",
        )
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    sample = left.number_input(
        "Test sample",
        0,
        count - 1,
        0,
        key="sample" if chosen.name == "digits" else f"sample_{chosen.name}",  # another set, another choice
        bind="query-params",
        help=f"Which of the {count:,} test samples the pages look at.",
    )
    right.image(picture(pixels[sample], 72), width=72)
    st.caption(f"It shows: **{chosen.classes[int(labels[sample])]}**")
    return sample, count


def _network_settings(model: str, checkpoint: Checkpoint) -> Checkpoint:
    own = checkpoint.dataset
    known = list(dict.fromkeys([*DATASETS, *data.known(), *filter(None, [own])]))
    trained_on = st.selectbox(
        "Trained on",
        known,
        index=known.index(own) if own else None,
        key=session.key_of(model, checkpoint, "trained_on"),
        bind="query-params",
        help="The data set this network was trained on. λ and normalisation follow it where the file does not tell them.",
    )
    if trained_on != own:
        checkpoint = checkpoint.replace(dataset=trained_on)

    def key(name: str) -> str:
        # what is likely depends on the data set, so a choice made for another one is not carried over
        return session.key_of(model, checkpoint, name) + ("" if trained_on == own else f"_{trained_on}")

    config = checkpoint.config
    if any(note.field == "image_size" and note.guessed for note in checkpoint.notes):
        side = st.number_input(
            "Side of the images",
            1,
            1024,
            config.in_shape[1],
            key=key("image_size"),
            bind="query-params",
            help="In pixels. This network's weights fit any side its pools allow, so the file cannot tell it.",
        )
        if side != config.in_shape[1]:
            checkpoint = checkpoint.replace(image_size=side)
    leak = st.number_input(
        "Leak λ",
        0.0,
        1.0,
        config.leak,
        0.01,
        format="%.4g",
        key=key("leak"),
        bind="query-params",
        help="How much of the membrane potential is left after one timestep. Not stored in published files.",
    )
    threshold = st.number_input(
        "Threshold θ",
        min(0.01, config.threshold),
        max(100.0, config.threshold),
        config.threshold,
        0.1,
        format="%.4g",
        key=key("threshold"),
        bind="query-params",
        help="A neuron fires when its membrane potential exceeds θ; θ is then subtracted.",
    )
    # an ANN, a sequence and events leave no choice
    codings = (
        ["poisson", "direct"]
        if config.kind != "ann" and config.encoding in ("poisson", "direct")
        else [config.encoding]
    )
    encoding = st.selectbox(
        "Input coding",
        codings,
        index=codings.index(config.encoding),
        key=key("encoding"),
        bind="query-params",
        disabled=len(codings) == 1,
        help="poisson: signed random spikes, as in the paper. direct: the image itself as current at every timestep.",
    )
    mean = st.text_input(
        "Mean of the pixels",
        _listed(checkpoint.mean),
        key=key("mean"),
        bind="query-params",
        help="Subtracted before coding, a number per channel; pixels run from 0 to 1.",
    )
    std = st.text_input(
        "Standard deviation of the pixels",
        _listed(checkpoint.std),
        key=key("std"),
        bind="query-params",
        help="Divides the pixels after the mean is subtracted, a number per channel.",
    )
    changes = {"leak": leak, "threshold": threshold, "encoding": encoding, "mean": _numbers(mean), "std": _numbers(std)}
    now = {
        "leak": config.leak,
        "threshold": config.threshold,
        "encoding": config.encoding,
        "mean": _numbers(_listed(checkpoint.mean)),
        "std": _numbers(_listed(checkpoint.std)),
    }
    return checkpoint.replace(**{key: value for key, value in changes.items() if value != now[key]})


def _listed(numbers) -> str:
    return ", ".join(f"{number:.4g}" for number in numbers)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.replace(";", ",").split(","))
    except ValueError:
        raise CheckpointError(f"“{text}” is not a list of numbers such as 0.49, 0.48, 0.45") from None
