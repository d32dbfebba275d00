"""Every figure that the pages show, each against an independent computation."""

import numpy as np
import pandas as pd
import pytest
import torch

from engine.analysis import activity, early_exit, energy, evaluation, findings, gamma
from engine.checkpoint import load_checkpoint, save_checkpoint
from engine.snn import ModelConfig, build_model, spike_counts
from tests.engine.evaluations import drawn, made_up

CONFIG = ModelConfig(arch="vgg-small", steps=5, in_shape=(1, 8, 8), layout="C4 P C6 P F8")
MEAN, STD = (0.3,), (0.4,)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = build_model(CONFIG)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.1, 0.5)
    return model.eval()


@pytest.fixture
def checkpoint(model, tmp_path):
    with torch.no_grad():
        for layer, start in (("bntt1", 1.0), ("bntt2", 0.8), ("bntt_fc", 0.7)):
            for t in range(5):
                model.get_parameter(f"{layer}.{t}.weight").copy_(
                    torch.linspace(-0.05, 0.05, model.get_parameter(f"{layer}.{t}.weight").numel()) + start * 0.4**t
                )
    save_checkpoint(tmp_path / "m.safetensors", model, dataset="digits", mean=MEAN, std=STD)
    return load_checkpoint(tmp_path / "m.safetensors")


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (23, 1, 8, 8), generator=generator, dtype=torch.uint8), torch.randint(
        0, 10, (23,), generator=generator
    )


def run(model, images, rows=None, **more):
    pixels, labels = images
    rows = torch.arange(len(pixels)) if rows is None else rows
    return evaluation.evaluate(model, pixels[rows], labels[rows], rows, MEAN, STD, **{"seed": 3, **more})


def test_evaluation_equals_sample_by_sample(model, images):
    """Against forward_steps and spike_counts on each image alone."""
    whole = run(model, images)
    for row in (0, 7, 22):
        x = (images[0][row : row + 1].float() / 255 - MEAN[0]) / STD[0]
        alone = {"seed": 3, "samples": torch.tensor([row])}
        with torch.no_grad():
            np.testing.assert_array_equal(whole.predictions[:, row], model.forward_steps(x, **alone)[:, 0].argmax(1))
        np.testing.assert_array_equal(whole.spikes[:, 1:, row], spike_counts(model, x, **alone)[:, :, 0])


@pytest.mark.parametrize("cuts", [[5], [1, 2, 20]])
def test_parts_join_to_the_whole(model, images, cuts):
    pixels, labels = images
    edges = [0, *cuts, len(labels)]
    shared = {"model": model, "pixels": pixels, "labels": labels, "mean": MEAN, "std": STD, "seed": 3}
    joined = evaluation.join([evaluation.evaluate_rows(a, b, **shared) for a, b in zip(edges, edges[1:])])
    whole = run(model, images)
    for part in ("predictions", "labels", "spikes"):
        np.testing.assert_array_equal(getattr(joined, part), getattr(whole, part))
    for part in ("confidence", "margin", "entropy"):  # batches of another size round otherwise
        np.testing.assert_allclose(getattr(joined, part), getattr(whole, part), atol=1e-5)


def test_certainty_is_that_of_the_softmax_in_float64(model, images):
    """NumPy and SciPy in float64, from forward_steps of all samples."""
    from scipy.special import softmax
    from scipy.stats import entropy as nats

    found = run(model, images)
    x = (images[0].float() / 255 - MEAN[0]) / STD[0]
    with torch.no_grad():
        shares = softmax(model.forward_steps(x, seed=3, samples=torch.arange(23)).double().numpy(), 2)
    ordered = np.sort(shares, 2)
    np.testing.assert_allclose(found.confidence, ordered[:, :, -1], atol=1e-6)
    np.testing.assert_allclose(found.margin, ordered[:, :, -1] - ordered[:, :, -2], atol=1e-6)
    np.testing.assert_allclose(found.entropy, nats(shares, axis=2), atol=2e-6)
    assert {getattr(found, name).dtype for name in ("confidence", "margin", "entropy")} == {np.dtype(np.float32)}


