"""`python -m engine`: its numbers are the engine's own, and every mistake ends in one line and status 2."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import ModelConfig, build_model, load_checkpoint, save_checkpoint
from engine.__main__ import main
from engine.analysis import early_exit, gamma
from engine.analysis.evaluation import evaluate, join
from engine.analysis.robustness import attack_rows, sweep_parts, sweep_table
from engine.attacks import Attack, Attacker
from engine.datasets import get
from engine.snn import Surrogate

from .checkpoint_files import norm_stack

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = 20


def write_model(path, **changes):
    """A random, tiny network for the digits, saved at `path`."""
    torch.manual_seed(3)
    values = dict(arch="vgg-small", steps=4, in_shape=(1, 16, 16), layout="C4 P F8") | changes
    data = get("digits")
    save_checkpoint(path, build_model(ModelConfig(**values)), dataset="digits", mean=data.mean, std=data.std)
    return str(path)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "tiny.safetensors")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folder of files that cannot be evaluated."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "text.pth").write_text("no checkpoint\n")
    write_model(folder / "hundred.safetensors", classes=100)
    torch.save(norm_stack("norm", 3, 4, torch.Generator().manual_seed(0)), folder / "gamma.pth")
    return folder


def own_evaluation(file, seed=0):
    """The first samples in one go, without the command's batches."""
    checkpoint, test = load_checkpoint(file), get("digits").load("test")
    pixels, labels = test.pixels[:SAMPLES], test.labels[:SAMPLES]
    return checkpoint, evaluate(
        checkpoint.model, pixels, labels, torch.arange(SAMPLES), checkpoint.mean, checkpoint.std, seed=seed
    )


def assert_records_equal(records, table):
    assert list(records[0]) == list(table.columns) and len(records) == len(table)
    for record, row in zip(records, table.to_dict("records")):
        assert record == pytest.approx(row)


# -------------------------------------------------------------------------------------------------- inspect


def test_inspect_equals_the_checkpoint(file, answer):
    checkpoint = load_checkpoint(file)
    told = answer("inspect", file)
    assert told["source"] == "engine" and told["dataset"] == "digits"
    assert ModelConfig.from_dict(told["config"]) == checkpoint.config
    assert [row["layer"] for row in told["layers"]] == ["conv1", "fc1", "fc2"]
    assert [row["weights"] for row in told["layers"]] == [4 * 9, 8 * 4 * 8 * 8, 10 * 8], "counted by hand"
    assert told["gamma_layers"] == {"conv1": [4, 4], "fc1": [4, 8]}
    for layer, stack in checkpoint.stacks.items():
        np.testing.assert_allclose(told["mean_gamma"][layer], stack.gamma.astype(np.float64).mean(1))
    assert told["exit_step_at_gamma_0.1"] == gamma.exit_rule(checkpoint)


def test_inspect_of_gamma_alone(files, answer):
    told = answer("inspect", str(files / "gamma.pth"))
    assert told["source"] == "gamma-only" and told["config"] is None and told["missing"]
    assert list(told["gamma_layers"].values()) == [[3, 4]]


def test_inspect_applies_what_is_given(file, answer):
    config = answer("inspect", file, "--leak", "0.5", "--threshold", "2")["config"]
    assert (config["leak"], config["threshold"]) == (0.5, 2.0)


# ------------------------------------------------------------------------------------------------- evaluate


def test_evaluate_equals_the_engine(file, answer):
    told = answer("evaluate", file, "--dataset", "digits", "--samples", str(SAMPLES), "--seed", "7")
    checkpoint, evaluation = own_evaluation(file, seed=7)
    assert (told["samples"], told["seed"], told["dataset"]) == (SAMPLES, 7, "digits")
    assert_records_equal(told["steps"], early_exit.exit_table(checkpoint.config, evaluation))
    assert told["accuracy"] == (evaluation.predictions[-1] == evaluation.labels).mean()
    macs = 16 * 16 * 4 * 9 + 4 * 8 * 8 * 8 + 8 * 10
    assert told["ann_energy_nj"] == pytest.approx(4.6e-3 * macs), "4.6 pJ a MAC, counted by hand"


def test_same_seed_same_result_and_another_seed_other_spikes(file, answer):
    one, again, other = (
        answer("evaluate", file, "--samples", str(SAMPLES), "--seed", seed)["steps"] for seed in ("0", "0", "1")
    )
    assert one == again != other


def test_data_set_of_the_checkpoint_is_the_default(file, answer):
    given = answer("evaluate", file, "--dataset", "digits", "--samples", "5")
    assert answer("evaluate", file, "--samples", "5") == given


def test_other_precision_is_compared_with_float32(file, answer):
    exact = answer("evaluate", file, "--samples", str(SAMPLES))["steps"]
    rough = answer("evaluate", file, "--samples", str(SAMPLES), "--precision", "bfloat16")["steps"]
    assert [row["accuracy_float32"] for row in rough] == [row["accuracy"] for row in exact]


