"""A layer's norm, neurons and gradients over all timesteps, against autograd through the textbook recursion in float64."""

import pytest
import torch

from engine.snn import ModelConfig, Surrogate, build_model, passing
from engine.snn.layer import Affine, Scaling, fire, normalise, pool
from engine.snn.norm import BNTT, EPS, Folded, NoNorm, SharedNorm, TDNorm

STEPS, BATCH, CHANNELS, LEAK, THRESHOLD = 7, 5, 4, 0.8, 0.9
SHAPES = {"linear": (STEPS, BATCH, CHANNELS), "convolution": (STEPS, BATCH, CHANNELS, 3, 2)}


class Spike(torch.autograd.Function):
    """1[u > θ] with a surrogate's derivative."""

    @staticmethod
    def forward(ctx, u, surrogate):
        ctx.save_for_backward(u)
        ctx.surrogate = surrogate
        return (u > THRESHOLD).to(u)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.surrogate.derivative(ctx.saved_tensors[0][None], THRESHOLD)[0], None


def recursion(y, surrogate, carried=None):
    """Spikes, u_t and the last u' of a plain loop over time."""
    after, fired, membrane = torch.zeros_like(y[0]) if carried is None else carried, [], []
    for current in y:
        membrane.append(LEAK * after + current)
        fired.append(Spike.apply(membrane[-1], surrogate))
        after = membrane[-1] - THRESHOLD * fired[-1].detach()
    return torch.stack(fired), torch.stack(membrane), after


