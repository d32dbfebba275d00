"""What there is to draw of a training: each chart with its title and its data, what matters most first."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from engine import run_metrics
from engine.run_library import Run

from .charts import gamma as gamma_charts
from .charts import training as charts

THRESHOLD = 0.1  # of the paper's exit rule


@dataclass(frozen=True)
class Panel:
    """One chart. key, describe: as for show.chart."""

    title: str
    figure: go.Figure
    table: pd.DataFrame
    key: str
    describe: str


def panels(run: Run, others: list[Run], kept: dict[str, int]) -> list[Panel]:
    """The charts of a run, with others laid over loss and accuracy; what an older run did not write down is left out.

    kept: as for charts.run_looks.
    """
    table = pd.concat([run_metrics.metrics(one.folder).assign(run=one.name) for one in [run, *others]])
    own, epochs = table[table["run"] == run.name], run.recipe.epochs
    loss = Panel("Loss", charts.loss_curves(table, epochs, kept), table, "run_loss", "Training loss after each epoch.")
    found = [_accuracy(run, table, kept, alone=not others), loss]
    exits = run_metrics.exit_accuracy(run.folder)
    if run.config.steps > 1 and (own.empty or not exits.empty):
        found.append(_exits(exits, run))
    if run.config.norm == "bntt":
        found.append(_gamma_now(run_metrics.mean_gamma(run.folder)))
    rates = run_metrics.firing_rates(run.folder)
    if run.config.kind == "snn" and (own.empty or not rates.empty):
        figure = charts.firing_rates(rates, epochs)
        found.append(Panel("Firing rate", figure, rates, "run_rates", "Firing rate of each layer after each epoch."))
    figure = charts.learning_rate(own, epochs, kept)
    return [*found, Panel("Learning rate", figure, own, "run_lr", "Learning rate of each epoch.")]


def gamma_growth(run: Run, layer: str) -> tuple[go.Figure, pd.DataFrame]:
    """How γ of a layer of BNTT came to be, and the data."""
    gamma = run_metrics.mean_gamma(run.folder)
    table = gamma[gamma["layer"] == layer]
    return charts.gamma_growth(table, "mean γ", run.recipe.epochs, THRESHOLD), table.rename(columns={"value": "mean γ"})


def _accuracy(run: Run, table: pd.DataFrame, kept: dict[str, int], alone: bool) -> Panel:
    title = f"Accuracy at T = {run.config.steps}" if alone else "Accuracy, each at its own T"
    title += " (training and validation samples)" if run.recipe.validation else " (training samples)"
    figure = charts.accuracy_curves(table, run.recipe.epochs, kept, 1 / run.config.classes)
    return Panel(title, figure, table, "run_accuracy", "Accuracy on training and validation samples after each epoch.")


def _gamma_now(gamma: pd.DataFrame) -> Panel:
    last = gamma[gamma["epoch"] == gamma["epoch"].max()]
    title = "γ of all layers" if last.empty else f"γ of all layers after epoch {last['epoch'].iloc[0]}"
    figure = gamma_charts.layer_heatmap(last, "mean γ", THRESHOLD, None)
    return Panel(
        title,
        figure,
        last.rename(columns={"value": "mean γ"}),
        "run_gamma_layers",
        "Mean γ by layer and timestep after the latest epoch.",
    )


def _exits(exits: pd.DataFrame, run: Run) -> Panel:
    split, said = ("validation", "validation") if run.recipe.validation else ("train", "training")
    table = exits[exits["split"] == split]
    figure = charts.exit_accuracy(table, run.recipe.epochs)
    title = f"Accuracy leaving at t ({said} samples)"
    return Panel(title, figure, table, "run_exits", "Accuracy by epoch and exit timestep.")