def test_certainty_at_its_ends():
    """One class is certain, equal scores are not at all, and scores as far apart as float32 allows give no NaN."""
    for scores, expected in (
        ([[3.0]], (1, 1, 0)),
        ([[2.0] * 8], (1 / 8, 0, np.log(8))),
        ([[1e38, -1e38, 0.0]], (1, 1, 0)),
    ):
        found = [float(measure) for measure in evaluation.certainty(torch.tensor(scores))]
        assert found == pytest.approx(expected, abs=1e-6)


def test_selected_samples_are_those_at_their_places():
    whole, rows = drawn(0), np.array([7, 2, 30])
    part = whole.select(rows)
    for place, row in enumerate(rows):
        assert part.labels[place] == whole.labels[row]
        np.testing.assert_array_equal(part.spikes[:, :, place], whole.spikes[:, :, row])
        for name in ("predictions", "confidence", "margin", "entropy"):
            np.testing.assert_array_equal(getattr(part, name)[:, place], getattr(whole, name)[:, row])


def test_chunks_do_not_change_results(model, images, monkeypatch):
    whole = run(model, images)
    monkeypatch.setattr(evaluation, "chunk_size", lambda config: 4)
    np.testing.assert_array_equal(run(model, images).spikes, whole.spikes)


def test_chunks_fit_the_budget():
    """The widest layer of VGG9 at 32×32 and T = 25 has 65,536 neurons: 6.25 MiB a sample."""
    config = ModelConfig(arch="vgg9", steps=25)
    assert evaluation.chunk_size(config, budget=7 * 2**20) == 1
    assert evaluation.chunk_size(config, budget=20 * 2**20) == 3
    assert evaluation.chunk_size(config, budget=1) == 1


def test_bfloat16_leaves_the_model_as_it_was(model, images):
    run(model, images, precision="bfloat16")
    assert model.precision == "float32"


@pytest.mark.parametrize(("correct", "samples"), [(0, 10), (3, 7), (397, 399), (399, 399)])
def test_wilson_equals_scipy(correct, samples):
    from scipy.stats import binomtest

    expected = binomtest(correct, samples).proportion_ci(0.95, method="wilson")
    assert evaluation.wilson(correct, samples) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_exit_table_by_hand():
    """Two timesteps, two samples, all sums done by hand for a network of two layers."""
    config = ModelConfig(arch="vgg-small", steps=2, in_shape=(1, 2, 2), classes=2, layout="F2")
    result = made_up(
        predictions=np.array([[0, 0], [0, 1]], np.int32),
        labels=np.array([0, 1]),
        spikes=np.array([[[4, 2], [1, 0]], [[2, 0], [2, 1]]]),
    )
    table = early_exit.exit_table(config, result)
    # rates: input (3/4, 1/4), hidden (0.5/2, 1.5/2); MACs: 4·2 and 2·2; 0.9 pJ each
    first = 0.9 * (8 * 0.75 + 4 * 0.25) / 1e3
    second = 0.9 * (8 * 0.25 + 4 * 0.75) / 1e3
    assert table["accuracy"].tolist() == [0.5, 1.0]
    assert table["spikes"].tolist() == [0.5, 2.0]
    assert table["energy_nj"].tolist() == pytest.approx([first, first + second])
    assert energy.ann_energy_nj(config) == pytest.approx(4.6 * 12 / 1e3)
    assert early_exit.changed_answers(result, 1).to_dict("records") == [
        {"row": 1, "label": 1, "here": 0, "at_end": 1, "effect": "gained"}
    ]
    assert early_exit.changed_answers(result, 2).empty


def test_direct_coding_pays_multiplications_in_the_first_layer():
    config = ModelConfig(arch="vgg-small", steps=3, in_shape=(1, 2, 2), classes=2, layout="F2", encoding="direct")
    table = energy.energy(config, np.ones((3, 2)))
    first = table[table["layer"] == "fc1"]["energy_nj"]
    assert first.tolist() == pytest.approx([4.6 * 8 / 1e3] * 3)


