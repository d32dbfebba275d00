"""Energy against sums by hand over layers, timesteps and samples, in float64."""

import math

import numpy as np
import pytest

from engine.analysis import early_exit, energy
from engine.analysis.energy import PRESETS, Constants
from engine.snn import ModelConfig
from tests.engine.evaluations import drawn

OTHER = Constants(2.5, 0.25)


def config_of(encoding, **change) -> ModelConfig:
    """Three timesteps: two layers of neurons and a read-out of four classes."""
    values = {"arch": "vgg-small", "steps": 3, "in_shape": (1, 4, 4), "classes": 4, "layout": "C2 P F2", **change}
    return ModelConfig(encoding=encoding, **values)


# What a layer of each network multiplies, and how many neurons feed it, counted by hand: a 3×3 convolution of 4×4 to
# 2 channels, 2·2·2 pooled values to 2 neurons (fed by 2·4·4 neurons before pooling), 2 to 4.
IMAGE = [(2 * 16 * 9, 16), (8 * 2, 32), (2 * 4, 2)]
EVENTS = [(2 * 16 * 18, 32), (8 * 2, 32), (2 * 4, 2)]  # two polarities
ROWS = [(4 * 2, 4), (2 * 2, 2), (2 * 4, 2)]  # a row of 4 to 2 to 2 to 4
PIXELS = [(1 * 2, 1), (2 * 2, 2), (2 * 4, 2)]
CASES = {
    "poisson": (config_of("poisson"), IMAGE, False),
    "direct": (config_of("direct"), IMAGE, True),
    "events": (config_of("events", in_shape=(2, 4, 4)), EVENTS, False),
    "rows": (config_of("rows", arch="mlp", layout="F2 F2", steps=4), ROWS, True),
    "pixels": (config_of("pixels", arch="mlp", layout="F2 F2", steps=16), PIXELS, True),
    "converted": (config_of("direct", kind="converted", norm="folded"), IMAGE, True),
}


def by_hand(layers, multiplies_first, spikes, constants) -> np.ndarray:
    """nJ of each layer and timestep from these spikes [T, layers]."""
    spent = np.zeros((len(layers), len(spikes)))
    for layer, (macs, neurons) in enumerate(layers):
        for t in range(len(spikes)):
            real = layer == 0 and multiplies_first
            spent[layer, t] = macs * (constants.mac_pj if real else constants.ac_pj * spikes[t, layer] / neurons) / 1000
    return spent


@pytest.mark.parametrize("constants", [energy.PAPER, OTHER])
@pytest.mark.parametrize("case", CASES)
def test_each_layer_and_timestep_costs_what_is_counted_by_hand(case, constants):
    config, layers, real = CASES[case]
    evaluation = drawn(1, steps=config.steps, samples=7)
    table = energy.energy(config, evaluation.mean_spikes(), constants)
    expected = by_hand(layers, real, evaluation.mean_spikes(), constants)
    found = table.pivot(index="layer", columns="step", values="energy_nj").loc[[s.name for s in config.layers()]]
    np.testing.assert_allclose(found.to_numpy(), expected, rtol=1e-12)
    assert table.groupby("layer")["operation"].first()[config.layers()[0].name] == ("MAC" if real else "AC")
    assert (table[table["layer"] != config.layers()[0].name]["operation"] == "AC").all()


@pytest.mark.parametrize("constants", [energy.PAPER, OTHER])
@pytest.mark.parametrize("case", CASES)
def test_each_sample_costs_what_its_own_spikes_cost(case, constants):
    config, layers, real = CASES[case]
    evaluation = drawn(2, steps=config.steps, samples=5)
    costs = energy.costs(config, evaluation, constants)
    for sample in range(5):
        spent = by_hand(layers, real, evaluation.spikes[:, :, sample], constants).sum(0)
        fired = [sum(int(n) for n in evaluation.spikes[t, 1:, sample]) for t in range(config.steps)]
        for t in range(config.steps):
            assert costs.energy_nj[t, sample] == pytest.approx(math.fsum(spent[: t + 1]), rel=1e-12)
            assert costs.spikes[t, sample] == sum(fired[: t + 1])


@pytest.mark.parametrize("case", CASES)
def test_the_mean_of_the_samples_is_the_exit_table(case):
    config = CASES[case][0]
    evaluation = drawn(3, steps=config.steps)
    table = early_exit.exit_table(config, evaluation, OTHER)
    costs = energy.costs(config, evaluation, OTHER)
    np.testing.assert_allclose(costs.energy_nj.mean(1), table["energy_nj"], rtol=1e-12)
    np.testing.assert_allclose(costs.spikes.mean(1), table["spikes"], rtol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_the_twin_pays_every_connection_once_or_at_each_input(case):
    config, layers, _ = CASES[case]
    passes = {"rows": 4, "pixels": 16, "events": 3}.get(case, 1)
    expected = [2.5 * passes * macs / 1000 for macs, _ in layers]
    assert energy.ann_energy(config, OTHER)["energy_nj"].tolist() == pytest.approx(expected)
    assert energy.ann_energy_nj(config, OTHER) == pytest.approx(math.fsum(expected))


def test_an_ann_multiplies_in_every_layer():
    config = config_of("direct", kind="ann", norm="none", steps=1)
    table = energy.energy(config, np.zeros((1, 3)), OTHER)
    assert table["energy_nj"].tolist() == pytest.approx([2.5 * macs / 1000 for macs, _ in IMAGE])
    assert table["energy_nj"].sum() == pytest.approx(energy.ann_energy_nj(config, OTHER))
    silent = drawn(0, steps=1, samples=3)
    silent.spikes[:] = 0
    assert energy.costs(config, silent, OTHER).energy_nj.ravel() == pytest.approx([table["energy_nj"].sum()] * 3)


def test_presets_are_sums_of_the_published_operations():
    """Multiply and add in pJ: Horowitz 2014, its slide "Rough energy numbers (45 nm)"; Jouppi et al. 2021, Table 2."""
    published = {
        "45 nm, 32-bit float": (3.7, 0.9),
        "45 nm, 32-bit integer": (3.1, 0.1),
        "45 nm, 16-bit float": (1.1, 0.4),
        "45 nm, 8-bit integer": (0.2, 0.03),
        "7 nm, 32-bit float": (1.31, 0.38),
        "7 nm, 8-bit integer": (0.07, 0.007),
    }
    assert list(PRESETS) == list(published) and energy.PAPER == Constants(4.6, 0.9)
    for name, (multiply, add) in published.items():
        assert (PRESETS[name].mac_pj, PRESETS[name].ac_pj) == pytest.approx((multiply + add, add))


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, 1e7, "4", None])
def test_constants_that_mean_nothing_are_told_in_a_sentence(value):
    for pair in ((value, 0.9), (4.6, value)):
        with pytest.raises(ValueError, match="must be above 0 and at most 100,000 pJ") as told:
            Constants(*pair)
        assert "\n" not in str(told.value)
