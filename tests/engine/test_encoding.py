"""The rate code: its statistics, its gradient, and that a sample's spikes depend on seed and sample alone."""

import pytest
import torch

from engine.snn.encoding import poisson, sample_keys, uniform


def images(count=6, seed=0):
    return torch.randn(count, 2, 5, 5, generator=torch.Generator().manual_seed(seed))


def test_mean_is_half_the_pixel_up_to_one():
    """Against the closed form E[s] = sign(x)·min(|x|/2, 1), within 5 standard errors."""
    x = torch.linspace(-3, 3, 25).view(1, 1, 5, 5)
    spikes = poisson(x, 20_000, seed=1)
    expected = x.sign() * (x.abs() / 2).clamp(max=1)
    spread = (expected.abs() * (1 - expected.abs()) / 20_000).sqrt()
    assert ((spikes.mean(0) - expected).abs() <= 5 * spread + 1e-7).all()
    assert set(spikes.unique().tolist()) <= {-1.0, 0.0, 1.0}


def test_same_sample_same_spikes_whatever_the_batch():
    x = images()
    whole = poisson(x, 9, seed=4)
    order = torch.tensor([3, 0, 5])
    assert torch.equal(poisson(x[order], 9, seed=4), whole[:, order])
    numbers = torch.tensor([70, 10, 2**40, 3, 4, 5])
    named = poisson(x, 9, seed=4, samples=numbers)
    assert torch.equal(poisson(x[order], 9, seed=4, samples=numbers[order]), named[:, order])
    assert torch.equal(poisson(x[:1], 3, seed=4), whole[:3, :1]), "fewer timesteps are the first of more"


@pytest.mark.parametrize("other", [{"seed": 5}, {"seed": 4 + 2**32}, {"samples": torch.arange(6) + 2**32}])
def test_another_seed_or_sample_gives_other_spikes(other):
    x = images()
    base = {"seed": 4, "samples": torch.arange(6)}
    same = (poisson(x, 40, **base) == poisson(x, 40, **{**base, **other})).float().mean()
    assert same < 0.9


def test_uniform_numbers_are_uniform_and_uncorrelated():
    """Chi-square over 256 cells, and correlations between neighbours in sample, time and pixel, at 5 standard errors."""
    draw = uniform(7, torch.arange(64), 50, 400)
    counts = torch.histc(draw, 256, 0, 1)
    expected = draw.numel() / 256
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - 255) < 5 * (2 * 255) ** 0.5
    centred = draw.double() - 0.5
    for a, b in [(centred[1:], centred[:-1]), (centred[:, 1:], centred[:, :-1]), (centred[..., 1:], centred[..., :-1])]:
        assert abs((a * b).mean() * 12) < 5 / a.numel() ** 0.5


def test_keys_depend_on_every_pixel():
    x = images(1)
    flipped = x.clone()
    flipped[0, 1, 4, 4] += 1e-6
    swapped = x.flatten(1)[:, torch.randperm(50, generator=torch.Generator().manual_seed(0))].view_as(x)
    assert len({int(sample_keys(v)) for v in (x, flipped, swapped)}) == 3


def test_gradient_is_that_of_the_expectation():
    """One half where |x| ≤ 2 and zero beyond, summed over timesteps (closed form)."""
    x = torch.tensor([-2.5, -2.0, -0.3, 0.0, 1.9, 2.0, 2.1]).view(1, 1, 1, 7).requires_grad_()
    poisson(x, 10, seed=0).sum().backward()
    assert x.grad.flatten().tolist() == [0.0, 5.0, 5.0, 5.0, 5.0, 5.0, 0.0]


def test_asking_for_a_gradient_changes_no_spike():
    x = images()
    assert torch.equal(poisson(x, 8, seed=2), poisson(x.clone().requires_grad_(), 8, seed=2).detach())


def test_the_global_generator_governs_an_unseeded_pass():
    from engine.snn import ModelConfig, build_model

    model = build_model(ModelConfig(arch="vgg-small", steps=4, in_shape=(1, 8, 8))).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.fill_(0.05)  # so that a network with fresh weights fires
    x = images(4)[:, :1].repeat(1, 1, 2, 2)[..., :8, :8]
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(model(x).detach())
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    assert torch.equal(model(x, seed=3)[1:3], model(x[1:3], seed=3))


@pytest.mark.gpu
def test_the_gpu_draws_the_same_spikes():
    x = images()
    assert torch.equal(poisson(x.cuda(), 9, seed=4).cpu(), poisson(x, 9, seed=4))