# ----------------------------------------------------------------------------------------------- robustness


@pytest.mark.parametrize(
    "arguments, attacks",
    [
        (["gaussian", "--eps", "0.1", "0.3"], [Attack("gaussian", 0.1), Attack("gaussian", 0.3)]),
        (["fgsm", "--eps", "8/255"], [Attack("fgsm", 8 / 255)]),
        (
            ["pgd", "--eps", "16/255", "--attack-steps", "2", "--step-size", "4/255"],
            [Attack("pgd", 16 / 255, 2, 4 / 255)],
        ),
    ],
    ids=["gaussian", "fgsm", "pgd"],
)
def test_robustness_equals_the_engine(arguments, attacks, file, answer):
    told = answer("robustness", file, "--samples", str(SAMPLES), "--seed", "2", "--attack", *arguments)
    checkpoint, (pixels, labels) = load_checkpoint(file), get("digits").load("test")
    shared = dict(model=checkpoint.model, mean=checkpoint.mean, std=checkpoint.std)
    shared |= dict(pixels=pixels, labels=labels, seed=2)
    parts = sweep_parts(checkpoint.config, attacks, SAMPLES)
    found = [(attack, join([attack_rows(*p, **shared) for p in parts if p[0] == attack])) for attack in attacks]
    table = sweep_table(found).rename(columns={"strength": "eps"}).drop(columns="spread")
    assert_records_equal(told["steps"], table)
    assert [row["eps"] for row in told["results"]] == [attack.strength for attack in attacks]
    assert told["results"] == [
        {key: value for key, value in row.items() if key != "step"} for row in told["steps"] if row["step"] == 4
    ]


def test_robustness_in_several_encodings(file, answer):
    """And with every choice of an attacker; against the engine."""
    how = ("--surrogate", "sigmoid", "--width", "2", "--adaptive", "--draws", "1", "--target", "2", "--encodings", "3")
    told = answer("robustness", file, "--samples", "20", "--attack", "bim", "--eps", "0.1", "--attack-steps", "2", *how)
    checkpoint, (pixels, labels) = load_checkpoint(file), get("digits").load("test")
    shared = dict(model=checkpoint.model, mean=checkpoint.mean, std=checkpoint.std, pixels=pixels, labels=labels)
    attack = Attack("bim", 0.1, 2, attacker=Attacker(Surrogate("sigmoid", 2.0, True), True, 1, 2))
    found = attack_rows(attack, 0, 20, **shared, seed=0, encodings=3)
    assert_records_equal(told["steps"], sweep_table([(attack, found)], 3).rename(columns={"strength": "eps"}))
    assert told["encodings"] == 3 and told["attacker"]["surrogate"] == {
        "shape": "sigmoid",
        "width": 2.0,
        "adaptive": True,
    }


def test_literal_gradient_changes_no_answer(file, answer):
    """The sweep of the published code: FGSM that never moves."""
    told, plain = (
        answer("robustness", file, "--samples", "20", "--attack", "fgsm", "--eps", eps, "--literal")
        for eps in ("0.3", "0")
    )
    assert told["results"][0]["correct"] == plain["results"][0]["correct"]


@pytest.mark.parametrize("attack", ["gaussian", "fgsm", "pgd"])
def test_robustness_at_zero_is_the_evaluation(attack, file, answer):
    disturbed = answer("robustness", file, "--attack", attack, "--eps", "0", "--samples", str(SAMPLES))["steps"]
    plain = answer("evaluate", file, "--samples", str(SAMPLES))["steps"]
    for key in ("step", "correct", "samples", "accuracy", "low", "high", "spikes"):
        assert [row[key] for row in disturbed] == pytest.approx([row[key] for row in plain])


# ---------------------------------------------------------------------------------------------------- train


def test_train_writes_a_run_and_measures_it(tmp_path, answer):
    out = str(tmp_path / "run")
    asked = ("--epochs", "1", "--steps", "2", "--layout", "C2 P F4", "--batch", "699")
    told = answer("train", "--out", out, *asked)
    again = answer("evaluate", f"{out}/model.safetensors")
    assert told["test_samples"] == again["samples"] == 399
    assert told["test_accuracy"] == again["accuracy"] == told["test_correct"] / 399
    assert answer("inspect", f"{out}/model.safetensors")["metadata"]["test_accuracy"] == told["test_accuracy"]
    assert answer("train", "--out", out, *asked, "--resume") == told, "a finished run stays as it is"


# -------------------------------------------------------------------------------------------------- mistakes


def complaint(arguments, capsys):
    """The one line on standard error of a command that ends with status 2."""
    try:
        status = main(arguments)
    except SystemExit as end:
        status = end.code
    told = capsys.readouterr()
    assert status == 2 and told.out == ""
    assert told.err.count("\n") == 1 and told.err.startswith("python -m engine")
    return told.err


