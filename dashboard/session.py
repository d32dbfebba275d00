"""What this visitor has chosen: model, its settings, data set, sample, exit step. All of it sits in the URL."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st
from torch import Tensor

from engine import datasets
from engine.analysis import gamma
from engine.checkpoint import Checkpoint
from engine.datasets import DataError, DataSet, Images
from engine.question import fingerprint, place
from engine.snn import ModelConfig

from . import models

GAMMA_THRESHOLD = 0.1  # the paper's


@dataclass(frozen=True)
class View:
    """Everything a page draws from.

    checkpoint: with the sidebar's settings applied. data: the data set shown. pixels, labels: its first test samples,
    as many as the sidebar says, uint8 [N, C, H, W] (events: [N, T, 2, H, W]) as the network takes them and int64 [N];
    None where there is only γ and where the data set is not here: then `missing` says why in one sentence. sample: row
    in them. caution: why accuracies on this data say little about this network, or "". fingerprint: hash of everything
    a result of the network depends on.
    """

    name: str
    checkpoint: Checkpoint
    data: DataSet
    pixels: Tensor | None
    labels: Tensor | None
    sample: int
    caution: str
    fingerprint: str
    missing: str = ""

    @property
    def steps(self) -> int:
        """T: of the network, or of the longest stack where there is only γ."""
        if self.checkpoint.config:
            return self.checkpoint.config.steps
        return max(len(stack.gamma) for stack in self.checkpoint.stacks.values())

    def key(self, name: str) -> str:
        """Key, and name in the URL, of a choice that belongs to this model alone."""
        return key_of(self.name, self.checkpoint, name)

    def class_name(self, index: int) -> str:
        """Name of a class of the network."""
        if self.caution or len(self.data.classes) != self.checkpoint.config.classes:
            return f"class {index}"
        return self.data.classes[index]


def key_of(model: str, checkpoint: Checkpoint, name: str) -> str:
    """`name` for the default model, with the beginning of the file's hash for any other: no choice made for one model
    is ever applied to another, not even to another file of the same name."""
    return name if model == models.DEFAULT else f"{name}_{checkpoint.digest[:6]}"


def view(name: str, checkpoint: Checkpoint, data: DataSet, sample: int, count: int | None = None) -> View:
    """Put a view together; count: how many test samples, None = all."""
    alone = fingerprint(checkpoint, "")
    if checkpoint.model is None:
        return View(name, checkpoint, data, None, None, 0, "", alone)
    caution = _caution(checkpoint, data)
    try:
        where = place(data)
        pixels, labels = _fitted(data, where, checkpoint.config.in_shape, _frames(data, checkpoint.config), count)
    except DataError as error:
        return View(name, checkpoint, data, None, None, 0, caution, alone, str(error))
    asked = fingerprint(checkpoint, where)
    return View(name, checkpoint, data, pixels, labels, min(sample, len(labels) - 1), caution, asked)


def test_samples(data: DataSet, config: ModelConfig) -> Images:
    """All test samples as the data set has them. Raises DataError."""
    return data.load("test", steps=_frames(data, config), side=config.in_shape[1])


def _frames(data: DataSet, config: ModelConfig) -> int | None:
    return config.steps if data.events else None


def current() -> View:
    """The view of this run of the script, as the sidebar left it."""
    return st.session_state["view"]


def exit_step(shown: View) -> int:
    """The slider over exit steps, shared by all pages and the URL.

    Where nothing was chosen it stands at the step of the paper's γ rule, or at T if the rule does not leave early.
    """
    steps = shown.steps
    if steps == 1:
        st.caption("This network has a single timestep, so there is nothing to leave early.")
        return 1
    return st.slider(
        "Leave after timestep t",
        1,
        steps,
        gamma.exit_rule(shown.checkpoint) or steps,
        key=shown.key("t"),
        bind="query-params",
        help=f"The network runs for T = {steps} timesteps. Leaving after t of them takes the scores collected so far.",
    )


def gamma_threshold() -> float:
    """The slider over the threshold of the paper's γ rule, shared by all pages and the URL."""
    return st.slider(
        "Exit threshold on mean γ",
        0.0,
        1.0,
        GAMMA_THRESHOLD,
        0.01,
        key="threshold_gamma",
        bind="query-params",
        help="The paper leaves at the first timestep where the channel mean of γ is below this in every layer.",
    )


@st.cache_resource(max_entries=8, show_spinner="Reading the data set …", hash_funcs={DataSet: lambda data: data.name})
def _fitted(data: DataSet, place: str, shape: tuple[int, ...], steps: int | None, count: int | None):
    """The first samples as the network takes them, in memory of their own: a slice would travel to the workers with all
    that it is a slice of."""
    pixels, labels = data.load("test", steps=steps, side=shape[1])
    return datasets.fit(pixels[:count], shape).clone(), labels[:count].clone()


def _caution(checkpoint: Checkpoint, data: DataSet) -> str:
    if checkpoint.dataset == data.name:
        return ""
    return (
        f"This network was trained on {checkpoint.dataset or 'unknown data'} and gets {data.title} here: spikes, energy "
        "and latency are real, accuracy says nothing about how good the network is."
    )