def test_macs_equal_a_count_of_the_published_vgg9():
    """Multiply-accumulates of VGG9 at 32×32, summed by hand from its layer sizes."""
    by_hand = [
        32**2 * 64 * 27,
        32**2 * 64 * 576,
        16**2 * 128 * 576,
        16**2 * 128 * 1152,
        8**2 * 256 * 1152,
        8**2 * 256 * 2304,
        8**2 * 256 * 2304,
        4096 * 1024,
        1024 * 10,
    ]
    assert [spec.macs for spec in ModelConfig(arch="vgg9").layers()] == by_hand


@pytest.mark.parametrize("arch, steps", [("vgg-small", 5), ("vgg11", 25)])
@pytest.mark.parametrize("count", [1, 9, 10, 11, 95, 1000])
def test_parts_of_an_evaluation_are_all_rows_once(arch, steps, count):
    config = ModelConfig(arch=arch, steps=steps, in_shape=(3, 32, 32))
    parts = evaluation.evaluation_parts(config, count)
    assert [row for start, stop in parts for row in range(start, stop)] == list(range(count))
    assert all(type(bound) is int for part in parts for bound in part), "their text is part of a key"
    assert max(stop - start for start, stop in parts) <= min(evaluation.part_size(config, 1), -(-count // 10))
    assert parts == evaluation.evaluation_parts(config, count)


def test_an_evaluation_in_parts_equals_the_whole(model, images):
    pixels, labels = images
    shared = dict(model=model, pixels=pixels, labels=labels, mean=MEAN, std=STD, seed=3)
    parts = evaluation.evaluation_parts(CONFIG, len(pixels))
    joined, whole = evaluation.join([evaluation.evaluate_rows(*part, **shared) for part in parts]), run(model, images)
    for name in ("predictions", "labels", "spikes"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))


def test_latency_covers_every_step(model):
    table = early_exit.latency(model, repeats=2)
    assert table["step"].tolist() == [1, 2, 3, 4, 5]
    assert (table["latency_ms"] > 0).all() and table["measured"].all()


def test_gamma_quantities(checkpoint):
    stack = checkpoint.stacks["conv2"]
    means = gamma.layer_means(checkpoint)
    expected = [[float(np.mean(s.gamma[t], dtype=np.float64)) for t in range(5)] for s in checkpoint.stacks.values()]
    assert means["value"].tolist() == pytest.approx(np.concatenate(expected).tolist())
    assert means["layer"].drop_duplicates().tolist() == ["conv1", "conv2", "fc1"]
    gain = gamma.values(checkpoint, "conv2", "gain")
    np.testing.assert_allclose(
        gain, stack.gamma.astype(float) / np.sqrt(stack.running_var.astype(float) + 1e-4), rtol=1e-6
    )
    assert gamma.values(checkpoint, "conv2", "running_mean") is stack.running_mean


@pytest.mark.parametrize(("threshold", "step"), [(1.1, 1), (0.41, 2), (0.1, 4), (0.02, None)])
def test_exit_rule(checkpoint, threshold, step):
    """Channel means are 1.0, 0.8 and 0.7 times 0.4^(t−1): the slowest layer decides."""
    assert gamma.exit_rule(checkpoint, threshold) == step


def test_quantiles_equal_pandas():
    table = np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32)
    ours = gamma.quantiles(table)
    for t in range(3):
        series = pd.Series(table[t], dtype=float)
        expected = [series.quantile(q) for q in (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)]
        assert ours.iloc[t][["min", "p05", "p25", "median", "p75", "p95", "max"]].tolist() == pytest.approx(expected)


