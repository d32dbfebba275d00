"""What is taken from a file name, what is guessed and with which words, and how a person sets it right."""

import io

import pytest
import torch

from engine.checkpoint import CheckpointError, Note, load_checkpoint
from engine.checkpoint.guess import hints
from tests.engine.checkpoint_files import norm_stack, published_state, torch_bytes

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
VGG11 = dict(widths=(2, 2, 2, 2, 2, 2, 2, 3), channels=3, inputs=3)


def opened(state=None, name="some.pth", **overrides):
    return load_checkpoint(io.BytesIO(torch_bytes(state or published_state())), name=name, **overrides)


def note(checkpoint, field):
    (found,) = [note for note in checkpoint.notes if note.field == field]
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar10vgg9_timestep25_lr0.3_epoch100_leak0.95_bestmodel.pth.tar", ("cifar10", 25, 0.95)),
        ("cifar100vgg11_timestep50_lr0.3_epoch100_leak0.99_bestmodel.pth.tar", ("cifar100", 50, 0.99)),
        ("CIFAR10_VGG9_Timestep5_LR0.1_Epoch9_Leak1.0_BestModel.pth.tar", ("cifar10", 5, 1.0)),
        ("cifar-100 vgg11 leak=.9.pt", ("cifar100", None, 0.9)),
        ("tiny_imagenet-vgg11-timesteps-30-leak-0.99.pth", ("tiny-imagenet", 30, 0.99)),
        ("Fashion-MNIST_vgg-small_leak1.pth", ("fashion-mnist", None, 1.0)),
        ("mnistvgg-small_timestep8.pth", ("mnist", 8, None)),
        ("digits.safetensors", ("digits", None, None)),
        ("cifar10-dvs_timestep20.pth", (None, 20, None)),
        ("kmnist_leak95.pth", (None, None, None)),
        ("bestmodel.pth.tar", (None, None, None)),
    ],
)
def test_file_names(name, expected):
    found = hints(name)
    assert (found.get("dataset"), found.get("steps"), found.get("leak")) == expected


@pytest.mark.parametrize("folder", ["runs/a/", "C:\\runs\\", ""])
def test_a_path_in_front_of_the_name_does_not_count(folder):
    checkpoint = opened(name=f"{folder}digits_leak0.5.pth")
    assert checkpoint.name == "digits_leak0.5.pth" and checkpoint.config.leak == 0.5


@pytest.mark.parametrize(
    ("shape", "dataset", "side", "leak", "mean"),
    [
        (dict(), "digits", 16, 0.95, (0.3053,)),
        (dict(inputs=3 * 7 * 7), "mnist", 28, 0.95, (0.1307,)),
        (dict(channels=3, inputs=3 * 8 * 8), "cifar10", 32, 0.95, CIFAR_MEAN),
        # the published script normalises CIFAR-100 with CIFAR-10's values
        (VGG11 | dict(classes=100), "cifar100", 32, 0.99, CIFAR_MEAN),
        (VGG11 | dict(classes=200), "tiny-imagenet", 64, 0.99, (0.485, 0.456, 0.406)),
        (dict(channels=2), "digits", 16, 0.95, (0.3053, 0.3053)),
    ],
)
def test_the_likeliest_data_set_and_what_follows_from_it(shape, dataset, side, leak, mean):
    checkpoint = opened(published_state(**shape))
    assert checkpoint.dataset == dataset and note(checkpoint, "dataset").guessed
    assert checkpoint.config.in_shape[1:] == (side, side)
    assert checkpoint.config.leak == leak and note(checkpoint, "leak").guessed
    assert checkpoint.mean == pytest.approx(mean) and len(checkpoint.std) == len(mean)


def test_everything_that_can_be_set_has_one_note_that_gives_its_value():
    checkpoint = opened(name="digits_leak0.5.pth")
    config = checkpoint.config
    assert {note.field: note.value for note in checkpoint.notes} == {
        "dataset": "digits",
        "image_size": 16,
        "leak": config.leak,
        "threshold": config.threshold,
        "encoding": config.encoding,
        "mean": checkpoint.mean,
        "std": checkpoint.std,
    }
    assert note(checkpoint, "leak") == Note("leak", 0.5, "from the file name", False)
    assert note(checkpoint, "threshold") == Note("threshold", 1.0, "the published code's value; not in the file", True)


def test_the_papers_leak_is_named_as_such():
    assert note(opened(published_state(channels=3)), "leak") == Note(
        "leak", 0.95, "the paper's value for CIFAR-10; not in the file", True
    )


