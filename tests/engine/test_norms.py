"""Norms, kinds and encodings beside BNTT: against torch's own BatchNorm in a plain loop, closed forms and NumPy."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from engine import ModelConfig, build_model, load_checkpoint, save_checkpoint, spike_counts
from engine.analysis import early_exit, energy, gamma
from engine.analysis.evaluation import evaluate
from engine.checkpoint import CheckpointError
from engine.conversion import activation_scales, convert
from engine.snn.encoding import sequence
from engine.snn.norm import SharedNorm, TDNorm

ANN = dict(kind="ann", norm="bn", encoding="direct", steps=1)
VARIANTS = {
    "bn": dict(norm="bn"),
    "tdbn": dict(norm="tdbn", threshold=0.7),
    "none": dict(norm="none"),
    "ann": ANN,
    "ann without norm": {**ANN, "norm": "none"},
    "converted": dict(kind="converted", norm="folded", leak=1.0),
    "rows": dict(arch="mlp", layout="F12 F8", encoding="rows", steps=8, in_shape=(1, 8, 6)),
    "pixels": dict(arch="mlp", layout="F5", encoding="pixels", steps=48, in_shape=(2, 8, 6)),
    "events": dict(encoding="events", in_shape=(2, 8, 8)),
}


def config_of(**changes) -> ModelConfig:
    return ModelConfig(**(dict(arch="vgg-small", layout="C4 P F8", steps=5, classes=3, in_shape=(1, 8, 8)) | changes))


def inputs_of(config: ModelConfig, count: int = 6) -> torch.Tensor:
    if config.encoding == "events":
        return torch.randint(0, 4, (config.steps, count, *config.in_shape)).float()
    return torch.randn(count, *config.in_shape)


@pytest.mark.parametrize("shape", [(4, 6, 3, 5, 5), (4, 6, 3)], ids=["convolution", "linear"])
def test_shared_norm_is_torchs_batch_norm_in_a_loop_over_time(shape):
    """One nn.BatchNorm called at each timestep in turn: outputs, gradients and running estimates."""
    own, theirs = SharedNorm(3), (nn.BatchNorm2d if len(shape) == 5 else nn.BatchNorm1d)(3)
    x = torch.randn(shape) * torch.arange(1, 5).view(-1, *(1,) * (len(shape) - 1))
    with torch.no_grad():
        for norm in (own, theirs):
            norm.weight.copy_(torch.tensor([0.5, 1.5, 2.0]))
            norm.bias.copy_(torch.tensor([0.1, -0.3, 0.0]))
    for mode in (True, False):
        own.train(mode), theirs.train(mode)
        expected = torch.stack([theirs(x[t]) for t in range(4)])
        found = own(x, 4)
        assert torch.allclose(found, expected, atol=1e-6)
        for norm, y in ((own, found), (theirs, expected)):
            norm.zero_grad()
            (y**2).sum().backward()
        assert torch.allclose(own.weight.grad, theirs.weight.grad, rtol=1e-4)
    for name, value in theirs.state_dict().items():
        assert torch.allclose(own.state_dict()[name], value), name


def test_tdbn_normalises_over_time_too_and_scales_by_the_threshold():
    """The formula of Zheng et al. 2021 in float64 NumPy, over batch, space and time together."""
    norm, x = TDNorm(3), torch.randn(4, 6, 3, 5, 5) * 3 + 1
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.5, 2.0]))
        norm.bias.copy_(torch.tensor([0.1, -0.3, 0.0]))
    values = x.double().numpy()
    mean, var = values.mean((0, 1, 3, 4)), values.var((0, 1, 3, 4))

    def formula(mean, var):
        scale = norm.weight.detach().double().numpy() * 0.5 / np.sqrt(var + 1e-5)
        shift = norm.bias.detach().double().numpy()
        return (values - mean[:, None, None]) * scale[:, None, None] + shift[:, None, None]

    assert np.abs(norm.train()(x, 4, 0.5).detach().numpy() - formula(mean, var)).max() < 1e-5
    count = values[:, :, 0].size
    assert np.allclose(norm.running_mean, 0.1 * mean, atol=1e-6)
    assert np.allclose(norm.running_var, 0.9 + 0.1 * var * count / (count - 1), rtol=1e-5)
    running = [getattr(norm, name).double().numpy() for name in ("running_mean", "running_var")]
    assert np.abs(norm.eval()(x, 4, 0.5).detach().numpy() - formula(*running)).max() < 1e-5


@pytest.mark.parametrize("norm", ["bn", "tdbn", "none", "bntt"])
def test_one_row_stands_for_the_same_input_at_every_timestep(norm):
    """Direct coding gives the first layer one row; the result must be that of T equal rows."""
    torch.manual_seed(1)
    config = config_of(norm=norm, encoding="direct")
    short, long = build_model(config), build_model(config)
    long.load_state_dict(short.state_dict())
    x = torch.randn(6, *config.in_shape)
    for mode in (True, False):
        one = short.train(mode).forward_steps(x)
        many = long.train(mode).forward_steps(x.expand(config.steps, *x.shape))
        assert torch.allclose(one, many, atol=1e-5)
    for name, value in long.state_dict().items():
        # tdBN's unbiased variance counts T·B·H·W values instead of B·H·W
        assert torch.allclose(short.state_dict()[name].float(), value.float(), atol=1e-3), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains_saves_and_loads(variant, tmp_path):
    config = config_of(**VARIANTS[variant])
    model, x = build_model(config), inputs_of(config)
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == config.tensor_shapes()
    loss = model(x, seed=0).square().sum()
    loss.backward()
    grads = [parameter.grad for parameter in model.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in grads) and any(g.abs().sum() > 0 for g in grads)

    save_checkpoint(
        tmp_path / "model.safetensors",
        model,
        dataset="digits",
        mean=(0.0,) * config.in_shape[0],
        std=(1.0,) * config.in_shape[0],
    )
    checkpoint = load_checkpoint(tmp_path / "model.safetensors")
    assert checkpoint.config == config and checkpoint.source == "engine"
    model.eval()
    assert torch.equal(checkpoint.model.forward_steps(x, seed=3), model.forward_steps(x, seed=3))
    has_gamma = config.norm == "bntt"
    assert bool(checkpoint.stacks) == has_gamma and checkpoint.gamma.empty != has_gamma
    assert list(checkpoint.gamma.columns) == ["layer", "step", "channel", "gamma", "running_mean", "running_var"]
    assert gamma.layer_means(checkpoint).empty != has_gamma
    assert has_gamma or (gamma.exit_rule(checkpoint) is None and gamma.peaks(checkpoint).empty)


@pytest.mark.parametrize("encoding, steps", [("rows", 4), ("pixels", 24)])
def test_sequences_show_the_image_piece_by_piece(encoding, steps):
    images = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).view(2, 3, 4, 6)
    shown = sequence(images, encoding)
    assert shown.shape == (steps, 2, 3, 1, 6 if encoding == "rows" else 1)
    for t in range(steps):
        piece = images[:, :, t, :] if encoding == "rows" else images[:, :, t // 6, t % 6, None]
        assert torch.equal(shown[t][:, :, 0], piece)


def test_a_row_is_not_known_before_it_is_shown():
    """Scores when leaving after t steps do not depend on later rows."""
    config = config_of(**VARIANTS["rows"])
    model, x = build_model(config).eval(), torch.randn(2, 1, 8, 6)
    changed = x.clone()
    changed[:, :, 5:] += 3
    one, two = model.forward_steps(x), model.forward_steps(changed)
    assert torch.equal(one[:5], two[:5]) and not torch.equal(one[5:], two[5:])


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(norm="folded"), "a network of kind snn has norm bntt or bn or tdbn or none, not folded"),
        (dict(kind="ann", norm="bn"), "an ANN takes the image itself, or all events in one frame, in one step"),
        (dict(kind="ann", encoding="direct", steps=1), "a network of kind ann has norm bn or none, not bntt"),
        (dict(kind="converted"), "a network of kind converted has norm folded, not bntt"),
        (dict(encoding="rows", arch="mlp", layout="F4"), "images of 8×8 have 8 rows, so steps must be 8, not 5"),
        (dict(encoding="pixels", arch="mlp", layout="F4"), "images of 8×8 have 64 pixels, so steps must be 64, not 5"),
        (dict(encoding="rows", steps=8), "inputs of 1×8 are too small for vgg-small: a pool meets 1×8"),
        (dict(kind="brain"), "kind 'brain' is not one of snn, ann, converted"),
    ],
)
def test_what_makes_no_network_is_told_in_one_sentence(changes, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        config_of(**changes)


def test_events_are_counted_and_images_are_refused():
    config = config_of(**VARIANTS["events"])
    model, x = build_model(config).eval(), inputs_of(config)
    pixels = x.transpose(0, 1).to(torch.uint8)
    result = evaluate(model, pixels, torch.zeros(6).long(), torch.arange(6), (0.0, 0.0), (1.0, 1.0), seed=0)
    assert (result.spikes[:, 0] == x.sum((2, 3, 4)).numpy()).all(), "each event is a spike"
    assert (result.predictions == model.forward_steps(x).argmax(2).numpy()).all()
    with pytest.raises(ValueError, match="expected spikes"):
        model(torch.randn(2, *config.in_shape))


def test_an_ann_fires_no_spikes_and_costs_what_its_multiplications_cost():
    config = config_of(**ANN)
    model, pixels = build_model(config).eval(), torch.randint(0, 255, (6, 1, 8, 8)).to(torch.uint8)
    result = evaluate(model, pixels, torch.zeros(6).long(), torch.arange(6), (0.5,), (0.5,), seed=0)
    table = early_exit.exit_table(config, result)
    assert len(table) == 1 and table["spikes"].iloc[0] == 0
    macs = 8 * 8 * 9 * 4 + 4 * 4 * 4 * 8 + 8 * 3
    assert table["energy_nj"].iloc[0] == pytest.approx(4.6e-3 * macs)
    assert energy.ann_energy_nj(config) == pytest.approx(4.6e-3 * macs)


# ------------------------------------------------------------------------------------------------- conversion


@pytest.fixture(scope="module")
def ann():
    """An ANN with a BatchNorm that has seen something, and images for it."""
    torch.manual_seed(2)
    model, images = build_model(config_of(**ANN)), torch.rand(64, 1, 8, 8) * 2 - 1
    with torch.no_grad():
        for _ in range(20):
            model.train()(images)
        for spec in model.config.hidden_layers():
            norm = model.get_submodule(spec.norm_name)
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.2, 0.4)
    return model.eval(), images


def test_scales_are_the_percentile_of_all_activations(ann):
    """Against NumPy over a plain pass, layer by layer."""
    model, images = ann
    with torch.no_grad():
        first = torch.relu(model.norm1(model.conv1(images)[None], 1)[0])
        second = torch.relu(model.norm_fc(model.fc1(nn.functional.avg_pool2d(first, 2).flatten(1))[None], 1)[0])
    expected = [np.percentile(layer.numpy(), 99.9) for layer in (first, second)]
    assert activation_scales(model, images) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("encoding", ["direct", "poisson"])
def test_converted_scores_approach_those_of_the_ann(ann, encoding):
    """The theorem behind conversion: the mean output of T steps tends to the ANN's scores, with an error like 1/T."""
    model, images = ann
    with torch.no_grad():
        expected = model(images)
        converted = convert(model, images, steps=2000, encoding=encoding, percentile=100)
        error = (converted.forward_steps(images, seed=0) - expected).abs().mean((1, 2))
    spread = expected.std()
    assert error[-1] < 0.05 * spread, "equal in the end"
    assert error[-1] < error[199] < error[19] < error[4], "and better with every timestep"


