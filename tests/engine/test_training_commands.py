"""`python -m engine train | convert | compare` for every kind of network: what they measure, and what they refuse."""

import json
import shlex
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine import bundled, load_checkpoint, save_checkpoint
from engine.__main__ import main, parser
from engine.analysis import early_exit
from engine.analysis.evaluation import evaluate
from engine.datasets import entries, get
from engine.presets import PRESETS
from engine.recipe import Recipe
from engine.run_library import read_run
from engine.training_arguments import fill_from_preset, wanted

from .test_aedat import aedat_bytes
from .test_commands import write_model


def whole_evaluation(file):
    """Configuration and all test samples in one go, without the command's batches."""
    checkpoint, (pixels, labels) = load_checkpoint(file), get("digits").load("test")
    moments = checkpoint.mean, checkpoint.std
    return checkpoint.config, evaluate(checkpoint.model, pixels, labels, torch.arange(len(labels)), *moments, seed=0)


PAIRS = {
    "BNTT": [],
    "BatchNorm": ["--norm", "bn"],
    "tdBN": ["--norm", "tdbn"],
    "no norm": ["--norm", "none", "--lr", "0.1"],
    "direct": ["--encoding", "direct"],
    "ANN": ["--kind", "ann"],
    "rows": ["--arch", "mlp", "--layout", "F8", "--encoding", "rows"],
    "pixels": ["--arch", "mlp", "--layout", "F8", "--encoding", "pixels", "--image-size", "5"],
    "another side": ["--image-size", "20"],
}


@pytest.mark.parametrize("options", PAIRS.values(), ids=PAIRS)
def test_train_evaluate_and_attack_every_kind(options, answer, tmp_path):
    """Each ends in JSON whose numbers agree: what train measured is what evaluate measures again."""
    out = str(tmp_path / "run")
    small = [] if "--layout" in options else ["--layout", "C4 P F8"]
    steps = [] if {"rows", "pixels", "ann"} & set(options) else ["--steps", "3"]
    trained = answer(
        "train", "--dataset", "digits", "--epochs", "1", "--batch", "128", "--out", out, *small, *steps, *options
    )
    file = f"{out}/model.safetensors"
    again = answer("evaluate", file)
    assert again["accuracy"] == trained["test_accuracy"] and again["samples"] == 399
    config = load_checkpoint(file).config
    assert (
        len(again["steps"])
        == config.steps
        == {"rows": 16, "pixels": 25}.get(config.encoding, 1 if config.kind == "ann" else 3)
    )
    attacked = answer("robustness", file, "--attack", "fgsm", "--eps", "0", "8/255", "--samples", "40")
    assert [row["samples"] for row in attacked["results"]] == [40, 40]
    assert answer("inspect", file)["config"]["kind"] == config.kind


def test_an_ann_is_converted(answer, tmp_path):
    ann, out = str(tmp_path / "ann"), str(tmp_path / "converted.safetensors")
    answer("train", "--kind", "ann", "--layout", "C8 P F32", "--epochs", "4", "--batch", "32", "--out", ann)
    found = answer("convert", f"{ann}/model.safetensors", "--out", out, "--steps", "60")
    assert load_checkpoint(out).config.kind == "converted" and found["steps"] == 60
    assert found["test_accuracy"] == answer("evaluate", out)["accuracy"]
    assert found["test_accuracy"] > answer("evaluate", f"{ann}/model.safetensors")["accuracy"] - 0.1