def test_tensors_win_over_the_file_name():
    checkpoint = opened(name="cifar100vgg9_timestep25_leak0.9.pth")
    assert checkpoint.config.steps == 3 and "file name says 25" in note(checkpoint, "steps").reason
    assert checkpoint.dataset == "digits" and "file name says cifar100" in note(checkpoint, "dataset").reason


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("leak", 0.5),
        ("threshold", 2.0),
        ("encoding", "direct"),
        ("dataset", "mnist"),
        ("mean", (0.5,)),
        ("std", (0.2,)),
    ],
)
def test_overrides(name, value):
    for checkpoint in (opened(**{name: value}), opened().replace(**{name: value})):
        holder = checkpoint.config if hasattr(checkpoint.config, name) else checkpoint
        assert getattr(holder, name) == value
        assert note(checkpoint, name) == Note(name, value, "set by you", False)
        assert checkpoint.model.config == checkpoint.config


def test_what_follows_from_the_data_set_follows_an_edit_of_it():
    before = opened(published_state(**VGG11, classes=100))
    after = before.replace(dataset="tiny-imagenet")
    assert after.config.in_shape == (3, 64, 64) and after.mean == (0.485, 0.456, 0.406)
    assert after.replace(mean=CIFAR_MEAN, leak=0.9).replace(leak=None).config.leak == 0.99
    assert after.replace(mean=CIFAR_MEAN).replace(dataset=None).mean == CIFAR_MEAN


def test_a_data_set_unknown_here_keeps_the_likeliest_values():
    checkpoint = opened(dataset="my-pictures")
    assert checkpoint.dataset == "my-pictures" and checkpoint.mean == (0.3053,)


def test_image_size_of_vgg11_is_free_and_that_of_vgg_small_is_not():
    checkpoint = opened(published_state(**VGG11), image_size=48)
    assert checkpoint.config.in_shape == (3, 48, 48) and checkpoint.model(torch.zeros(1, 3, 48, 48)).shape == (1, 10)
    assert opened(image_size=19).config.in_shape == (1, 19, 19)  # pools drop the odd rows
    with pytest.raises(CheckpointError, match="image_size 32 does not fit: fc1.weight takes 48 inputs"):
        opened(image_size=32)


def test_replace_shares_the_weights_and_leaves_the_original_alone():
    before = opened()
    table = before.gamma
    after = before.replace(leak=0.0, threshold=0.5)
    assert after.model is not before.model and after.model.conv1.weight is before.model.conv1.weight
    assert (before.config.leak, before.model.config.leak, after.model.config.leak) == (0.95, 0.95, 0.0)
    assert after.gamma is table and after.digest == before.digest
    images = torch.rand(4, 1, 16, 16)
    with torch.no_grad():
        old, new = before.model(images, seed=1), after.model(images, seed=1)
        again = opened(leak=0.0, threshold=0.5).model(images, seed=1)
    assert torch.equal(new, again) and not torch.equal(new, old)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (dict(lambda_=0.9), "'lambda_' cannot be set"),
        (dict(leak="0.9"), "leak must be a number"),
        (dict(leak=float("nan")), "leak must be a number"),
        (dict(leak=True), "leak must be a number"),
        (dict(leak=1.5), "leak λ must lie between 0 and 1"),
        (dict(threshold=0.0), "threshold θ must be above 0"),
        (dict(encoding="temporal"), "encoding 'temporal' is not one of"),
        (dict(dataset=7), "dataset must be a name"),
        (dict(image_size=8.5), "image_size must be a whole number"),
        (dict(image_size=-1), "in_shape must be"),
        (dict(image_size=3), "too small"),
        (dict(mean=(0.5, 0.5, 0.5)), "mean needs 1 values"),
        (dict(mean=0.5), "mean must be a number for each channel"),
        (dict(std=(0.0,)), "std must be above 0"),
        (dict(std=(float("inf"),)), "std must be a number for each channel"),
    ],
)
def test_values_that_make_no_sense(override, words):
    checkpoint = opened()
    for attempt in (lambda: opened(name="a.pth", **override), lambda: checkpoint.replace(**override)):
        with pytest.raises(CheckpointError) as caught:
            attempt()
        assert words in str(caught.value) and str(caught.value).startswith(("a.pth: ", "some.pth: "))


def test_gamma_only_keeps_what_is_set_and_says_that_it_acts_on_nothing():
    state = norm_stack("bn", 3, 4, torch.Generator().manual_seed(0))
    checkpoint = opened(state, name="cifar10_snn.pth", leak=0.9)
    assert checkpoint.dataset == "cifar10" and checkpoint.mean == CIFAR_MEAN
    assert "no network it could act on" in note(checkpoint, "leak").reason
    other = checkpoint.replace(leak=None, dataset="mnist")
    assert other.dataset == "mnist" and {note.field for note in other.notes} == {"dataset"}
    assert opened(state).dataset is None and opened(state).mean == ()
