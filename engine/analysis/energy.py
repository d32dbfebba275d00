"""Energy of a network's arithmetic, from the spikes it fired: nothing is run again for other constants.

    E_SNN = E_AC · Σ_layers MACs · Σ_t rate(t)        rate: spikes per input neuron of the layer at timestep t
    E_ANN = E_MAC · Σ_layers MACs

Each arriving spike costs an accumulate per connection. A layer that gets real numbers has to multiply: every layer of
an ANN, and the first one where the image itself is the current (encodings direct, rows, pixels), at each timestep.
Memory and leak are not counted.  Source: Kim & Panda, Frontiers in Neuroscience 15:773954 (2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..snn import ModelConfig
from .evaluation import Evaluation

LIMIT_PJ = 1e5


@dataclass(frozen=True)
class Constants:
    """What one operation costs: mac_pj a multiply-accumulate, ac_pj an accumulate, in pJ, above 0 and at most 1e5.

    Raises ValueError with one sentence for other values.
    """

    mac_pj: float
    ac_pj: float

    def __post_init__(self):
        for name, value in (("multiply-accumulate", self.mac_pj), ("accumulate", self.ac_pj)):
            if not (isinstance(value, (int, float)) and math.isfinite(value) and 0 < value <= LIMIT_PJ):
                raise ValueError(
                    f"the energy of one {name} must be above 0 and at most {LIMIT_PJ:,.0f} pJ, not {value!r}"
                )


# 45 nm: Horowitz, "Computing's energy problem", ISSCC 2014, multiply and add each rounded as Kim & Panda 2021 use them.
# 7 nm: Jouppi et al., "Ten lessons from three generations shaped Google's TPUv4i", ISCA 2021, Table 2.
# A multiply-accumulate is a multiply and an add, an accumulate the add alone.
PRESETS = {
    "45 nm, 32-bit float": Constants(4.6, 0.9),  # 3.7 + 0.9
    "45 nm, 32-bit integer": Constants(3.2, 0.1),  # 3.1 + 0.1
    "45 nm, 16-bit float": Constants(1.5, 0.4),  # 1.1 + 0.4
    "45 nm, 8-bit integer": Constants(0.23, 0.03),  # 0.2 + 0.03
    "7 nm, 32-bit float": Constants(1.69, 0.38),  # 1.31 + 0.38
    "7 nm, 8-bit integer": Constants(0.077, 0.007),  # 0.07 + 0.007
}
PAPER = PRESETS["45 nm, 32-bit float"]


def energy(config: ModelConfig, mean_spikes: np.ndarray, constants: Constants = PAPER) -> pd.DataFrame:
    """Energy of one sample by layer and timestep: layer, step, macs, rate, operation, energy_nj.

    mean_spikes: [T, layers + 1], as Evaluation.mean_spikes. rate: spikes per input neuron of the layer at that step.
    operation: "MAC" where the layer multiplies real numbers, "AC" where it adds up spikes. The formula is the module's.
    """
    rows = []
    for spec, index, neurons, multiplies in _layers(config):
        rate = mean_spikes[:, index] / neurons
        cost = np.full(len(rate), constants.mac_pj) if multiplies else constants.ac_pj * rate
        rows.append(
            pd.DataFrame(
                {
                    "layer": spec.name,
                    "step": np.arange(1, len(rate) + 1),
                    "macs": spec.macs,
                    "rate": rate,
                    "operation": "MAC" if multiplies else "AC",
                    "energy_nj": spec.macs * cost / 1e3,
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


def ann_energy(config: ModelConfig, constants: Constants = PAPER) -> pd.DataFrame:
    """Energy of the same layers as an ordinary (ANN) network: layer, energy_nj; a multiply-accumulate a connection.

    It runs once, or at each of T timesteps where these show different input: rows, pixels, frames of events.
    """
    passes = config.steps if config.encoding in ("rows", "pixels", "events") else 1
    rows = [(spec.name, constants.mac_pj * passes * spec.macs / 1e3) for spec in config.layers()]
    return pd.DataFrame(rows, columns=["layer", "energy_nj"])


def ann_energy_nj(config: ModelConfig, constants: Constants = PAPER) -> float:
    """What `ann_energy` adds up to over the layers, nJ."""
    return float(ann_energy(config, constants)["energy_nj"].sum())


@dataclass(frozen=True)
class Costs:
    """What each of N samples has cost when it leaves after t = 1 … T: float64 [T, N], sums over timesteps up to t.

    spikes: fired by the hidden layers. energy_nj: in nJ.
    """

    spikes: np.ndarray
    energy_nj: np.ndarray

    def select(self, rows: np.ndarray) -> Costs:
        """These samples alone, in the order of `rows`: int64 positions from 0."""
        return Costs(self.spikes[:, rows], self.energy_nj[:, rows])


def costs(config: ModelConfig, evaluation: Evaluation, constants: Constants = PAPER) -> Costs:
    """What leaving costs every single sample, by the formula of the module with its own spikes instead of their mean."""
    step_nj = np.zeros(evaluation.predictions.shape)
    for spec, index, neurons, multiplies in _layers(config):
        if multiplies:
            step_nj += spec.macs * constants.mac_pj / 1e3
        else:
            step_nj += evaluation.spikes[:, index] * (spec.macs * constants.ac_pj / neurons / 1e3)
    hidden = evaluation.spikes[:, 1:].sum(1, dtype=np.float64)
    return Costs(hidden.cumsum(0), step_nj.cumsum(0))


def _layers(config: ModelConfig):
    """Of each weight layer: its LayerSpec, the row of Evaluation.spikes that it gets, from how many neurons, and whether
    it multiplies real numbers."""
    sources = [math.prod(config.step_shape), *(spec.neurons for spec in config.hidden_layers())]
    for index, spec in enumerate(config.layers()):
        yield spec, index, sources[index], config.kind == "ann" or (index == 0 and config.analog_input)
