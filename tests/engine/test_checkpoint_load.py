"""Every kind of good checkpoint file opens and holds what was put in."""

import importlib.util
import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from torch import nn

from engine.checkpoint import load_checkpoint, save_checkpoint
from engine.snn import spike_counts
from tests.engine.checkpoint_files import legacy_bytes, norm_stack, published_state, torch_bytes

FIXTURES = Path(__file__).parents[2].parent / "shared" / "fixtures"
NAME = "cifar10vgg9_timestep5_lr0.3_epoch100_leak0.95_bestmodel.pth.tar"


@pytest.fixture(scope="module")
def reference():
    path = FIXTURES / "reference_state.py"
    if not path.exists():
        pytest.skip("the reference fixtures are not beside this repository")
    spec = importlib.util.spec_from_file_location("reference_state", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def opened(data: bytes, name="some.pth", **overrides):
    return load_checkpoint(io.BytesIO(data), name=name, **overrides)


@pytest.mark.parametrize("form", [torch_bytes, legacy_bytes])
def test_published_file_computes_what_the_published_model_computed(reference, form, tmp_path):
    """Against the logits and spike counts that the published code gave (to 1e-5, and exactly)."""
    state = reference.state_dict("vgg9", steps=5, classes=10, image_size=8, seed=0)
    path = tmp_path / NAME
    path.write_bytes(form({"global_step": 90, "state_dict": state, "accuracy": np.mean([90.0, 91.0])}))
    expected = np.load(FIXTURES / "vgg9_t5_c10_s8_leak0.95.npz")
    checkpoint = load_checkpoint(path)
    spikes = reference.input_spikes(5, expected["logits"].shape[0], 8, seed=0)
    with torch.no_grad():
        logits = checkpoint.model(spikes)
    np.testing.assert_allclose(logits.numpy(), expected["logits"], atol=1e-5, rtol=0)
    np.testing.assert_array_equal(spike_counts(checkpoint.model, spikes).numpy(), expected["spike_counts"])
    assert checkpoint.source == "bntt-reference" and checkpoint.name == NAME and not checkpoint.model.training
    # the published script stores its accuracy as a NumPy number
    assert checkpoint.metadata == {"global_step": 90, "accuracy": 90.5}


def test_vgg11_opens_and_its_gamma_table_is_quick_at_50_steps(reference):
    state = reference.state_dict("vgg11", steps=50, classes=100, image_size=32, seed=1)
    checkpoint = opened(torch_bytes(state), "cifar100vgg11_timestep50_lr0.3_epoch100_leak0.99_bestmodel.pth.tar")
    config = checkpoint.config
    assert (config.arch, config.layout, config.steps, config.classes) == ("vgg11", None, 50, 100)
    assert config.in_shape == (3, 32, 32) and config.leak == 0.99
    start = time.perf_counter()
    gamma = checkpoint.gamma
    assert time.perf_counter() - start < 1.0
    assert len(gamma) == 50 * (64 + 128 + 2 * 256 + 4 * 512 + 4096)
    row = gamma[(gamma.layer == "conv3") & (gamma.step == 7) & (gamma.channel == 11)].iloc[0]
    for column, part in (("gamma", "weight"), ("running_mean", "running_mean"), ("running_var", "running_var")):
        assert row[column] == state[f"bntt3.6.{part}"][11].item()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"net": state, "epoch": 3},
        lambda state: {"model_state_dict": state, "optimizer": {"state": {0: {"buffer": torch.ones(2)}}}, "epoch": 3},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": {f"module.{key}": nn.Parameter(value, False) for key, value in state.items()}},
    ],
    ids=["bare", "state_dict", "model", "net", "model_state_dict", "module", "module-parameters"],
)
@pytest.mark.parametrize("form", [torch_bytes, legacy_bytes])
def test_wrappers_and_prefixes(wrap, form):
    state = published_state()
    content = wrap(state)
    checkpoint = opened(form(content))
    assert checkpoint.source == "bntt-reference" and checkpoint.missing == ""
    for name, tensor in checkpoint.model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert checkpoint.metadata == ({"epoch": 3} if "epoch" in content else {})
    stripped = [note.value for note in checkpoint.notes if note.field == "names"]
    assert stripped == (["module."] if "module." in str(content) else [])


