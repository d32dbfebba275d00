"""What a training is said to cost: memory against a walk through autograd's own graph, time by a clock of our own."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from engine import cost
from engine.__main__ import main
from engine.analysis.evaluation import normalised
from engine.cost import SAMPLES, machine_memory, measure, training_samples
from engine.datasets import get
from engine.snn import ModelConfig, build_model
from engine.snn.passing import Pass
from engine.training import Recipe, build_optimizer, descend

NETWORKS = {
    "BNTT": dict(layout="C4 P C6 P F8", steps=3, in_shape=(1, 8, 8)),
    "BatchNorm": dict(layout="C4 P F8", steps=3, in_shape=(1, 8, 8), norm="bn"),
    "tdBN": dict(layout="C4 P F8", steps=3, in_shape=(1, 8, 8), norm="tdbn"),
    "no norm": dict(layout="C4 C4 G F8", steps=3, in_shape=(2, 8, 8), norm="none", encoding="direct"),
    "rows": dict(layout="F8 F8", steps=6, in_shape=(1, 6, 6), encoding="rows"),
    "events": dict(layout="C4 P F8", steps=3, in_shape=(2, 8, 8), encoding="events"),
    "ANN": dict(layout="C4 P F8", steps=1, in_shape=(1, 8, 8), norm="bn", encoding="direct", kind="ann"),
}


def network(name):
    return ModelConfig(**NETWORKS[name])


def batch_of(config, count):
    """Random samples as the engine takes them."""
    frames = (config.steps,) if config.encoding == "events" else ()
    pixels = torch.randint(3, (count, *frames, *config.in_shape), dtype=torch.uint8)
    return normalised(pixels, (0.5,) * config.in_shape[0], (0.25,) * config.in_shape[0])


def kept_by_graph(model, loss):
    """Bytes of the storages that the nodes between loss and weights hold, each once, without the weights' own."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    storages, seen, left = {}, set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        left += [following for following, _ in node.next_functions]
        saved = list(node.saved_tensors) if hasattr(node, "saved_tensors") else []
        for name in dir(node):
            if name.startswith("_saved_"):
                value = getattr(node, name)
                saved += value if isinstance(value, (tuple, list)) else [value]
        for tensor in saved:
            number = (
                isinstance(tensor, torch.Tensor) and tensor.dim() == 0 and tensor.dtype == torch.float64
            )  # of Python
            if isinstance(tensor, torch.Tensor) and not number and tensor.untyped_storage().data_ptr() not in own:
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values())


@pytest.mark.parametrize("batch", [2, 5, 12])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_autograd_keeps_equals_a_walk_through_its_graph(name, batch):
    """Told from batches of 2 and 3, found at the batch itself."""
    model = build_model(network(name)).train()
    scores = model.forward_steps(batch_of(model.config, batch), seed=0)
    loss = F.cross_entropy(scores[-1], torch.randint(10, (batch,)))
    assert cost._autograd_bytes(model, batch) == kept_by_graph(model, loss) > 0


def test_a_layer_by_hand():
    """An MLP of one layer without norm, T = 2, batch 4: what its backward pass needs, in 4 bytes a number.

    Input [2, 4, 3] and the potentials [2, 4, 5] of the hidden layer, its spikes [2, 4, 5] for the read-out's weights;
    scale and shift of the neurons' currents [2, 5]; elapsed steps [2]; log-probabilities [4, 10], a weight in total and
    the labels, of 8 bytes each.
    """
    config = ModelConfig(layout="F5", steps=2, in_shape=(1, 2, 3), norm="none", encoding="rows")
    by_hand = 4 * (2 * 4 * 3 + 2 * 4 * 5 + 2 * 4 * 5 + 2 * 2 * 5 + 2 + 4 * 10 + 1) + 8 * 4
    assert cost._autograd_bytes(build_model(config), 4) == by_hand