def test_a_single_neuron_fires_at_the_rate_of_its_activation():
    """Closed form: an integrate-and-fire neuron with constant input a in (0, 1) fires ⌊a·T⌋ or one less of T times."""
    config = ModelConfig(
        arch="mlp",
        layout="F1",
        steps=100,
        classes=2,
        in_shape=(1, 1, 1),
        kind="converted",
        norm="folded",
        encoding="direct",
        leak=1.0,
    )
    model = build_model(config).eval()
    with torch.no_grad():
        model.fc1.weight.fill_(1.0)
        for a in (0.0, 0.03, 0.25, 0.499, 0.731, 0.999):
            count = int(spike_counts(model, torch.full((1, 1, 1, 1), a)).sum())
            assert abs(count - np.floor(a * 100)) <= 1, a


def test_only_an_ann_can_be_converted(ann):
    model, images = ann
    with pytest.raises(ValueError, match="only a network of kind ann can be converted, not one of kind snn"):
        convert(build_model(config_of()), images, steps=10)
    with pytest.raises(ValueError, match="percentile must lie between 50 and 100"):
        convert(model, images, steps=10, percentile=101)
    before = copy.deepcopy(model.state_dict())
    convert(model, images, steps=10)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items()), "the ANN is untouched"


def test_negative_variance_of_a_shared_norm_is_refused(tmp_path):
    model = build_model(config_of(norm="bn"))
    model.norm1.running_var[0] = -1
    save_checkpoint(tmp_path / "bad.safetensors", model)
    with pytest.raises(CheckpointError, match="norm1.running_var holds a negative variance"):
        load_checkpoint(tmp_path / "bad.safetensors")


