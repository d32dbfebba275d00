"""The network against the published model's results and against a plain loop over timesteps."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from engine.snn import ModelConfig, build_model, spike_counts
from engine.snn.norm import EPS

CASES = [
    ModelConfig(arch="vgg9", steps=4, classes=10, in_shape=(3, 8, 8), leak=0.95),
    ModelConfig(arch="vgg11", steps=3, classes=100, in_shape=(3, 16, 16), leak=0.99),
    ModelConfig(arch="vgg-small", steps=6, classes=10, in_shape=(1, 12, 8), leak=0.8, threshold=0.7),
    ModelConfig(arch="vgg-small", steps=1, classes=2, in_shape=(2, 4, 4), layout="C3 P F5 F4"),
]


def trained_like(config: ModelConfig, seed: int = 0):
    """A network whose norms have statistics as after training, so that spikes flow through every layer."""
    torch.manual_seed(seed)
    model = build_model(config)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif name.endswith("running_mean"):
            tensor.normal_(0.0, 0.2)
        elif name.startswith("bntt") and name.endswith("weight"):
            tensor.uniform_(0.6, 1.4)
    return model


def plain_loop(model, spikes):
    """The published computation in float64: one convolution, one norm, one reset per timestep and layer."""
    config, state = model.config, {k: v.double() for k, v in model.state_dict().items()}
    layers = config.layers()
    membranes = [0.0] * len(layers)
    total, logits, counts = 0.0, [], []
    for t, x in enumerate(spikes.double()):
        fired = []
        for index, spec in enumerate(layers):
            weight = state[f"{spec.name}.weight"]
            x = F.conv2d(x, weight, padding=1) if spec.kind == "conv" else x.flatten(1) @ weight.T
            if not spec.spiking:
                break
            x = F.batch_norm(
                x,
                state[f"{spec.norm_name}.{t}.running_mean"],
                state[f"{spec.norm_name}.{t}.running_var"],
                state[f"{spec.norm_name}.{t}.weight"],
                None,
                eps=EPS,
            )
            membranes[index] = config.leak * membranes[index] + x
            x = (membranes[index] > config.threshold).double()
            membranes[index] = membranes[index] - config.threshold * x
            fired.append(x.flatten(1).sum(1))
            x = F.avg_pool2d(x, 2) if spec.pool == "P" else x.mean((2, 3)) if spec.pool == "G" else x
        total = total + x
        logits.append(total / (t + 1))
        counts.append(torch.stack(fired))
    return torch.stack(logits), torch.stack(counts).long()


def signed_spikes(config, batch=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 2, (config.steps, batch, *config.in_shape), generator=generator).float()


@pytest.mark.parametrize("config", CASES, ids=lambda c: f"{c.arch}-T{c.steps}")
def test_equals_a_plain_loop_in_float64(config):
    model, x = trained_like(config).eval(), signed_spikes(config)
    logits, counts = plain_loop(model, x)
    with torch.no_grad():
        ours = model.forward_steps(x)
    assert counts.sum() > 0
    assert torch.equal(spike_counts(model, x), counts)
    torch.testing.assert_close(ours.double(), logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(x), ours[-1])


@pytest.mark.parametrize("config", CASES[:3], ids=lambda c: f"{c.arch}-T{c.steps}")
def test_truncated_input_gives_the_early_rows(config):
    model, x = trained_like(config).eval(), signed_spikes(config)
    with torch.no_grad():
        torch.testing.assert_close(model.forward_steps(x[:2]), model.forward_steps(x)[:2])


def test_equals_the_published_model(shared):
    """Every figure of the reference file: spikes exactly, logits and loss to 1e-5, gradients to 1e-3, statistics to 1e-5."""
    sys.path.insert(0, str(shared / "fixtures"))
    try:
        import reference_state
    finally:
        sys.path.pop(0)
    expected = np.load(shared / "fixtures" / "vgg9_t5_c10_s8_leak0.95.npz")
    model = build_model(ModelConfig(arch="vgg9", steps=5, classes=10, in_shape=(3, 8, 8), leak=float(expected["leak"])))
    model.load_state_dict(reference_state.state_dict("vgg9", 5, 10, 8, 0))
    x = reference_state.input_spikes(5, 4, 8, 0)

    model.eval()
    with torch.no_grad():
        np.testing.assert_allclose(model(x).numpy(), expected["logits"], atol=1e-5)
    np.testing.assert_array_equal(spike_counts(model, x).numpy(), expected["spike_counts"])

    model.train()
    loss = F.cross_entropy(model(x), torch.from_numpy(expected["labels"]).long())
    loss.backward()
    assert loss.item() == pytest.approx(float(expected["train_loss"]), abs=1e-5)
    for name, parameter in model.named_parameters():
        assert parameter.grad.norm().item() == pytest.approx(float(expected[f"grad_l2/{name}"]), rel=1e-3, abs=1e-8), (
            name
        )
    for key in expected.files:
        if key.startswith("buffer_mean/"):
            buffer = model.get_buffer(key.removeprefix("buffer_mean/"))
            assert buffer.mean().item() == pytest.approx(float(expected[key]), abs=1e-5), key


def test_training_statistics_equal_torch_batch_norm():
    config = CASES[2]
    model, x = trained_like(config).train(), signed_spikes(config)
    norms = [torch.nn.BatchNorm2d(16, eps=EPS, momentum=0.1) for _ in range(config.steps)]
    for t, norm in enumerate(norms):
        ours = model.bntt1[t]
        norm.load_state_dict({**ours.state_dict(), "bias": torch.zeros(16)})
    model(x)
    for t, norm in enumerate(norms):
        norm.train()(model.conv1(x[t]))
        torch.testing.assert_close(model.bntt1[t].running_mean, norm.running_mean)
        torch.testing.assert_close(model.bntt1[t].running_var, norm.running_var)
        assert model.bntt1[t].num_batches_tracked == norm.num_batches_tracked


def test_surrogate_is_a_triangle_around_the_threshold():
    from engine.snn import TRAINED

    u = torch.tensor([-1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 9.0])
    torch.testing.assert_close(TRAINED.derivative(u, 2.0), torch.tensor([0.0, 0.0, 0.15, 0.3, 0.15, 0.0, 0.0]))


def test_direct_coding_equals_the_image_at_every_timestep():
    poisson = trained_like(CASES[2]).eval()
    direct = build_model(ModelConfig(**{**poisson.config.to_dict(), "encoding": "direct"})).eval()
    direct.load_state_dict(poisson.state_dict())
    image = torch.randn(3, 1, 12, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(direct(image), poisson(image.expand(6, -1, -1, -1, -1)))
    direct.train()(image)
    poisson.train()(image.expand(6, -1, -1, -1, -1))
    torch.testing.assert_close(direct.bntt1[4].running_var, poisson.bntt1[4].running_var)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("side", [8, 14], ids=["even", "odd after a pool"])
def test_looking_on_changes_nothing(precision, side):
    """Who observes is shown every spike, so that they are averaged afterwards; else they are as they are fired."""
    config = ModelConfig("vgg-small", 5, 3, (2, side, side), 0.9, 0.2, layout="C4 P C6 P C5 F7")
    model, x = trained_like(config).eval(), signed_spikes(config)
    model.precision, found, rates = precision, [], []
    for observe in (None, lambda layer, spikes, _: rates.append(float(spikes.mean()))):
        counts = []
        with torch.no_grad():
            found.append([model.forward_steps(x, observe=observe, counts=counts), *counts])
    assert all(torch.equal(alone, observed) for alone, observed in zip(*found))
    assert len(rates) == len(counts) == 5 and all(rate > 0.01 for rate in rates[1:])


def test_bfloat16_changes_few_spikes_and_float32_stays_exact():
    """Of the first layer, where no earlier change has piled up; 8 bits of mantissa err by less than 1 %."""
    config = CASES[2]
    model, x = trained_like(config).eval(), signed_spikes(config, batch=16)
    runs = []
    for precision in ("float32", "bfloat16", "float32"):
        model.precision = precision
        first = []
        with torch.no_grad():
            scores = model.forward_steps(
                x, observe=lambda layer, spikes, _: first.append(spikes) if layer == 0 else None
            )
        runs.append((scores, first[0]))
    (exact, spikes), (rough, rough_spikes), (again, _) = runs
    assert torch.equal(exact, again)
    assert rough.dtype == torch.float32 and not torch.equal(exact, rough)
    assert 0 < (spikes != rough_spikes).float().mean() < 0.01


@pytest.mark.parametrize("shape", [(2, 3, 8, 9), (3, 8, 8), (5, 2, 3, 8, 8)])
def test_wrong_input_is_refused_in_one_sentence(shape):
    model = build_model(CASES[0])
    with pytest.raises(ValueError, match="expected images|timesteps"):
        model(torch.zeros(shape))


def test_training_on_a_single_value_per_channel_is_refused():
    model = build_model(CASES[3]).train()
    with pytest.raises(ValueError, match="at least 2 images"):
        model(torch.zeros(1, 1, 2, 4, 4))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arch": "vgg99"}, "architecture"),
        ({"steps": 0}, "steps"),
        ({"classes": 1}, "classes"),
        ({"in_shape": (3, 32)}, "in_shape"),
        ({"in_shape": (3, 4, 4)}, "too small"),
        ({"leak": 1.5}, "leak"),
        ({"leak": float("nan")}, "leak"),
        ({"threshold": 0.0}, "threshold"),
        ({"norm": "batch"}, "norm"),
        ({"encoding": "morse"}, "encoding"),
        ({"layout": "C8 X"}, "is not C<n>"),
        ({"layout": "P C8"}, "no convolution"),
        ({"layout": "F8 C8"}, "cannot follow"),
        ({"layout": " "}, "no layers"),
        ({"layout": ""}, "no layers"),
        ({"layout": "C65536 C65536"}, "weights would need"),
    ],
)
def test_impossible_configurations_say_why(change, said):
    with pytest.raises(ValueError, match=said):
        ModelConfig(**change)


def test_configuration_survives_json():
    config = CASES[3]
    assert ModelConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="unknown"):
        ModelConfig.from_dict({"arch": "vgg9", "colour": 1})
    with pytest.raises(ValueError):
        ModelConfig.from_dict({"in_shape": 3})


@pytest.mark.parametrize("config", CASES, ids=lambda c: f"{c.arch}-T{c.steps}")
def test_announced_tensors_are_the_tensors(config):
    assert config.tensor_shapes() == {k: tuple(v.shape) for k, v in build_model(config).state_dict().items()}


@pytest.mark.gpu
@pytest.mark.parametrize("config", CASES, ids=lambda c: f"{c.arch}-T{c.steps}")
def test_cuda_equals_the_plain_loop(config):
    model, x = trained_like(config).eval(), signed_spikes(config)
    logits, counts = plain_loop(model, x)
    model.cuda()
    with torch.no_grad():
        torch.testing.assert_close(model.forward_steps(x.cuda()).cpu().double(), logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(spike_counts(model, x.cuda()).cpu(), counts)