@pytest.mark.parametrize("optimizer, copies", [("sgd", 1), ("adam", 2), ("adamw", 2)])
def test_memory_is_weights_gradients_state_and_activations(optimizer, copies):
    """Everything that is there after a step, counted by itself."""
    config, recipe = network("BNTT"), Recipe(batch=8, optimizer=optimizer, lr=0.01)
    model = build_model(config).train()
    descend(
        model, build_optimizer(model, recipe), recipe, model.forward_steps(batch_of(config, 8)), torch.zeros(8).long()
    )
    weights = sum(p.numel() * 4 for p in model.parameters())
    gradients = sum(p.grad.numel() * 4 for p in model.parameters())
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    counters = 4 * len(list(model.parameters())) if copies == 2 else 0  # Adam counts the steps of each
    expected = weights + gradients + buffers + copies * weights + counters + cost._autograd_bytes(model, 8)
    assert measure(config, recipe, 100).memory == expected


class Clock:
    """Each call of `work` takes a second a sample."""

    def __init__(self, monkeypatch, per_sample):
        self.now, self.batches = 0.0, []
        forward = cost._forward

        def timed(model, count):
            self.now += per_sample * count
            self.batches.append(count)
            return forward(model, count)

        monkeypatch.setattr(cost, "_forward", timed)

    def __call__(self):
        return self.now


@pytest.mark.parametrize(
    "per_sample, tried",
    [(3.0, [2, 2]), (0.1, [2, 4, 4]), (0.02, [2, 4, 8, 16, 32, 32]), (1e-6, [2, 4, 8, 16, 32, 50, 50])],
)
def test_steps_grow_while_they_are_quick_and_are_scaled_to_the_training(per_sample, tried, monkeypatch):
    """500 samples, 100 of them held out: 8 batches of 50, and 100 answered."""
    clock = Clock(monkeypatch, per_sample)
    found = measure(network("BNTT"), Recipe(epochs=7, batch=50, validation=0.2), 500, clock=clock)
    assert clock.batches == [2, 3, *tried, tried[-1]], "two for the memory, the steps, and one that judges"
    assert (found.batch_measured, found.steps_measured) == (tried[-1], 2)
    assert found.seconds_epoch == pytest.approx(per_sample * (8 * 50 + 100), rel=1e-6)
    assert found.seconds == pytest.approx(7 * found.seconds_epoch)


def test_a_step_that_computes_timesteps_again_is_measured_as_such(monkeypatch, cuts):
    """A small batch in as many pieces of time as the whole one, which alone goes beyond the limit."""
    config, recipe = replace(network("BNTT"), steps=8), Recipe(batch=64)
    model = build_model(config).train()
    model.memory_limit = int(0.75 * Pass(model, 64, config.steps).kept_bytes())
    pieces = math.ceil(config.steps / Pass(model, 64, config.steps)._length())
    whole = measure(config, recipe, 100)
    monkeypatch.setattr(cost, "training_limit", lambda: model.memory_limit)
    clock = Clock(monkeypatch, 3.0)  # so slow that batches of two are all that is tried
    assert measure(config, recipe, 100, clock=clock).memory < whole.memory
    assert clock.batches == [2, 3, 2, 2] and len(cuts) == 2 * pieces > 2


def test_random_numbers_are_left_as_they_were():
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    measure(network("BNTT"), Recipe(batch=4), 100)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network_is_measured(name):
    found = measure(network(name), Recipe(batch=4, lr=0.01, clip=1.0), 100)
    assert found.memory > 0 and found.seconds > 0 and found.batch_measured == 4


def test_numbers_of_samples_are_those_of_the_files(shared, monkeypatch):
    """The digits are here; others are looked for in ../shared/data."""
    monkeypatch.setenv("BNTT_DATA", str(shared / "data"))
    for name, count in SAMPLES.items():
        whole = name != "tiny-imagenet" or len(get(name).classes) == 200  # a part of it may be there
        if not get(name).missing() and not get(name).events and whole:
            assert len(get(name).load("train").labels) == count, name
    assert training_samples("digits") == 1398


def test_the_machine_has_memory():
    """Not more than the kernel says."""
    with open("/proc/meminfo") as file:
        total = 1024 * int(next(line for line in file if line.startswith("MemTotal")).split()[1])
    if not torch.cuda.is_available():
        assert 0 < machine_memory() <= total


def test_what_cannot_fit_is_told_without_trying(monkeypatch, capsys):
    monkeypatch.setattr("engine.cost.build_model", lambda config: pytest.fail("memory was spent"))
    monkeypatch.setattr("engine.cost.machine_memory", lambda: 10**9)
    assert main(["train", "--dry-run", "--layout", "C512 C512 F64", "--steps", "1000"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "two samples alone need" in said and "there are 1 GB" in said
