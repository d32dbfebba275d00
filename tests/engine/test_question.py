"""Keys of results: what changes them and what does not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine import load_checkpoint, save_checkpoint, store
from engine.analysis import evaluation, robustness
from engine.analysis.robustness import Attack
from engine.datasets import get
from engine.datasets.cifar import _CIFAR10_VERSIONS
from engine.store import place, question

from .checkpoint_files import norm_stack
from .test_commands import write_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkpoint(tmp_path):
    return load_checkpoint(write_model(tmp_path / "tiny.safetensors"))


def key(checkpoint, data="digits", function=evaluation.evaluate_rows, part=(0, 10), **settings):
    return question(checkpoint, data and get(data), function, **({"seed": 0, "precision": "float32"} | settings)).key(
        part
    )


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"precision": "bfloat16"},
        {"part": (0, 11)},
        {"part": (Attack("fgsm", 0.1), 0, 10)},
        {"function": robustness.attack_rows},
        {"data": None},
        {"more": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_question_has_another_key(change, checkpoint):
    assert key(checkpoint, **change) != key(checkpoint)
    assert key(checkpoint, **change) == key(checkpoint, **change)


@pytest.mark.parametrize(
    "change", [{"leak": 0.5}, {"threshold": 2.0}, {"encoding": "direct"}, {"mean": (0.5,)}, {"std": (0.5,)}], ids=str
)
def test_another_setting_of_the_network_has_another_key(change, checkpoint):
    assert key(checkpoint.replace(**change)) != key(checkpoint)
    assert key(checkpoint.replace(**change).replace(**dict.fromkeys(change))) == key(checkpoint)


def test_attacks_that_differ_anywhere_have_keys_of_their_own(checkpoint):
    attacks = [Attack(kind, eps) for kind in ("gaussian", "fgsm", "pgd") for eps in (0.0, 0.1, 0.1 + 1e-9)]
    attacks += [Attack("pgd", 0.1, 11), Attack("pgd", 0.1, 10, 0.01)]
    asked = question(checkpoint, get("digits"), robustness.attack_rows, seed=0)
    assert len({asked.key((attack, 0, 10)) for attack in attacks}) == len(attacks)
    assert len({asked.job_key([(attack, 0, 10)]) for attack in attacks}) == len(attacks)
    assert asked.job_key([(1,), (2,)]) != asked.job_key([(2,), (1,)])


def test_weights_count_and_the_file_around_them_does_not(checkpoint, tmp_path):
    """The same weights under another name and with other metadata; and with one bit of one weight changed."""
    model, known = checkpoint.model, checkpoint.metadata
    save_checkpoint(tmp_path / "other name.safetensors", model, **{**known, "test_accuracy": 0.5, "note": "mine"})
    other = load_checkpoint(tmp_path / "other name.safetensors")
    assert other.digest != checkpoint.digest and other.weights_digest == checkpoint.weights_digest
    assert key(other) == key(checkpoint)
    model.get_parameter("conv1.weight").detach().flatten().view(torch.int32)[5] ^= 1
    save_checkpoint(tmp_path / "changed.safetensors", model, **known)
    assert key(load_checkpoint(tmp_path / "changed.safetensors")) != key(other)


def test_the_digest_of_weights_is_made_once_for_all_that_share_them(checkpoint, monkeypatch):
    changed = checkpoint.replace(leak=0.5)  # before any digest was asked for, as the app does on every click
    assert changed.weights_digest == checkpoint.weights_digest
    monkeypatch.setattr(type(checkpoint.model), "state_dict", None)
    assert checkpoint.replace(leak=0.6).weights_digest == changed.replace(leak=None).weights_digest


def test_without_a_network_the_files_digest_stands_for_the_weights(tmp_path):
    torch.save(norm_stack("norm", 3, 4, torch.Generator().manual_seed(0)), tmp_path / "gamma.pth")
    alone = load_checkpoint(tmp_path / "gamma.pth")
    assert alone.model is None and alone.weights_digest == alone.digest
    assert len(store.fingerprint(alone, "")) == 24


def write_cifar(folder: Path, version: int) -> None:
    """All files of one version of CIFAR-10, empty."""
    wanted = _CIFAR10_VERSIONS[version]
    for name in (*wanted.train, *wanted.test):
        path = folder / wanted.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize("version", range(len(_CIFAR10_VERSIONS)))
def test_another_data_file_has_another_key_and_another_process_the_same(version, checkpoint, tmp_path, monkeypatch):
    """The place of CIFAR-10 names a function, whose address differs in each process; the folder is given relatively."""
    monkeypatch.setenv("BNTT_DATA", str(tmp_path / "data"))
    write_cifar(tmp_path / "data", version)
    first = place(get("cifar10")), key(checkpoint, data="cifar10")
    code = "from engine.datasets import get; from engine.store import place; print(place(get('cifar10')))"
    environment = {**os.environ, "BNTT_DATA": "data", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert ended.stdout.strip() == first[0], ended.stderr
    wanted = _CIFAR10_VERSIONS[version]
    (tmp_path / "data" / wanted.folder / wanted.test[0]).write_bytes(b"x")
    assert place(get("cifar10")) != first[0] and key(checkpoint, data="cifar10") != first[1]


def test_two_data_sets_in_the_same_files_have_two_keys(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("BNTT_DATA", str(tmp_path))
    for name in (*("train-images-idx3-ubyte", "train-labels-idx1-ubyte"), "t10k-images-idx3-ubyte"):
        (tmp_path / "MNIST" / "raw").mkdir(parents=True, exist_ok=True)
        (tmp_path / "MNIST" / "raw" / name).touch()
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").touch()
    assert place(get("mnist")) == place(get("sequential-mnist"))
    assert key(checkpoint, data="mnist") != key(checkpoint, data="sequential-mnist")


def test_another_engine_has_another_key(checkpoint, monkeypatch):
    known = key(checkpoint)
    version = store.engine_version.__wrapped__
    assert version() == store.engine_version(), "it does not change by itself"
    monkeypatch.setattr("torch.__version__", "9.9")
    assert version() != store.engine_version()
    monkeypatch.setattr("engine.question.engine_version", version)
    assert key(checkpoint) != known
