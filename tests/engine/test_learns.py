"""A short real training on each data set, each norm and the ANN: loss falls, held-out samples are answered.

Where no real files of a data set are to be had, real photographs or digits stand in files of its official layout; the
recordings of the event camera are drawn. The slow ones read real files from ../shared/data.
"""

import shutil
import tarfile

import numpy as np
import pytest
import torch

from engine.analysis.evaluation import evaluate
from engine.comparison import at_steps, compare
from engine.datasets import fit, from_path, get
from engine.datasets.cifar10_dvs import CLASSES
from engine.snn import ModelConfig, sequence_steps
from engine.training import Recipe, train

from .test_aedat import aedat_bytes


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The data folder."""
    monkeypatch.setenv("BNTT_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def learn(name, out, samples=None, recipe=None, **network):
    """Losses of the epochs and accuracy on the first held-out samples after a training of `name`."""
    data = get(name)
    config = dict(
        arch=data.arch, classes=len(data.classes), in_shape=data.shape, leak=data.leak, encoding=data.encoding
    )
    config |= network
    config.setdefault("steps", sequence_steps(config["encoding"], config["in_shape"]) or data.steps)
    config = ModelConfig(**config)
    losses = []
    recipe = Recipe(dataset=name, **(dict(epochs=2, batch=64, lr=0.3) | (recipe or {})))
    model = train(config, recipe, out, on_epoch=lambda row: losses.append(row["loss"]))
    pixels, labels = data.load("test", steps=config.steps, side=config.in_shape[1])
    pixels, labels = fit(pixels[:samples], config.in_shape), labels[:samples]
    mean, std = data.moments(config.in_shape[0])
    result = evaluate(model, pixels, labels, torch.arange(len(labels)), mean, std, seed=0)
    return losses, result.accuracy()["accuracy"].iloc[-1]


SMALL = dict(layout="C4 P C8 P F32", steps=4)


@pytest.mark.parametrize(
    "network",
    [
        SMALL,
        dict(SMALL, norm="bn"),
        dict(SMALL, norm="tdbn"),
        dict(SMALL, norm="none"),
        dict(SMALL, encoding="direct"),
        dict(layout="C4 P C8 P F32", kind="ann", norm="bn", encoding="direct", steps=1),
        dict(arch="mlp", layout="F64", encoding="rows"),
        dict(SMALL, in_shape=(3, 20, 20)),
    ],
    ids=["BNTT", "BatchNorm", "tdBN", "no norm", "direct", "ANN", "rows", "another shape"],
)
def test_digits_are_learnt(network, tmp_path):
    """Chance is 10 %. Without normalisation a smaller step is needed, as everywhere."""
    lr = 0.1 if network.get("norm") == "none" else 0.3
    losses, accuracy = learn(
        "digits", tmp_path / "run", recipe=dict(epochs=2, batch=32, lr=lr, augment=False), **network
    )
    assert losses[-1] < 0.9 * losses[0] and accuracy > 0.4


def test_digits_are_learnt_pixel_by_pixel(tmp_path):
    network = dict(arch="mlp", layout="F64", encoding="pixels", in_shape=(1, 5, 5))
    losses, accuracy = learn(
        "digits", tmp_path / "run", recipe=dict(epochs=6, batch=32, lr=1.0, augment=False), **network
    )
    assert losses[-1] < 0.9 * losses[0] and accuracy > 0.3


def test_events_are_learnt(folder, tmp_path):
    """Ten places where something flickers, a class each, in the camera's own file format."""
    draw = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (folder / "CIFAR10-DVS" / name).mkdir(parents=True)
        for number in range(20):
            x = draw.normal(12 + 24 * (label % 5), 4, 400).clip(0, 127).astype(int)
            y = draw.normal(40 + 48 * (label // 5), 4, 400).clip(0, 127).astype(int)
            times = np.sort(draw.integers(0, 1_000_000, 400))
            events = list(zip(times.tolist(), x.tolist(), y.tolist(), draw.integers(0, 2, 400).tolist()))
            (folder / "CIFAR10-DVS" / name / f"cifar10_{name}_{number}.aedat").write_bytes(aedat_bytes(events))
    network = dict(layout="C4 P C8 P F32", steps=5, in_shape=(2, 16, 16))
    losses, accuracy = learn(
        "cifar10-dvs", tmp_path / "run", recipe=dict(epochs=12, batch=10, lr=0.1, augment=False), **network
    )
    assert losses[-1] < 0.8 * losses[0] and accuracy > 0.5


def test_all_baselines_are_compared_on_the_same_layers(tmp_path):
    config = ModelConfig(arch="vgg-small", layout="C4 P F8", steps=3, in_shape=(1, 16, 16))
    trained = []
    for _ in range(2):  # the second time everything is there and is only measured again
        table = compare(
            config,
            Recipe(epochs=1, batch=128),
            tmp_path,
            converted_steps=12,
            on_epoch=lambda name, row: trained.append(name),
        )
    assert trained == ["bntt", "tdbn", "bn", "none", "ann"]
    wide = at_steps(table, [1, 3, 12])
    assert list(wide.index) == ["BNTT", "tdBN", "one BatchNorm", "no normalisation", "converted ANN", "ANN"]
    assert wide["one pass"].notna().tolist() == [False] * 5 + [True]
    assert wide[12].notna().tolist() == [False] * 4 + [True, False]
    row = table[(table["name"] == "bntt") & (table["step"] == 3)].iloc[0]
    assert wide.loc["BNTT", 3] == row["correct"] / 399


# ------------------------------------------------------------------------------------- minutes each, on real files


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "name, network, least",
    [
        ("mnist", dict(layout="C8 P C16 P F32", steps=6), 0.9),
        ("fashion-mnist", dict(layout="C8 P C16 P F32", steps=6), 0.9),
        ("sequential-mnist", dict(layout="F64"), 0.8),
        ("sequential-mnist-pixels", dict(layout="F32"), 0.15),
    ],
)
def test_mnist_is_learnt(name, network, least, folder, shared, tmp_path):
    """MNIST's own files, which stand in for Fashion-MNIST's too: the layout is the same. One epoch."""
    (folder / ("FashionMNIST" if name == "fashion-mnist" else "MNIST")).symlink_to(shared / "data" / "mnist")
    (_, accuracy) = learn(name, tmp_path / "run", 2000, recipe=dict(epochs=1, batch=256, lr=1.0), **network)
    assert accuracy > least


@pytest.fixture(scope="module")
def photographs(request):
    path = request.getfixturevalue("shared") / "data"
    return path / "cifar10-jpeg.tar.xz", path / "tiny-imagenet-20.tar.xz"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_cifar10_is_learnt(folder, photographs, tmp_path):
    """The real images, written as the official binary files. Chance is 10 %."""
    data = from_path(photographs[0])
    target = folder / "cifar-10-batches-bin"
    target.mkdir()
    for split, files in (("train", [f"data_batch_{n}.bin" for n in range(1, 6)]), ("test", ["test_batch.bin"])):
        pixels, labels = data.load(split)
        rows = torch.cat([labels[:, None].to(torch.uint8), pixels.flatten(1)], 1).numpy()
        for file, part in zip(files, np.array_split(rows, len(files))):
            (target / file).write_bytes(part.tobytes())
    network = dict(arch="vgg-small", encoding="direct", steps=4)
    losses, accuracy = learn("cifar10", tmp_path / "run", 2000, recipe=dict(epochs=2, batch=128), **network)
    assert losses[1] < losses[0] and accuracy > 0.4


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["tiny-imagenet", "cifar100"])
def test_twenty_kinds_of_photographs_are_learnt(name, folder, photographs, tmp_path):
    """Tiny-ImageNet's first 20 classes; the same photographs at 32×32 stand in CIFAR-100's binary files. Chance is 5 %."""
    shutil.copy(photographs[1], folder)
    if name == "cifar100":
        _as_cifar100(get("tiny-imagenet"), folder / "cifar-100-binary")
    network = dict(arch="vgg-small", encoding="direct", steps=4, in_shape=(3, 32, 32))
    losses, accuracy = learn(name, tmp_path / "run", 1000, recipe=dict(epochs=5, batch=64, lr=0.1), **network)
    assert losses[-1] < losses[0] and accuracy > 0.12


def _as_cifar100(data, target):
    target.mkdir()
    for split in ("train", "test"):
        pixels, labels = data.load(split)
        leads = torch.stack([labels // 5, labels], 1).to(torch.uint8)
        rows = torch.cat([leads, fit(pixels, (3, 32, 32)).flatten(1)], 1)
        (target / f"{split}.bin").write_bytes(rows.numpy().tobytes())


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_folder_of_images_is_learnt(folder, photographs, tmp_path):
    """Two classes of real photographs, unpacked as anyone would keep them. Chance is 50 %."""
    with tarfile.open(photographs[0]) as archive:
        for member in archive:
            if member.isfile() and member.name.split("/")[1] in ("airplane", "frog"):
                archive.extract(member, folder / "pets", filter="data")
    network = dict(arch="vgg-small", encoding="direct", steps=4)
    _, accuracy = learn("pets", tmp_path / "run", 2000, recipe=dict(epochs=1, batch=64), **network)
    assert accuracy > 0.75