def test_compare_prints_a_table(capsys, tmp_path):
    options = ["--layout", "C4 P F8", "--steps", "3", "--epochs", "1", "--batch", "128", "--converted-steps", "10"]
    assert main(["compare", *options, "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0] == "| accuracy leaving at | t = 1 | t = 2 | t = 3 | t = 5 | t = 10 | one pass |"
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        f"| {name}" for name in ("BNTT", "tdBN", "one BatchNorm", "no normalisation", "converted ANN", "ANN")
    ]
    measured = early_exit.exit_table(*whole_evaluation(str(tmp_path / "bntt" / "model.safetensors")))["accuracy"]
    assert lines[2].split(" | ")[1:4] == [f"{value:.1%}" for value in measured]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["train", "--kind", "ann", "--norm", "bntt"], "a network of kind ann has norm bn or none, not bntt"),
        (
            ["train", "--kind", "ann", "--steps", "5"],
            "an ANN takes the image itself, or all events in one frame, in one step",
        ),
        (["train", "--encoding", "events"], "Digits holds images: it needs another encoding than events"),
        (["train", "--encoding", "rows", "--steps", "9", "--arch", "mlp"], "16×16 have 16 rows, so steps must be 16"),
        (["train", "--encoding", "rows"], "are too small for vgg-small"),
        (["train", "--norm", "folded"], "a network of kind snn has norm bntt or bn or tdbn or none"),
        (["train", "--image-size", "0"], "in_shape must be"),
        (["train", "--dataset", "mnist"], "holds no MNIST; put"),
        (["train", "--dataset", "cifar10-dvs", "--encoding", "poisson"], "CIFAR10-DVS holds events"),
        (["train", "--dataset", "/nowhere/at/all"], "data set '/nowhere/at/all' is not known"),
        (["compare", "--dataset", "cifar10-dvs"], "CIFAR10-DVS"),
    ],
)
def test_what_cannot_be_trained_is_told(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("BNTT_DATA", str(tmp_path / "data"))
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in said and said.startswith(f"python -m engine {arguments[0]}: ")


def test_only_an_ann_is_converted(capsys, tmp_path):
    file = write_model(tmp_path / "tiny.safetensors")
    assert main(["convert", file, "--out", str(tmp_path / "x.safetensors")]) == 2
    assert "only a network of kind ann can be converted" in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("encoding", ["rows", "direct"])
def test_sequences_and_direct_coding_are_compared_too(encoding, answer, tmp_path):
    """The ANN sees the whole image, and so does its conversion."""
    options = ["--arch", "mlp", "--layout", "F8", "--encoding", encoding, "--epochs", "1", "--converted-steps", "4"]
    steps = [] if encoding == "rows" else ["--steps", "2"]
    rows = answer("compare", *options, *steps, "--batch", "256", "--out", str(tmp_path / "all"))["results"]
    last = {row["name"]: row["step"] for row in rows}
    own = 16 if encoding == "rows" else 2
    assert last == {"bntt": own, "tdbn": own, "bn": own, "none": own, "converted": 4, "ann": 1}


def test_events_are_compared_too(answer, tmp_path, monkeypatch):
    monkeypatch.setenv("BNTT_DATA", str(tmp_path))
    draw = np.random.default_rng(0)
    for label, name in enumerate(get("cifar10-dvs").classes):
        (tmp_path / "CIFAR10-DVS" / name).mkdir(parents=True)
        for number in range(4):
            events = [(t * 100, 12 * label + t % 5, *draw.integers(0, 128, 1).tolist(), t % 2) for t in range(200)]
            (tmp_path / "CIFAR10-DVS" / name / f"cifar10_{name}_{number}.aedat").write_bytes(aedat_bytes(events))
    options = ["--layout", "C4 P F8", "--steps", "3", "--image-size", "16", "--epochs", "1", "--converted-steps", "5"]
    rows = answer("compare", "--dataset", "cifar10-dvs", *options, "--batch", "15", "--out", str(tmp_path / "all"))[
        "results"
    ]
    assert {row["name"]: row["step"] for row in rows} == {
        "bntt": 3,
        "tdbn": 3,
        "bn": 3,
        "none": 3,
        "converted": 5,
        "ann": 1,
    }
    for name in ("bntt", "ann", "converted"):
        file = str(tmp_path / "all" / name / "model.safetensors")
        clean = answer("evaluate", file)
        assert clean["samples"] == 10
        for attack in ("gaussian", "fgsm", "pgd"):
            options = ["--attack", attack, "--eps", "0", "2/255", "--attack-steps", "2"]
            results = answer("robustness", file, *options)["results"]
            assert results[0]["accuracy"] == clean["accuracy"] and results[1]["samples"] == 10


def test_a_data_set_named_by_a_file_is_never_a_path(answer, capsys, tmp_path):
    """A checkpoint that names a folder of this machine does not make the engine read it."""
    for name in ("a", "b"):
        (tmp_path / "secret" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("L", (8, 8)).save(tmp_path / "secret" / name / f"{number}.png")
    model = load_checkpoint(write_model(tmp_path / "tiny.safetensors", classes=2)).model
    save_checkpoint(
        tmp_path / "spy.safetensors", model, dataset=str(tmp_path / "secret")[-64:], mean=(0.5,), std=(0.5,)
    )
    assert main(["evaluate", str(tmp_path / "spy.safetensors")]) == 2
    assert "is not known here" in capsys.readouterr().err
    given = answer("evaluate", str(tmp_path / "spy.safetensors"), "--dataset", str(tmp_path / "secret"))
    assert given["samples"] == 2, "but a person may name one"


@pytest.mark.parametrize("arch", ["mlp", "cnn7"])
@pytest.mark.parametrize("dataset", ["mnist", "digits"])
def test_every_architecture_opens_with_every_data_set(arch, dataset, tmp_path):
    layout = "F4" if arch == "mlp" else "C2 P F4"
    model = load_checkpoint(write_model(tmp_path / "a.safetensors", arch=arch, layout=layout)).model
    save_checkpoint(tmp_path / "b.safetensors", model, dataset=dataset)
    assert load_checkpoint(tmp_path / "b.safetensors").config.leak == 0.95


@pytest.mark.parametrize("command", ["train", "compare"])
def test_an_empty_folder_name_is_told(command, capsys):
    assert main([command, "--out", ""]) == 2
    assert "--out must name a folder" in capsys.readouterr().err


def test_help_says_every_default(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for default in ("epochs", "100"), ("batch", "256"), ("lr", "0.3"), ("threshold", "1.0"), ("seed", "0"):
        assert f"(default: {default[1]})" in said.split(f"--{default[0]} {default[0].upper()}")[2], default


def test_defaults_that_help_names_are_those_of_the_recipe(capsys):
    """The numbers stand in the text, since torch is not imported to show it."""
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = " ".join(capsys.readouterr().out.split()).split("options:")[1]
    for field in fields(Recipe):
        if field.name in ("augment", "patience", "clip", "gamma_decay"):
            continue
        option = "--" + field.name.replace("_", "-") + " "
        named = said.split(option)[-1].split("(default: ")[1].split(")")[0]
        default = field.default if field.name == "milestones" else [field.default]
        assert named.split() == [str(value) for value in default], field.name


# -------------------------------------------------------------------------------------- resuming, threads, presets

SMALL = [
    "--layout",
    "C4 P F8",
    "--steps",
    "2",
    "--epochs",
    "2",
    "--batch",
    "200",
    "--lr",
    "0.05",
    "--optimizer",
    "adam",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of the command."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    options = ["--schedule", "cosine", "--milestones", "0.3", "0.6", "--validation", "0.1", "--threads", "1"]
    assert main(["train", *SMALL, *options, "--out", str(folder)]) == 0
    return folder


def test_what_was_said_is_kept_with_the_run(run):
    found = read_run(run)
    expected = dict(epochs=2, batch=200, lr=0.05, optimizer="adam", schedule="cosine", milestones=(0.3, 0.6))
    assert found.recipe == replace(Recipe(validation=0.1), **expected)
    assert json.loads((run / "config.json").read_text())["threads"] == 1
    assert found.state == "finished" and found.result["test_samples"] == 399
    assert found.result["test_accuracy"] == load_checkpoint(run / "model.safetensors").metadata["test_accuracy"]


def test_resuming_needs_the_folder_alone(run, answer, tmp_path):
    """The second epoch again, with nothing repeated: the same network."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    for name in ("state.pt", "model.safetensors", "last.safetensors", "result.json"):
        (folder / name).unlink()
    trained = answer("train", "--resume", "--out", str(folder))
    assert trained["test_accuracy"] == read_run(run).result["test_accuracy"]
    one, other = (load_checkpoint(place / "last.safetensors").model.state_dict() for place in (run, folder))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("options", [SMALL, ["--epochs", "2"], ["--threads", "1"], ["--dataset", "digits"]], ids=str)
def test_settings_that_agree_may_be_repeated(options, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    assert main(["train", "--resume", *options, "--out", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize(
    "options",
    [
        ["--epochs", "3"],
        ["--steps", "3"],
        ["--leak", "0.5"],
        ["--leak", "5"],
        ["--threads", "2"],
        ["--kind", "ann"],
        ["--no-augment"],
        ["--image-size", "20"],
        ["--milestones", "0.3"],
        ["--dataset", "mnist"],
        ["--preset", "digits"],
    ],
    ids=str,
)
def test_settings_that_do_not_agree_are_refused(options, run, capsys):
    assert main(["train", "--resume", *options, "--out", str(run)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "holds a run with other settings than these" in said


def test_a_path_in_a_run_is_read_only_when_it_is_repeated(run, capsys, tmp_path):
    """A folder of images that a run names is data only when a person says so."""
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(6):
            Image.new("L", (8, 8), 40 * number).save(tmp_path / "images" / name / f"{number}.png")
    data, out = str(tmp_path / "images"), str(tmp_path / "run")
    options = ["--layout", "C4 P F8", "--steps", "2", "--epochs", "1", "--batch", "4"]
    assert main(["train", "--dataset", data, *options, "--out", out]) == 0
    capsys.readouterr()
    assert main(["train", "--resume", "--out", out]) == 2
    assert "repeat it with --dataset" in capsys.readouterr().err
    assert main(["train", "--resume", "--dataset", data, "--out", out]) == 0


@pytest.mark.parametrize("command", ["train", "compare"])
def test_tf32_without_a_gpu_is_told(command, capsys, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a CUDA device")
    assert main([command, "--precision", "tf32", "--out", str(tmp_path / "run")]) == 2
    assert "--precision tf32 needs a CUDA device" in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("threads", ["0", "-1", "5000"])
def test_impossible_threads_are_told(threads, capsys, tmp_path):
    assert main(["train", "--threads", threads, "--out", str(tmp_path / "run")]) == 2
    assert "--threads must be from 1 to 1024" in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_what_its_name_trains(name):
    """Through the command line as through the table; and it fits its data set."""
    preset = PRESETS[name]
    arguments = parser().parse_args(["train", "--preset", name])
    fill_from_preset(arguments)
    data = entries()[preset.recipe.dataset]
    assert wanted(arguments, data) == (preset.config, preset.recipe) and preset.name == name
    assert (preset.config.in_shape, preset.config.classes) == (data.shape, len(data.classes))


def test_the_preset_of_the_digits_is_the_bundled_networks_command():
    """As engine/bundled/digits.md records it."""
    text = (Path(bundled.__file__).parent / "digits.md").read_text()
    command = next(line.strip() for line in text.splitlines() if line.strip().startswith("python -m engine train"))
    arguments = parser().parse_args(shlex.split(command)[3:])
    assert wanted(arguments, get("digits")) == (PRESETS["digits"].config, PRESETS["digits"].recipe)
    recorded = load_checkpoint(bundled.path("digits"))
    assert recorded.metadata["command"] == command and recorded.config == PRESETS["digits"].config


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_bundled_network_is_trained_again_from_its_recorded_command(answer, tmp_path):
    """The same bits on a CPU of the same kind; on another one rounding differs, and with it some digits."""
    recorded = load_checkpoint(bundled.path("digits")).metadata
    arguments = shlex.split(recorded["command"])[3:]
    arguments[arguments.index("--out") + 1] = str(tmp_path / "run")
    assert abs(answer(*arguments)["test_correct"] - recorded["test_correct"]) <= 3


def test_explicit_settings_win_over_the_preset():
    arguments = parser().parse_args(["train", "--preset", "digits", "--epochs", "3", "--leak", "0.5", "--no-augment"])
    fill_from_preset(arguments)
    config, recipe = wanted(arguments, get("digits"))
    assert config == replace(PRESETS["digits"].config, leak=0.5)
    assert recipe == replace(PRESETS["digits"].recipe, epochs=3, augment=False)


def test_presets_are_listed_and_unknown_ones_told(capsys):
    assert main(["train", "--preset", "list"]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == list(PRESETS)
    assert main(["train", "--preset", "cifar11", "--out", "x"]) == 2
    assert "preset 'cifar11' is not known; there is: digits, cifar10-vgg9" in capsys.readouterr().err


def test_a_dry_run_estimates_without_the_data_and_writes_nothing(capsys, tmp_path, monkeypatch, answer):
    monkeypatch.setenv("BNTT_DATA", str(tmp_path))
    options = ["--dataset", "cifar10", "--layout", "C4 P F8", "--steps", "2", "--epochs", "3", "--dry-run"]
    found = answer("train", *options)
    assert found["seconds"] == pytest.approx(3 * found["seconds_epoch"]) and found["memory"] > 0
    assert main(["train", *options]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("an epoch", "in all", "GiB of memory"))
    assert list(tmp_path.iterdir()) == []


def test_a_log_shows_each_epoch(tmp_path, capsys):
    assert main(["train", "--layout", "C4 P F8", "--steps", "2", "--epochs", "2", "--out", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 1 of 2", "epoch 2 of 2"]


def test_what_is_missing_comes_with_the_command_that_fetches_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BNTT_DATA", str(tmp_path))
    assert main(["train", "--dataset", "cifar10", "--out", str(tmp_path / "run")]) == 2
    assert "`python -m engine data get cifar10` fetches it" in capsys.readouterr().err


def test_a_folder_in_the_data_folder_that_is_no_data_set_is_told_why(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BNTT_DATA", str(tmp_path))
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "pets" / "cat" / "1.png")
    assert main(["train", "--dataset", "pets", "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "pets" in said and "is not known" not in said and len(said.splitlines()) == 1