def test_activity_obeys_the_neuron_equation(model, images):
    """u_t = λ·(u_{t−1} − θ·s_{t−1}) + y_t: spikes exactly where u > θ, and totals equal spike_counts."""
    run = activity.record(model, images[0][4], 4, MEAN, STD, seed=3)
    x = (images[0][4:5].float() / 255 - MEAN[0]) / STD[0]
    counts = spike_counts(model, x, seed=3, samples=torch.tensor([4]))[:, :, 0]
    for index, (layer, fired) in enumerate(run.spikes.items()):
        np.testing.assert_array_equal(fired, run.membrane[layer] > CONFIG.threshold)
        np.testing.assert_array_equal(fired.sum(1), counts[:, index])
    busiest = int(run.spikes["conv1"].sum(0).argmax())
    trace = run.trace("conv1", busiest)
    assert trace["spike"].any()
    np.testing.assert_allclose(
        trace["after"], np.where(trace["spike"], trace["before"] - 1.0, trace["before"]), rtol=1e-6
    )
    with torch.no_grad():
        expected = model.forward_steps(x, seed=3, samples=torch.tensor([4])).softmax(2)[:, 0]
    np.testing.assert_allclose(run.probabilities(), expected, atol=1e-6)
    rates = run.channel_rates("conv2")
    np.testing.assert_allclose(rates.mean(1), run.firing_rates().query("layer == 'conv2'")["rate"])


def test_activity_in_bfloat16_is_recorded_too(model, images):
    """The same input spikes, which are exact in it; spikes where u > θ."""
    exact = activity.record(model, images[0][4], 4, MEAN, STD, seed=3)
    model.precision = "bfloat16"
    try:
        run = activity.record(model, images[0][4], 4, MEAN, STD, seed=3)
    finally:
        model.precision = "float32"
    np.testing.assert_array_equal(run.inputs, exact.inputs)
    for layer, fired in run.spikes.items():
        np.testing.assert_array_equal(fired, run.membrane[layer] > CONFIG.threshold)


@pytest.mark.parametrize(("how", "limit"), [("even", 10), ("active", 10), ("even", 1000)])
def test_neurons_for_a_raster(how, limit):
    fired = np.random.default_rng(0).random((6, 300)) < np.linspace(0, 1, 300)
    chosen = activity.choose_neurons(fired, how, limit)
    assert len(chosen) == min(limit, 300) == len(set(chosen)) and (np.diff(chosen) > 0).all()
    if how == "active":
        assert fired[:, chosen].sum(0).min() >= np.delete(fired, chosen, 1).sum(0).max()


def test_findings_speak_of_the_numbers(checkpoint, images):
    weights = findings.from_weights(checkpoint)
    assert "t = 1 in every layer" in weights[0].text and "t = 4" in weights[1].headline
    result = run(checkpoint.model, images)
    table = early_exit.exit_table(checkpoint.config, result)
    measured = findings.from_evaluation(checkpoint, result)
    assert f"{table['accuracy'].iloc[-1]:.1%}" in measured[0].text
    assert (measured[0].headline == "It only guesses") == early_exit.near_chance(checkpoint.config, table)
    assert f"{table['spikes'].iloc[-1]:,.0f} spikes" in measured[1].headline
    assert "t = 4" in measured[2].headline


@pytest.mark.parametrize(("correct", "guessing"), [(3, True), (30, False)])
def test_chance_is_told_from_knowledge(checkpoint, correct, guessing):
    """Of 30 samples and 10 classes, 3 right answers are what guessing gives and 30 are not."""
    labels = np.zeros(30, np.int64)
    predictions = np.tile((np.arange(30) >= correct).astype(np.int32), (5, 1))
    result = made_up(predictions, labels, np.ones((5, 4, 30), np.int64))
    assert (findings.from_evaluation(checkpoint, result)[0].headline == "It only guesses") == guessing


def test_gamma_that_never_fades_is_said(model, tmp_path):
    save_checkpoint(tmp_path / "flat.safetensors", model, dataset="digits", mean=MEAN, std=STD)
    flat = findings.from_weights(load_checkpoint(tmp_path / "flat.safetensors"))
    assert "flat" in flat[0].headline and "never" in flat[1].text
