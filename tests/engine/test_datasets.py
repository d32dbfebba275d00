"""Data sets: the digits against scikit-learn and plain arithmetic, the split, and how images are made to fit."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from engine.checkpoint.guess import DATASETS
from engine.datasets import DataError, base, entries, fit, get, to_unit
from engine.snn import ENCODINGS, ModelConfig, build_model, sequence_steps


@pytest.fixture(scope="module")
def original():
    """(levels 0 … 16, labels) as scikit-learn gives them: float64 [1797, 8, 8], int64 [1797]."""
    digits = load_digits()
    return digits.images, digits.target


def in_test(number: int) -> bool:
    """The split in words: of every nine digits, the fifth and the ninth are test samples."""
    return number % 9 in (4, 8)


def rows(split: str) -> list[int]:
    """The numbers in scikit-learn's file of a split's samples, in order."""
    return [number for number in range(1797) if in_test(number) == (split == "test")]


def enlarged(levels: np.ndarray, row: int, column: int) -> float:
    """One pixel of an 8×8 image enlarged to 16×16, by the definition of bilinear interpolation.

    Pixel centres lie at half numbers, so output pixel i looks at (i + ½)/2 − ½ of the input; beyond the border the
    border's value goes on.
    """
    found = 0.0
    for y_weight, y in taps(row):
        for x_weight, x in taps(column):
            found += y_weight * x_weight * levels[y, x]
    return found


def taps(index: int):
    place = (index + 0.5) / 2 - 0.5
    low = int(np.floor(place))
    share = place - low
    return ((1 - share, min(max(low, 0), 7)), (share, min(max(low + 1, 0), 7)))


@pytest.mark.parametrize("split, count", [("train", 1398), ("test", 399)])
def test_digits_are_those_of_scikit_learn(split, count, original):
    """Every pixel of some images, computed by a plain loop in float64."""
    levels, labels = original
    images = get("digits").load(split)
    assert images.pixels.shape == (count, 1, 16, 16) and images.pixels.dtype == torch.uint8
    assert images.labels.tolist() == labels[rows(split)].tolist()
    for sample in (0, 1, count // 2, count - 1):
        number = rows(split)[sample]
        expected = [[enlarged(levels[number], r, c) * 255 / 16 for c in range(16)] for r in range(16)]
        found = images.pixels[sample, 0].numpy().astype(float)
        assert np.abs(found - expected).max() <= 0.5 + 1e-4, "rounded to the nearest"


def test_split_is_disjoint_and_complete(original):
    """Every original is found exactly once; the shrunk test and train images give back the whole file."""
    levels, _ = original
    found = {}
    for split in ("train", "test"):
        pixels = get("digits").load(split).pixels[:, 0].to(torch.float64)
        # the mean of each 2×2 block of a bilinear enlargement is a fixed blur of the original: compare blurred ones
        blurred = pixels.view(-1, 8, 2, 8, 2).mean((2, 4)).numpy() * 16 / 255
        for number, image in zip(rows(split), blurred):
            assert number not in found
            found[number] = image
    assert sorted(found) == list(range(1797))
    padded = np.pad(levels, ((0, 0), (1, 1), (1, 1)), mode="edge")
    kernel = (0.125, 0.75, 0.125)
    expected = sum(
        kernel[i] * kernel[j] * padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)
    )  # ½·(¼, ¾, 0) + ½·(0, ¾, ¼) along each axis
    assert np.abs(np.stack([found[n] for n in range(1797)]) - expected).max() < 0.04, "half a level of 255"


def test_both_splits_hold_every_class_about_evenly():
    for split, least in (("train", 120), ("test", 30)):
        assert torch.bincount(get("digits").load(split).labels, minlength=10).min() >= least


def test_reading_again_gives_the_same_tensors():
    assert get("digits").load("test").pixels is get("digits").load("test").pixels


def test_digits_entry_describes_its_images():
    """Classes, shape and normalisation against the training images, the moments in float64 by numpy."""
    data = get("digits")
    pixels, labels = data.load("train")
    assert tuple(pixels.shape[1:]) == data.shape and int(labels.max()) == len(data.classes) - 1
    unit = pixels.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(unit.mean((0, 2, 3)), data.mean, atol=1e-4)
    np.testing.assert_allclose(unit.std((0, 2, 3)), data.std, atol=1e-4)


NAMES = (
    "digits",
    "mnist",
    "fashion-mnist",
    "sequential-mnist",
    "sequential-mnist-pixels",
    "cifar10",
    "cifar100",
    "cifar10-dvs",
    "cifar10-dvs-duration",
    "tiny-imagenet",
)


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_makes_a_network_and_says_what_is_missing(name, tmp_path, monkeypatch):
    monkeypatch.setenv("BNTT_DATA", str(tmp_path / "empty"))
    data = entries()[name]
    assert data.name == name and data.encoding in ENCODINGS and hash(data) is not None
    assert len(data.mean) == len(data.std) == data.shape[0] and all(s > 0 for s in data.std)
    assert sequence_steps(data.encoding, data.shape) in (None, data.steps)
    config = ModelConfig(
        arch=data.arch, steps=data.steps, classes=len(data.classes), in_shape=data.shape, encoding=data.encoding
    )
    assert config.layers()[-1].out_shape == (len(data.classes),)
    if name == "digits":
        assert data.missing() == ""
        return
    assert str(tmp_path) in data.missing() and "\n" not in data.missing()
    assert data.remote, "and it can be fetched"
    with pytest.raises(DataError) as told:
        data.load("train")
    assert str(told.value) == data.missing()


@pytest.mark.parametrize("name", sorted(set(NAMES) & set(DATASETS)))
def test_what_is_guessed_for_foreign_checkpoints_agrees_with_the_registry(name):
    data, facts = entries()[name], DATASETS[name]
    assert (facts.channels, facts.side, facts.classes) == (data.shape[0], data.shape[1], len(data.classes))
    assert (facts.mean, facts.std) == (data.mean, data.std)
    assert facts.leak in (None, data.leak)


def test_where_data_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("BNTT_DATA", str(tmp_path))
    assert base.folder() == tmp_path
    monkeypatch.delenv("BNTT_DATA")
    assert base.folder().name == ".data" and (base.folder().parent / "engine").is_dir()


@pytest.mark.parametrize("name", ["sequential-mnist", "cifar10-dvs", "mnist"])
def test_the_usual_network_of_each_kind_of_data_runs(name):
    """One pass of a narrow version of it, on data of the entry's shape."""
    data = get(name)
    narrow = {"mlp": "F4", "cnn7": "C2 P C2 P C2 P C2 P C2 P F4", "vgg-small": "C2 P F4"}[data.arch]
    config = ModelConfig(arch=data.arch, layout=narrow, steps=data.steps, in_shape=data.shape, encoding=data.encoding)
    x = torch.rand(*((data.steps,) if data.events else ()), 2, *data.shape)
    assert build_model(config).forward_steps(x).shape == (data.steps, 2, 10)


