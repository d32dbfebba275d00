"""The Triton kernels against the plain PyTorch form: on a GPU where there is one, else through Triton's interpreter.

The interpreter rounds a fused multiply-add twice, so there spikes are compared on numbers whose products are exact.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.snn import ModelConfig, Surrogate, build_model, encoding, kernels
from engine.snn.kernels import plain

from .kernel_inputs import DEVICE, SHAPES, draw, inputs, scaling

pytest.importorskip("triton", reason="torch was built without Triton, and the tests' requirements are not installed")
from engine.snn.kernels import fused  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
CUDA = torch.cuda.is_available()
pytestmark = [pytest.mark.gpu] if CUDA else []


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("begun", [False, True], ids=["from rest", "carried on"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_spikes_are_those_of_the_plain_form(shape, begun, dtype):
    x, scale, shift, carried = inputs(shape, None if CUDA else 8)
    carried, x = carried if begun else None, x.to(dtype)
    results = [form.fire(x, scale, shift, carried, 0.75, 1.0, dtype, True) for form in (plain, fused)]
    for expected, found in zip(*results):
        assert found.dtype == expected.dtype and torch.equal(found, expected)
    assert results[0][0].float().mean() > 0.03
    without = fused.fire(x, scale, shift, carried, 0.75, 1.0, dtype, False)
    assert torch.equal(without[0], results[0][0]) and without[2] is None


def test_one_row_stands_for_every_timestep():
    x, scale, shift, _ = inputs((6, 10, 7), None if CUDA else 8)
    results = [form.fire(x[:1], scale, shift, None, 0.5, 1.0, torch.float32, True) for form in (plain, fused)]
    assert all(torch.equal(expected, found) for expected, found in zip(*results))


@pytest.mark.parametrize("shape", [*SHAPES.values(), (2, 1200, 3)], ids=[*SHAPES, "several parts"])
@pytest.mark.parametrize("mean", [0.0, 1e4], ids=["around zero", "far from zero"])
def test_moments_are_those_of_float64(shape, mean):
    x = draw(*shape) + mean
    var, expected = torch.var_mean(x.double(), 1, correction=0)
    found, spread = fused.moments(x)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(spread.double(), var, rtol=1e-4, atol=1e-6 * (1 + mean**2 * 1e-7))


SURROGATES = [Surrogate(), Surrogate("arctangent", 0.5), Surrogate("sigmoid", 2.0), Surrogate(adaptive=True)]


@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: s.shape + " adaptive" * s.adaptive)
@pytest.mark.parametrize("statistics", ["fixed", "each step", "over time"])
@pytest.mark.parametrize("shape", [*SHAPES.values(), (1, 6, 4)], ids=[*SHAPES, "still"])
def test_gradients_are_those_of_the_plain_form(shape, statistics, surrogate):
    x, _, _, carried = inputs(shape, None)
    norm = scaling((4, *shape[1:]) if shape == (1, 6, 4) else shape, statistics)
    steps, batch = len(norm.gamma), 1
    pulls = draw(steps, *shape[1:], seed=9), draw(*shape[1:], seed=10)
    _, _, membrane = plain.fire(x, *norm.affine(), carried, 0.9, 1.0, torch.float32, True)
    rest = (norm, 0.9, 1.0, surrogate, batch, x.shape, x.dtype)
    _, _, from_rest = plain.fire(x, *norm.affine(), None, 0.9, 1.0, torch.float32, True)
    cases = [  # as in training; as in an attack; a gradient through the last membrane alone
        (membrane, carried, *pulls, (True, True, True)),
        (from_rest, None, pulls[0], None, (True, False, False)),
        (membrane, carried, None, pulls[1], (True, True, False)),
    ]
    for potentials, before, spikes, after, wanted in cases:
        expected = plain.gradients(x, potentials, before, spikes, after, *rest, wanted)
        found = fused.gradients(x, None, before, spikes, after, *rest, wanted)
        assert [one is not None for one in found] == [*wanted, True]
        for one, other in zip(expected, found):
            if one is not None:
                torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5 * float(one.abs().max()))


@pytest.mark.parametrize("shape", [(3, 24, 5, 6), (2, 240, 33, 20)], ids=str)
@pytest.mark.parametrize("begun", [False, True], ids=["from rest", "carried on"])
@pytest.mark.parametrize("still", [False, True], ids=["moving", "still"])
def test_pooled_spikes_are_those_of_the_plain_form(shape, begun, still):
    *shape, width = shape
    x, scale, shift, carried = inputs(shape, None if CUDA else 8)
    given = x[:1] if still else x, scale, shift, carried if begun else None, 0.75, 1.0
    for dtype in (torch.float32, torch.bfloat16):
        expected, found = (form.fire(*given, dtype, False, pool_width=width)[:2] for form in (plain, fused))
        assert all(torch.equal(one, other) and one.dtype == other.dtype for one, other in zip(expected, found))


@pytest.mark.parametrize("surrogate", [SURROGATES[0], SURROGATES[-1]], ids=["triangle", "adaptive"])
@pytest.mark.parametrize("statistics", ["fixed", "each step"])
def test_gradients_of_pooled_spikes_are_those_of_the_plain_form(statistics, surrogate):
    shape, width = (5, 48, 33), 6
    x, norm = draw(*shape), scaling(shape, statistics)
    pull = draw(shape[0], shape[1] // 4, shape[2], seed=9)
    rest = norm, 0.9, 1.0, surrogate, 1, x.shape, x.dtype, (True, True, True), width
    membrane = plain.fire(x, *norm.affine(), None, 0.9, 1.0, torch.float32, True)[2]
    expected = plain.gradients(x, membrane, None, pull, None, *rest)
    for one, other in zip(expected, fused.gradients(x, None, None, pull, None, *rest)):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5 * float(one.abs().max()))


def test_half_precision_gradients_are_rounded_and_not_more():
    x, _, _, carried = inputs((5, 37, 33), None)
    norm, x = scaling(x.shape, "each step"), x.bfloat16()
    pull = draw(*x.shape, seed=9).bfloat16()
    _, _, membrane = plain.fire(x, *norm.affine(), carried, 0.9, 1.0, torch.bfloat16, True)
    rest = (pull, None, norm, 0.9, 1.0, Surrogate(), 1, x.shape, x.dtype, (True, True, False))
    expected, found = plain.gradients(x, membrane, carried, *rest), fused.gradients(x, None, carried, *rest)
    assert found[0].dtype == torch.bfloat16
    torch.testing.assert_close(found[0], expected[0], rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shape", [(3, 1, 6, 5), (2, 3, 8, 8)], ids=["grey", "colour"])
def test_random_spikes_are_the_same_bits(shape):
    images, samples = draw(*shape), torch.tensor([7, 2**33 + 5, 12])[: shape[0]].to(DEVICE)
    keys = encoding.keys(5, samples)
    for dtype in (torch.float32, torch.bfloat16):
        found = fused.rate_code(images, *keys, 6, 3, encoding.CONSTANTS, dtype)
        assert torch.equal(found, encoding.poisson(images.double(), 9, 5, samples)[3:].to(dtype))  # in the plain form
        assert found.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("norm", ["bntt", "bn", "tdbn", "none"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_network_trains_alike_on_either_form(norm, precision, monkeypatch):
    """Scores, gradients and running statistics of a whole network; the loss is the published one."""
    config = ModelConfig("vgg-small", 4, 3, (2, 8, 8), 0.75, norm=norm, layout="C5 P C6 F7")
    x, truth = draw(4, 2, 8, 8, grid=4), torch.tensor([0, 1, 2, 1]).to(DEVICE)
    found = []
    for form in (plain, fused):
        monkeypatch.setattr(kernels, "of", lambda *_, form=form, **__: form)
        torch.manual_seed(0)
        model = build_model(config).to(DEVICE).train()
        model.precision = precision
        scores = model.forward_steps(x, seed=1)
        torch.nn.functional.cross_entropy(scores[-1], truth).backward()
        found.append((scores, {name: p.grad for name, p in model.named_parameters()}, model.state_dict()))
    tolerance = {"rtol": 1e-3, "atol": 1e-5} if precision == "float32" else {"rtol": 0.1, "atol": 0.02}
    torch.testing.assert_close(found[1][0], found[0][0], **tolerance)
    for name, gradient in found[0][1].items():
        size = float(gradient.abs().max())
        torch.testing.assert_close(
            found[1][1][name], gradient, rtol=0.05, atol=0.02 * size, msg=lambda m: f"{name}: {m}"
        )


def test_every_kernel_compiles_for_a_gpu(tmp_path):
    """In a process without the interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(__file__).with_name("compiled_kernels.py"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kernels_declared = [name for name, one in vars(fused).items() if type(one).__name__ == type(fused._fire).__name__]
    assert sorted(done.stdout.split()) == sorted(set(kernels_declared) - {"_derivative", "_step"})