@pytest.mark.parametrize("command", ["inspect", "evaluate"])
@pytest.mark.parametrize("name", ["missing.pth", "text.pth", "."])
def test_unreadable_file_is_named(command, name, files, capsys):
    said = complaint([command, str(files / name)], capsys)
    assert (Path(files).name if name == "." else name) in said


@pytest.mark.parametrize(
    "command, options",
    [("evaluate", []), ("robustness", ["--attack", "fgsm", "--eps", "0.1"])],
    ids=["evaluate", "robustness"],
)
@pytest.mark.parametrize(
    "name, named", [("gamma.pth", "no network"), ("hundred.safetensors", "100 classes")], ids=["gamma", "hundred"]
)
def test_network_that_cannot_be_measured(command, options, name, named, files, capsys):
    said = complaint([command, str(files / name), "--dataset", "digits", *options], capsys)
    assert name in said and named in said


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["inspect", "FILE", "--leak", "1.5"], "1.5"),
        (["inspect", "FILE", "--threshold", "0"], "0"),
        (["inspect", "FILE", "--image-size", "40"], "40"),
        (["evaluate", "FILE", "--dataset", "mnisst"], "'mnisst'"),
        (["evaluate", "FILE", "--samples", "0"], "not 0"),
        (["evaluate", "FILE", "--samples", "-3"], "not -3"),
        (["evaluate", "FILE", "--samples", "few"], "'few'"),
        (["evaluate", "FILE", "--precision", "float8"], "'float8'"),
        (["robustness", "FILE", "--attack", "magic", "--eps", "0.1"], "'magic'"),
        (["robustness", "FILE", "--attack", "fgsm", "--eps", "8/0"], "'8/0'"),
        (["robustness", "FILE", "--attack", "fgsm", "--eps", "eight"], "'eight'"),
        (["robustness", "FILE", "--attack", "fgsm", "--eps", "-0.1"], "-0.1"),
        (["robustness", "FILE", "--attack", "fgsm", "--eps", "nan"], "nan"),
        (["robustness", "FILE", "--attack", "fgsm"], "--eps"),
        (["robustness", "FILE", "--attack", "pgd", "--eps", "0.1", "--attack-steps", "0"], "not 0"),
        (["robustness", "FILE", "--attack", "pgd", "--eps", "0.1", "--step-size", "0"], "step size 0"),
        (["train", "--out", "OUT", "--arch", "vgg10"], "'vgg10'"),
        (["train", "--out", "OUT", "--dataset", "mnisst"], "'mnisst'"),
        (["train", "--out", "OUT", "--epochs", "0"], "epochs"),
        (["train", "--out", "OUT", "--batch", "1"], "batch"),
        (["train", "--out", "OUT", "--steps", "0"], "steps"),
        (["train", "--out", "OUT", "--leak", "2"], "2.0"),
        (["train", "--out", "OUT", "--layout", "C4 X"], "'X'"),
        (["train", "--out", "OUT", "--resume"], "no run to resume"),
        (["train"], "--out"),
        (["evaluate", "FILE", "--colour"], "--colour"),
        (["paint"], "'paint'"),
        ([], "command"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistake_is_named_in_one_line(arguments, named, file, tmp_path, capsys):
    out = tmp_path / "run"
    places = {"FILE": file, "OUT": str(out)}
    assert named in complaint([places.get(word, word) for word in arguments], capsys)
    assert not out.exists()


@pytest.mark.parametrize("kind", ["run", "file"])
def test_train_overwrites_nothing(kind, tmp_path, capsys):
    out = tmp_path / "taken"
    if kind == "run":
        out.mkdir()
        (out / "config.json").write_text("{}")
    else:
        out.write_text("mine")
    said = complaint(["train", "--epochs", "1", "--steps", "1", "--layout", "F2", "--out", str(out)], capsys)
    assert "taken" in said
    assert (out / "config.json").read_text() == "{}" if kind == "run" else out.read_text() == "mine"


# ------------------------------------------------------------------------------------------- as a real command


@pytest.mark.parametrize("command", ["", "inspect", "train", "evaluate", "robustness"])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([*filter(None, [command]), "--help"])
    assert end.value.code == 0 and "--help" in capsys.readouterr().out


def shell(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "engine", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_as_a_command_it_prints_json_alone_on_standard_output(file, answer):
    ended = shell("evaluate", file, "--samples", "5", "--json")
    assert ended.returncode == 0 and ended.stderr == ""
    assert json.loads(ended.stdout) == answer("evaluate", file, "--samples", "5")


def test_as_a_command_a_missing_file_is_one_line_and_status_2():
    ended = shell("evaluate", "nowhere.pth")
    assert ended.returncode == 2 and ended.stdout == ""
    assert "nowhere.pth" in ended.stderr and ended.stderr.count("\n") == 1