def test_unknown_names_are_told():
    with pytest.raises(ValueError, match="'nope' is not known.*digits"):
        get("nope")
    with pytest.raises(ValueError, match="'valid'"):
        get("digits").load("valid")


def test_to_unit():
    unit = to_unit(torch.tensor([0, 51, 255], dtype=torch.uint8))
    assert unit.dtype == torch.float32 and unit.tolist() == pytest.approx([0, 0.2, 1])


def test_moments_follow_the_channels():
    data = get("digits")
    assert data.moments(1) == (data.mean, data.std)
    assert data.moments(3) == (data.mean * 3, data.std * 3)


def random_images(count, *shape):
    return torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_fit_leaves_fitting_images_alone():
    images = random_images(2, 3, 8, 8)
    assert fit(images, (3, 8, 8)) is images


def test_fit_repeats_grey():
    images = random_images(2, 1, 8, 8)
    assert torch.equal(fit(images, (3, 8, 8)), images.expand(-1, 3, -1, -1))


def test_fit_averages_colours():
    """Against numpy in float64."""
    images = random_images(2, 3, 8, 8)
    expected = images.numpy().astype(np.float64).mean(1, keepdims=True).round()
    np.testing.assert_array_equal(fit(images, (1, 8, 8)).numpy(), expected)


def test_fit_repeats_the_average_for_other_counts():
    images = random_images(2, 3, 8, 8)
    assert torch.equal(fit(images, (2, 8, 8)), fit(images, (1, 8, 8)).expand(-1, 2, -1, -1))


def test_fit_enlarges_like_the_plain_loop():
    """8×8 → 16×16 by the definition of bilinear interpolation."""
    image = random_images(1, 1, 8, 8)
    found = fit(image, (1, 16, 16))
    levels = image[0, 0].numpy().astype(float)
    expected = [[enlarged(levels, r, c) for c in range(16)] for r in range(16)]
    assert found.dtype == torch.uint8
    assert np.abs(found[0, 0].numpy() - np.array(expected)).max() <= 0.5 + 1e-3


def test_fit_shrinks_with_antialiasing():
    """A checkerboard of single pixels shrinks to its mean, not to one of its two colours."""
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 255
    small = fit(board.to(torch.uint8)[None, None], (1, 4, 4))
    assert (small.float() - 127.5).abs().max() <= 1


def test_fit_changes_side_and_channels_at_once():
    grey = torch.full((2, 1, 16, 16), 77, dtype=torch.uint8)
    found = fit(grey, (3, 32, 32))
    assert found.shape == (2, 3, 32, 32) and (found == 77).all()