def draw(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def per_channel(values, dims):
    return values.view(*values.shape[:-1], -1, *(1,) * (dims - 3)).unsqueeze(1)


def textbook(x, gamma, beta, statistics):
    """γ·(x − μ)/√(σ² + ε) + β with μ and σ² of the batch at each timestep, of all timesteps, or 0.3 and 1.7."""
    if statistics == "fixed":
        mean, var = torch.tensor(0.3).double(), torch.tensor(1.7).double()
    else:
        over = [0] * (statistics == "over time") + [1, *range(3, x.dim())]
        mean, var = x.mean(over, keepdim=True), x.var(over, correction=0, keepdim=True)
    return per_channel(gamma, x.dim()) * (x - mean) / (var + EPS).sqrt() + per_channel(beta, x.dim())


def scaling_of(x, gamma, beta, statistics):
    if statistics == "fixed":
        full = torch.full_like(gamma, 0.3).detach()
        return Scaling(gamma, full, torch.full_like(full, (1.7 + EPS) ** -0.5), beta)
    over_time = statistics == "over time"
    over = [0] * over_time + [1, *range(3, x.dim())]
    var, mean = torch.var_mean(x.detach(), over, correction=0)
    mean, inverse = (one.expand_as(gamma) for one in (mean, (var + EPS).rsqrt()))
    return Scaling(gamma, mean, inverse, beta, x.numel() // CHANNELS // (1 if over_time else STEPS), over_time)


@pytest.mark.parametrize(
    "surrogate", [Surrogate(), Surrogate("sigmoid", 0.7, adaptive=True)], ids=["triangle", "adaptive"]
)
@pytest.mark.parametrize("statistics", ["fixed", "each step", "over time"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_spikes_and_gradients_equal_the_recursion(shape, statistics, surrogate):
    x, carried = draw(*shape).requires_grad_(), draw(*shape[1:], seed=4).requires_grad_()
    gamma, beta = (1 + 0.3 * draw(STEPS, CHANNELS, seed=s) for s in (5, 6))
    if statistics == "over time":  # where neither may differ between timesteps
        gamma, beta = gamma[:1].expand(STEPS, -1), beta[:1].expand(STEPS, -1)
    inputs = [x, gamma.clone().requires_grad_(), beta.clone().requires_grad_(), carried]
    pulls = draw(*shape, seed=7), draw(*shape[1:], seed=8)

    def gradients(spikes, after):
        return torch.autograd.grad((spikes * pulls[0]).sum() + (after * pulls[1]).sum(), inputs)

    spikes, membrane, after = recursion(textbook(*inputs[:3], statistics), surrogate, carried)
    ours = fire(x, scaling_of(*inputs[:3], statistics), LEAK, THRESHOLD, surrogate, carried=carried, keep_membrane=True)
    assert torch.equal(ours.spikes, spikes)
    assert 0.1 < spikes.mean() < 0.9
    torch.testing.assert_close(ours.membrane, membrane)
    torch.testing.assert_close(ours.carried, after)
    torch.testing.assert_close(gradients(ours.spikes, ours.carried), gradients(spikes, after))


@pytest.mark.parametrize("statistics", ["fixed", "each step", "over time"])
def test_a_norm_alone_has_the_same_gradients(statistics):
    x = draw(*SHAPES["convolution"]).requires_grad_()
    gamma, beta = (draw(1, CHANNELS, seed=s).requires_grad_() for s in (5, 6))
    full = [one.expand(STEPS, -1) for one in (gamma, beta)]
    pull = draw(*x.shape, seed=7)
    ours, expected = normalise(x, scaling_of(x, *full, statistics)), textbook(x, *full, statistics)
    torch.testing.assert_close(ours, expected)
    found = (torch.autograd.grad((y * pull).sum(), [x, gamma, beta]) for y in (ours, expected))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    "norm", [BNTT(STEPS, 4), SharedNorm(4), TDNorm(4), Folded(4), NoNorm(4)], ids=lambda n: type(n).__name__
)
@pytest.mark.parametrize("training", [True, False])
def test_one_row_stands_for_every_timestep_with_its_gradient(norm, training):
    """A still image, [1, B, …], against the same image repeated; tdBN's variance of the repeated is that of the one."""
    norm = norm.double().train(training)
    still = draw(1, *SHAPES["convolution"][1:]).requires_grad_()
    pull = draw(*SHAPES["convolution"], seed=7)
    found = []
    for x in (still, still.expand(STEPS, -1, -1, -1, -1)):
        scaling = norm.scaling(x, 0, STEPS, 1.0, update=False)
        spikes = fire(x, scaling, LEAK, THRESHOLD).spikes
        found.append((spikes, *torch.autograd.grad((spikes * pull).sum(), still)))
    torch.testing.assert_close(*found)


def test_time_in_two_pieces_is_time_in_one():
    """Spikes, the potential that is carried over, and its gradient."""
    x = draw(*SHAPES["convolution"]).requires_grad_()
    whole = Scaling(*(torch.ones(STEPS, CHANNELS, dtype=torch.float64) for _ in range(3)))
    pull = draw(*x.shape, seed=7)
    one = fire(x, whole, LEAK, THRESHOLD)
    first = fire(x[:3], whole.piece(0, 3), LEAK, THRESHOLD)
    second = fire(x[3:], whole.piece(3, STEPS), LEAK, THRESHOLD, carried=first.carried)
    two = torch.cat([first.spikes, second.spikes])
    assert torch.equal(one.spikes, two) and torch.equal(one.carried, second.carried)
    found = (torch.autograd.grad((spikes * pull).sum(), x) for spikes in (one.spikes, two))
    torch.testing.assert_close(*found)


def test_without_gradients_the_answer_is_the_same():
    x = draw(*SHAPES["convolution"]).float()
    scaling = Scaling(*(torch.rand(STEPS, CHANNELS) + 0.5 for _ in range(3)))
    learning = fire(x.requires_grad_(), scaling, LEAK, THRESHOLD)
    with torch.no_grad():
        answering = fire(x, Affine(*scaling.affine()), LEAK, THRESHOLD)
    assert torch.equal(learning.spikes, answering.spikes) and torch.equal(learning.carried, answering.carried)


@pytest.mark.parametrize("side", [(4, 6), (5, 7)], ids=["even", "odd"])
def test_pooling_is_torchs(side):
    x = draw(2, 3, CHANNELS, *side).requires_grad_()
    pull = draw(2, 3, CHANNELS, side[0] // 2, side[1] // 2, seed=7)
    ours = pool(x, "P")
    theirs = torch.nn.functional.avg_pool2d(x.flatten(0, 1), 2).unflatten(0, (2, 3))
    torch.testing.assert_close(ours, theirs)
    found = (torch.autograd.grad((y * pull).sum(), x) for y in (ours, theirs))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("statistics", ["fixed", "each step", "over time"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("still", [False, True], ids=["moving", "still"])
def test_spikes_pooled_as_they_are_fired_are_those_pooled_afterwards(still, dtype, statistics):
    """To the bit, with its gradients."""
    x = draw(1 if still else STEPS, BATCH, CHANNELS, 4, 6).to(dtype).requires_grad_()
    gamma, beta = ((1 + 0.3 * draw(1, CHANNELS, seed=s)).to(dtype).requires_grad_() for s in (5, 6))
    carried = draw(BATCH, CHANNELS, 4, 6, seed=4).to(dtype).requires_grad_()
    pull = draw(STEPS, BATCH, CHANNELS, 2, 3, seed=7).to(dtype)
    found = []
    for pooled in (False, True):
        full = [one.expand(STEPS, -1) for one in (gamma, beta)]
        norm = scaling_of(x, *full, statistics)
        fired = fire(x, norm, LEAK, THRESHOLD, carried=carried, dtype=dtype, pooled=pooled)
        averages = fired.spikes if pooled else pool(fired.spikes, "P")
        loss = (averages * pull).sum() + (fired.carried * carried.detach()).sum()
        found.append((averages, fired.carried, *torch.autograd.grad(loss, [x, gamma, beta, carried])))
    assert all(torch.equal(afterwards, at_once) for afterwards, at_once in zip(*found))
    assert 0.1 < found[0][0].mean() < 0.9


@pytest.mark.parametrize("shape", [(3, 2, 4), (3, 2, 4, 3, 2), (3, 2, 4, 2, 3)], ids=["no image", "height", "width"])
def test_what_cannot_be_pooled_is_refused(shape):
    one = torch.ones(3, 4)
    with pytest.raises(ValueError, match="cannot be pooled"):
        fire(torch.zeros(shape), Affine(one, one), LEAK, THRESHOLD, pooled=True)
    with pytest.raises(ValueError, match="with their membrane"):
        fire(torch.zeros(3, 2, 4, 2, 2), Affine(one, one), LEAK, THRESHOLD, pooled=True, keep_membrane=True)


@pytest.mark.parametrize(
    "precision, expected", [("float32", 330 * 4), ("bfloat16", 330 * 2), ("float64", 330 * 4 + 261 * 4)]
)
def test_what_a_backward_pass_keeps_counted_by_hand(precision, expected):
    """A sample and timestep: C4 on 8×8 with P has 256 currents and 64 averages, F5 5 currents and 5 spikes, together 330;
    261 potentials too in the plain form, which float64 has and every precision without Numba."""
    pytest.importorskip("numba", reason="without Numba potentials are kept, too")
    model = build_model(ModelConfig("vgg-small", 2, 3, (1, 8, 8), layout="C4 P F5"))
    if precision == "float64":
        model.double()
    else:
        model.precision = precision
    assert passing.Pass(model, 3, 2).kept_bytes() == 3 * 2 * expected


@pytest.mark.parametrize("norm", ["bntt", "bn", "none"])
@pytest.mark.parametrize("encoding", ["poisson", "direct"])
def test_timesteps_computed_again_give_the_same_gradients(norm, encoding):
    """Activation checkpointing over time: scores, gradients, running statistics and counts, in float64."""
    config = ModelConfig("vgg-small", 6, 3, (2, 8, 8), 0.9, norm=norm, encoding=encoding, layout="C4 P C6 F5")
    x = draw(3, 2, 8, 8)
    found = []
    for limit in (None, 20_000):
        torch.manual_seed(0)
        model = build_model(config).double().train()
        model.memory_limit = limit
        images, counts = x.clone().requires_grad_(), []
        scores = model.forward_steps(images, seed=1, counts=counts)
        scores.square().sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        found.append((scores, images.grad, gradients, dict(model.state_dict()), counts))
    whole, pieces = found
    assert len(pieces[4]) == 4 and sum(int(count.sum()) for count in pieces[4][1:]) > 100
    torch.testing.assert_close(whole, pieces)


@pytest.mark.parametrize(("share", "length"), [(1, 8), (36 / 64, 3), (1 / 2, 2), (0, 2)])
def test_pieces_of_time_are_as_long_as_the_limit_allows(monkeypatch, share, length):
    """By hand, in bytes a neuron: all T = 8 timesteps 8·8 = 64; pieces of 3 keep 3·8 and 3·4 between them, 36; pieces of 2
    keep 16 + 16 = 32, which is the least: of 1 they keep 8 + 32."""
    pytest.importorskip("numba", reason="without Numba potentials are kept, too")
    config = ModelConfig("vgg-small", 8, 3, (1, 8, 8), layout="C4 F5")
    model = build_model(config)
    needed = passing.Pass(model, 3, 8).kept_bytes()
    pieces = []
    real = passing.checkpoint
    monkeypatch.setattr(passing, "checkpoint", lambda run, *a, **k: (pieces.append(a[1:3]), real(run, *a, **k))[1])
    model.memory_limit = int(needed * share)
    model(torch.randn(3, 1, 8, 8), seed=0)
    assert pieces == ([(start, min(start + length, 8)) for start in range(0, 8, length)] if length < 8 else [])