def test_settings_of_an_ann_that_cannot_be_are_refused_when_replaced(tmp_path):
    save_checkpoint(tmp_path / "ann.safetensors", build_model(config_of(**ANN)))
    checkpoint = load_checkpoint(tmp_path / "ann.safetensors")
    with pytest.raises(CheckpointError, match="an ANN takes the image itself"):
        checkpoint.replace(encoding="poisson")
    assert dataclasses.replace(checkpoint.config) == checkpoint.config


@pytest.mark.parametrize(
    "arch, shape", [("vgg9", (3, 32, 32)), ("vgg11", (3, 64, 64)), ("cnn7", (2, 48, 48)), ("vgg-small", (1, 28, 28))]
)
@pytest.mark.parametrize("classes", [7, 100])
def test_each_architecture_makes_a_training_step_at_full_width(arch, shape, classes):
    """T = 2, two samples: the weights' sizes are those of the layout, and every one gets a gradient."""
    config = ModelConfig(
        arch=arch, steps=2, classes=classes, in_shape=shape, encoding="events" if arch == "cnn7" else "poisson"
    )
    model = build_model(config)
    x = torch.rand(2, 2, *shape).round() if arch == "cnn7" else torch.randn(2, *shape)
    nn.functional.cross_entropy(model(x, seed=0), torch.tensor([0, classes - 1])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_tdbn_follows_the_threshold_in_use(tmp_path):
    """θ stands in the norm's formula too: loading with another θ is the same as saving and loading that."""
    save_checkpoint(tmp_path / "one.safetensors", build_model(config_of(norm="tdbn")))
    other = load_checkpoint(tmp_path / "one.safetensors", threshold=2.0)
    save_checkpoint(tmp_path / "two.safetensors", other.model)
    x = torch.randn(4, 1, 8, 8)
    expected = load_checkpoint(tmp_path / "two.safetensors").model.forward_steps(x, seed=0)
    assert torch.equal(other.model.forward_steps(x, seed=0), expected)


def test_an_ann_has_no_spikes_to_count(ann):
    model, images = ann
    assert spike_counts(model, images).shape == (1, 2, 64) and not spike_counts(model, images).any()


def test_an_ann_on_events_is_converted():
    """It gets all events in one frame; its conversion gets them in T frames (here equal ones, as only means count in the
    limit) and approaches its scores."""
    torch.manual_seed(3)
    ann = build_model(config_of(**{**ANN, "encoding": "events", "in_shape": (2, 8, 8)})).eval()
    frames = torch.randint(0, 3, (16, 2, 8, 8)).float().expand(400, -1, -1, -1, -1)
    summed = frames.sum(0, keepdim=True)
    with torch.no_grad():
        expected = ann(summed)
        converted = convert(ann, summed, steps=400, encoding="events", percentile=100)
        assert (converted(frames) - expected).abs().mean() < 0.05 * expected.std()
    with pytest.raises(ValueError, match="must be events, not direct"):
        convert(ann, summed, steps=4, encoding="direct")


def test_scales_of_a_large_layer_come_from_some_of_its_activations(ann, monkeypatch):
    model, images = ann
    whole = activation_scales(model, images, 99.0)
    monkeypatch.setattr("engine.conversion.MOST_VALUES", 5000)
    assert activation_scales(model, images, 99.0) == pytest.approx(whole, rel=0.1)