def test_widths_classes_channels_and_side_come_from_the_tensors():
    state = published_state((2, 3, 4, 5), steps=2, channels=3, classes=7, inputs=5 * 6 * 6, hidden=9)
    checkpoint = opened(torch_bytes(state))
    config = checkpoint.config
    assert (config.arch, config.layout) == ("vgg-small", "C2 C3 P C4 C5 P F9")
    assert (config.steps, config.classes, config.in_shape) == (2, 7, (3, 24, 24))
    assert list(checkpoint.stacks) == ["conv1", "conv2", "conv3", "conv4", "fc1"]
    assert checkpoint.stacks["fc1"].gamma.shape == (2, 9) and checkpoint.stacks["fc1"].gamma.dtype == np.float32
    assert checkpoint.model(torch.zeros(1, 3, 24, 24)).shape == (1, 7)


def test_vgg9_with_other_widths():
    state = published_state((2, 2, 3, 3, 4, 4, 4), channels=3, inputs=4 * 4 * 4, hidden=5)
    config = opened(torch_bytes(state)).config
    assert (config.arch, config.layout, config.in_shape) == ("vgg9", "C2 C2 P C3 C3 P C4 C4 C4 P F5", (3, 32, 32))


def test_one_timestep():
    checkpoint = opened(torch_bytes(published_state(steps=1)))
    assert checkpoint.config.steps == 1 and set(checkpoint.gamma.step) == {1}


@pytest.mark.parametrize("home", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("number", [np.float64(90.5), np.float32(90.5), np.int64(3), np.uint8(3), np.bool_(True)])
def test_numpy_numbers_beside_the_tensors(home, number):
    """NumPy 1 and 2 name the home of their numbers differently; the protocol-2 pickle holds the name as text."""
    pickled = legacy_bytes({"state_dict": published_state(), "accuracy": number})
    checkpoint = opened(pickled.replace(b"numpy._core.multiarray", f"{home}.multiarray".encode()))
    assert checkpoint.metadata == {"accuracy": number.item()}


def test_files_can_be_opened_from_several_threads_at_once():
    data = torch_bytes({"state_dict": published_state(), "accuracy": np.float64(90.5)})
    with ThreadPoolExecutor(4) as threads:
        accuracies = [checkpoint.metadata["accuracy"] for checkpoint in threads.map(opened, [data] * 40)]
    assert accuracies == [90.5] * 40


def test_files_without_batch_counters_open():
    """torch before 0.4.1 wrote none."""
    state = {key: value for key, value in published_state().items() if not key.endswith("tracked")}
    assert opened(torch_bytes(state)).source == "bntt-reference"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype):
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in published_state().items()}
    checkpoint = opened(torch_bytes({"state_dict": state}))
    assert checkpoint.model.conv2.weight.dtype == torch.float32
    assert torch.equal(checkpoint.model.conv2.weight, state["conv2.weight"].float())
    assert [note.value for note in checkpoint.notes if note.field == "precision"] == ["float32"]


def test_views_of_one_storage_are_read_as_views():
    state = published_state()
    both = torch.arange(2.0 * state["fc1.weight"].numel()).view(-1, 2 * state["fc1.weight"].shape[0]).t() / 100
    state["fc1.weight"] = both[4:]
    checkpoint = opened(torch_bytes(state))
    assert torch.equal(checkpoint.model.fc1.weight, both[4:]) and checkpoint.model.fc1.weight.is_contiguous()


def test_gamma_table_against_a_plain_loop():
    state = published_state()
    checkpoint = opened(torch_bytes(state))
    convs = [("conv1", "bntt1", 2), ("conv2", "bntt2", 2), ("conv3", "bntt3", 3), ("conv4", "bntt4", 3)]
    layers = [*convs, ("fc1", "bntt_fc", 4)]
    parts = ("weight", "running_mean", "running_var")
    rows = [
        (layer, t + 1, c, *(state[f"{norm}.{t}.{part}"][c].item() for part in parts))
        for layer, norm, width in layers
        for t in range(3)
        for c in range(width)
    ]
    expected = pd.DataFrame(rows, columns=["layer", "step", "channel", "gamma", "running_mean", "running_var"])
    actual = checkpoint.gamma.astype({"layer": expected.layer.dtype})
    pd.testing.assert_frame_equal(actual, expected, check_dtype=False)
    assert checkpoint.gamma is checkpoint.gamma


