"""Our own file: what is saved comes back, whole or not at all."""

import io
import json
import os

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from engine.checkpoint import CheckpointError, Note, load_checkpoint, save_checkpoint
from engine.snn import ModelConfig, build_model

CONFIG = ModelConfig(
    arch="vgg-small",
    layout="C2 P C3 P F4 F5",
    steps=3,
    classes=6,
    in_shape=(2, 8, 12),
    leak=0.8,
    threshold=0.7,
    encoding="direct",
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(CONFIG)


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / "run" / "model.safetensors"
    save_checkpoint(path, model, dataset="mnist", mean=(0.1, 0.2), std=(0.3, 0.4), seed=3)
    return path


def rewritten(path, **header):
    """The same tensors under another header."""
    with safetensors.safe_open(path, "pt") as file:
        known = file.metadata()
    return io.BytesIO(safetensors.torch.save(safetensors.torch.load_file(path), {**known, **header}))


def test_what_is_saved_comes_back(model, saved):
    checkpoint = load_checkpoint(saved)
    assert checkpoint.source == "engine" and checkpoint.config == CONFIG == checkpoint.model.config
    assert (checkpoint.dataset, checkpoint.mean, checkpoint.std) == ("mnist", (0.1, 0.2), (0.3, 0.4))
    assert checkpoint.metadata == {"dataset": "mnist", "mean": [0.1, 0.2], "std": [0.3, 0.4], "seed": 3}
    assert list(checkpoint.stacks) == ["conv1", "conv2", "fc1", "fc2"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, checkpoint.model.state_dict()[name]), name
    assert not any(note.guessed for note in checkpoint.notes)
    assert Note("leak", 0.8, "from the file", False) in checkpoint.notes


def test_names_and_header_are_the_documented_ones(saved):
    with safetensors.safe_open(saved, "pt") as file:
        header, names = file.metadata(), set(file.keys())
    assert header["format"] == "bntt-engine" and ModelConfig.from_dict(json.loads(header["config"])) == CONFIG
    assert json.loads(header["metadata"])["seed"] == 3
    assert names == set(CONFIG.tensor_shapes())


def test_values_in_the_header_stand_against_the_name_and_yield_to_overrides(saved):
    data = io.BytesIO(saved.read_bytes())
    checkpoint = load_checkpoint(data, name="cifar10_leak0.5.safetensors")
    assert (checkpoint.dataset, checkpoint.config.leak) == ("mnist", 0.8)
    changed = load_checkpoint(data, name="a.safetensors", leak=0.5, dataset="digits")
    assert changed.config.leak == 0.5 and changed.dataset == "digits"
    assert changed.mean == (0.1, 0.2)  # what it was trained with, whatever it is shown
    assert Note("leak", 0.5, "set by you", False) in changed.notes
    assert changed.config.in_shape == (2, 8, 12)


def test_half_precision_halves_the_file_and_comes_back_as_float32(model, tmp_path):
    save_checkpoint(tmp_path / "full", model)
    save_checkpoint(tmp_path / "half", model, dtype=torch.float16)
    weights = sum(tensor.numel() for tensor in model.state_dict().values() if tensor.is_floating_point())
    saved_bytes = os.path.getsize(tmp_path / "full") - os.path.getsize(tmp_path / "half")
    assert saved_bytes == pytest.approx(2 * weights, rel=0.05)
    loaded = load_checkpoint(tmp_path / "half").model
    for name, tensor in model.state_dict().items():
        back = loaded.state_dict()[name]
        assert back.dtype == tensor.dtype
        torch.testing.assert_close(back, tensor, rtol=2**-10, atol=2**-24)


def test_too_large_for_half_precision(model, tmp_path):
    model.conv1.weight.data[0, 0, 0, 0] = 1e6
    with pytest.raises(CheckpointError, match="conv1.weight has values too large"):
        save_checkpoint(tmp_path / "half", model, dtype=torch.float16)
    assert not list(tmp_path.iterdir())


def test_numpy_and_torch_numbers_are_plain_in_the_metadata(model, tmp_path):
    save_checkpoint(tmp_path / "a", model, accuracy=np.float32(0.5), count=np.int64(3), loss=torch.tensor(2.0))
    assert load_checkpoint(tmp_path / "a").metadata == {"accuracy": 0.5, "count": 3, "loss": 2.0}


def test_metadata_comes_round(saved, model, tmp_path):
    first = load_checkpoint(saved)
    save_checkpoint(tmp_path / "b", first.model, **first.metadata)
    assert load_checkpoint(tmp_path / "b").metadata == first.metadata


@pytest.mark.parametrize("bad", [{"a": object()}, {"a": float("nan")}, {"dtype": "float16"}, {"dtype": torch.int8}])
def test_what_cannot_be_saved_leaves_the_old_file_as_it_was(model, saved, bad):
    before = saved.read_bytes()
    with pytest.raises(CheckpointError, match="model.safetensors: "):
        save_checkpoint(saved, model, **bad)
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]


def test_a_write_that_fails_half_way_leaves_the_old_file_as_it_was(model, saved, monkeypatch):
    before = saved.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_checkpoint(saved, model)
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (dict(config="{"), "'config' is not JSON"),
        (dict(config="[]"), "'config' is not a table"),
        (dict(config="[" * 100_000), "'config' is not JSON"),
        (dict(metadata="hello"), "'metadata' is not JSON"),
        (dict(metadata="3"), "'metadata' is not a table"),
        (dict(metadata='{"mean": "x"}'), "mean must be a number"),
        (dict(metadata='{"mean": [1, 2, 3]}'), "mean needs 2 values"),
        (dict(metadata='{"std": [0, 1]}'), "std must be above 0"),
        (dict(metadata='{"dataset": 5}'), "dataset must be a name"),
        (dict(metadata='{"mean": ' + "[" * 300 + "]" * 300 + "}"), "mean must be a number"),
    ],
)
def test_headers_that_say_nothing_usable(saved, header, words):
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(rewritten(saved, **header), name="a.safetensors")
    assert str(caught.value).startswith("a.safetensors: ") and words in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(steps=0), "steps must be 1 to 10000"),
        (dict(steps=2), "belongs to no layer"),
        (dict(steps=4), "bntt1.3.weight is missing"),
        (dict(steps=10_000), "its header speaks of 120000 BNTT tensors and it holds 53"),
        (dict(leak=10**400), "its header gives no network"),
        (dict(leak=None), "its header gives no network"),
        (dict(arch="vgg16"), "architecture 'vgg16' is not one of"),
        (dict(arch=["vgg9"]), "its header gives no network"),
        (dict(in_shape=[[[[]]]]), "in_shape must be"),
        (dict(classes=5), "fc3.weight has shape 6×5; 5×5 was expected"),
        (dict(layout="C1 " * 100_000), "no text of at most 1000 letters"),
        (dict(layout=["C1"]), "no text of at most 1000 letters"),
        (dict(in_shape=[2, 16, 16]), "fc1.weight has shape 4×18; 4×48 was expected"),
        (dict(surprise=1), "unknown entries: surprise"),
    ],
)
def test_configurations_that_do_not_fit(saved, change, words):
    config = json.dumps({**CONFIG.to_dict(), **change})
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(rewritten(saved, config=config), name="a.safetensors")
    assert words in str(caught.value)