def snntorch_like():
    """snnTorch's BatchNormTT is a plain ModuleList of BatchNorms whose bias is None."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.fc1 = nn.Conv2d(1, 4, 5), nn.Linear(64, 10)
            self.bntt1 = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(3))
            self.bn2 = nn.ModuleList(nn.BatchNorm1d(10) for _ in range(3))
            for norm in (*self.bntt1, *self.bn2):
                norm.bias = None

    return Net().state_dict(), {"bntt1": (3, 4), "bn2": (3, 10)}


def spikingjelly_like():
    """SpikingJelly's BatchNormThroughTime keeps its BatchNorms in a ModuleList named bn_list."""

    class ThroughTime(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.bn_list = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(4))

    net = nn.Module()
    net.features = nn.Sequential(nn.Conv2d(2, 8, 3), ThroughTime(8), nn.ReLU(), nn.Conv2d(8, 6, 3), ThroughTime(6))
    net.classifier = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))
    return net.state_dict(), {"features.1.bn_list": (4, 8), "features.4.bn_list": (4, 6)}


def nested_lists():
    """Stacks inside a list of layers, deeper layers with fewer timesteps."""
    gen = torch.Generator().manual_seed(0)
    state = norm_stack("layers.0", 5, 3, gen) | norm_stack("layers.1", 2, 6, gen)
    return state, {"layers.0": (5, 3), "layers.1": (2, 6)}


@pytest.mark.parametrize("build", [snntorch_like, spikingjelly_like, nested_lists])
@pytest.mark.parametrize("form", [torch_bytes, legacy_bytes, safetensors.torch.save])
def test_stacks_of_other_libraries_open_in_gamma_only_mode(build, form):
    state, expected = build()
    checkpoint = opened(form(state))
    assert checkpoint.source == "gamma-only" and checkpoint.model is None and checkpoint.config is None
    assert {name: stack.gamma.shape for name, stack in checkpoint.stacks.items()} == expected
    assert set(checkpoint.gamma.layer) == set(expected) and "no network" in checkpoint.missing
    for name, (steps, _) in expected.items():
        for t in range(steps):
            np.testing.assert_array_equal(checkpoint.stacks[name].gamma[t], state[f"{name}.{t}.weight"])
            np.testing.assert_array_equal(checkpoint.stacks[name].running_var[t], state[f"{name}.{t}.running_var"])


def test_layers_of_a_sorted_file_stand_in_number_order():
    """safetensors sorts names as text, which would put bntt10 before bntt2."""
    gen = torch.Generator().manual_seed(0)
    state = {}
    for i in range(1, 12):
        state |= norm_stack(f"net.bntt{i}", 2, 3, gen)
    names = list(opened(safetensors.torch.save(state | norm_stack("net.bntt_fc", 2, 3, gen))).stacks)
    assert names == [*(f"bntt{i}" for i in range(1, 12)), "bntt_fc"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda state: state.pop("fc2.weight"), "fc2.weight is missing"),
        (lambda state: state.update({"conv1.bias": torch.zeros(2)}), "conv1.bias belongs to no layer"),
        (lambda state: state.update({"bntt1.0.bias": torch.zeros(2)}), "bntt1.0.bias belongs to no layer"),
        (lambda state: state.update({"conv5.weight": torch.zeros(2, 3, 3, 3)}), "5 layers named conv1.weight"),
    ],
)
def test_near_misses_of_the_published_layout_are_gamma_only(change, why):
    state = published_state()
    change(state)
    checkpoint = opened(torch_bytes(state))
    assert checkpoint.source == "gamma-only" and why in checkpoint.missing and "bntt4" in checkpoint.stacks


def test_published_names_in_a_foreign_safetensors_make_the_network():
    state = published_state()
    checkpoint = opened(safetensors.torch.save(state), "mnist_leak0.9.safetensors")
    assert checkpoint.source == "bntt-reference" and checkpoint.config.leak == 0.9
    assert list(checkpoint.stacks) == ["conv1", "conv2", "conv3", "conv4", "fc1"]


def test_path_text_and_file_object_give_the_same(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(torch_bytes(published_state()))
    with open(path, "rb") as file:
        file.read(10)  # an upload that has been looked at before
        opened_ones = [load_checkpoint(path), load_checkpoint(str(path)), load_checkpoint(file)]
    assert {checkpoint.name for checkpoint in opened_ones} == {"a.pt"}
    assert len({checkpoint.digest for checkpoint in opened_ones}) == 1


def test_loading_leaves_the_random_numbers_alone():
    data = torch_bytes(published_state())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    opened(data)
    assert torch.equal(torch.rand(3), expected)


def test_loaded_network_can_be_trained_and_saved_again(tmp_path):
    checkpoint = opened(torch_bytes(published_state()))
    checkpoint.model.train()
    checkpoint.model(torch.rand(2, 1, 16, 16), seed=0).sum().backward()
    assert checkpoint.model.conv1.weight.grad is not None
    save_checkpoint(tmp_path / "again.safetensors", checkpoint.model)
    assert os.path.getsize(tmp_path / "again.safetensors") > 0
