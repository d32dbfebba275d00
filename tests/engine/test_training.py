"""Training: schedule, augmentation and weight decay by hand; runs that stop, go on, and explode."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from engine import load_checkpoint, training
from engine import runs as runs_module
from engine.analysis.evaluation import evaluate
from engine.datasets import fit, get
from engine.snn import ModelConfig, build_model
from engine.training import Recipe, TrainingError, augmented, learning_rate, train

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ModelConfig(arch="vgg-small", steps=3, in_shape=(1, 8, 8), layout="C4 P F8")
RECIPE = Recipe(epochs=2, batch=200, lr=0.1, gamma_decay=1e-2)


def weights(folder):
    """Every tensor of a run's network."""
    return load_checkpoint(folder / "model.safetensors").model.state_dict()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ------------------------------------------------------------------------------------------------- the recipe


@pytest.mark.parametrize(
    "epoch, expected",
    [(1, 0.3), (50, 0.3), (51, 0.03), (70, 0.03), (71, 0.003), (90, 0.003), (91, 0.0003), (100, 0.0003)],
)
def test_learning_rate_falls_at_the_milestones_of_the_paper(epoch, expected):
    """A tenth each after 50 %, 70 % and 90 % of the epochs."""
    assert learning_rate(Recipe(epochs=100, lr=0.3), epoch) == pytest.approx(expected)


def test_learning_rate_of_the_first_epoch_is_whole():
    assert learning_rate(Recipe(epochs=1, lr=0.3), 1) == 0.3


def test_learning_rate_of_own_milestones():
    recipe = Recipe(epochs=4, lr=1.0, milestones=(0.25,))
    assert [learning_rate(recipe, epoch) for epoch in (1, 2, 3, 4)] == pytest.approx([1, 0.1, 0.1, 0.1])


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 10, 100])
@pytest.mark.parametrize("schedule", ["steps", "cosine", "constant"])
def test_schedules_are_those_of_torch(schedule, epochs):
    """Epoch by epoch against torch.optim.lr_scheduler; no milestone falls before the second epoch."""
    recipe = Recipe(epochs=epochs, lr=0.3, schedule=schedule)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    milestones = [max(1, round(share * epochs)) for share in recipe.milestones]
    peer = {
        "steps": lambda: torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones),
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs),
        "constant": lambda: torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
    }[schedule]()
    for epoch in range(1, epochs + 1):
        assert learning_rate(recipe, epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12, abs=1e-15)
        optimizer.step()
        peer.step()


@pytest.mark.parametrize(
    "change, said",
    [
        ({"optimizer": "lion"}, "optimizer must be one of sgd, adam, adamw"),
        ({"schedule": "linear"}, "schedule must be one of steps, cosine, constant"),
        ({"epochs": 0}, "epochs"),
        ({"batch": 1}, "batch"),
        ({"lr": 0.0}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"momentum": 1.0}, "momentum"),
        ({"weight_decay": -1.0}, "weight decay"),
        ({"gamma_decay": -1.0}, "weight decay"),
        ({"milestones": (1.5,)}, "milestones"),
        ({"precision": "float8"}, "precision"),
        ({"seed": 2**64}, "seed"),
    ],
)
def test_impossible_recipes_say_why(change, said):
    with pytest.raises(ValueError, match=said):
        Recipe(**change)


# ---------------------------------------------------------------------------------------------- augmentation


@pytest.mark.parametrize("pad, flip", [(0, False), (1, False), (4, True)])
def test_augmented_equals_a_plain_loop(pad, flip):
    """The same draws, applied by slicing one padded image after the other in numpy."""
    pixels = torch.randint(0, 256, (40, 3, 6, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = augmented(pixels, pad, flip, torch.Generator().manual_seed(5))

    draws = torch.Generator().manual_seed(5)
    offsets = torch.randint(2 * pad + 1, (2, 40, 1), generator=draws)[:, :, 0].numpy()
    mirrored = (torch.rand(40, 1, generator=draws) < 0.5)[:, 0].numpy() if flip else np.zeros(40, bool)
    assert found.dtype == torch.uint8 and found.shape == pixels.shape
    for image, top, left, mirror, result in zip(pixels.numpy(), *offsets, mirrored, found.numpy()):
        padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
        expected = padded[:, top : top + 6, left : left + 8]
        np.testing.assert_array_equal(result, expected[:, :, ::-1] if mirror else expected)
    if flip:
        assert 0 < mirrored.sum() < 40
    if pad:
        assert set(offsets.ravel()) == set(range(2 * pad + 1)), "every shift occurs"


# -------------------------------------------------------------------------------------------------- one step


def test_one_step_equals_sgd_by_hand():
    """w ← w − lr·(∂loss/∂w + decay·w), with gamma_decay for γ alone; nothing is decayed twice."""
    recipe = Recipe(epochs=1, batch=32, lr=0.1, weight_decay=0.02, gamma_decay=0.5, augment=False)
    data = get("digits")
    pixels = F.avg_pool2d(data.load("train").pixels[:32].float(), 2).to(torch.uint8)
    labels = data.load("train").labels[:32]
    model, reference = build_model(CONFIG), build_model(CONFIG)
    reference.load_state_dict(model.state_dict())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer, rows = training.build_optimizer(model, recipe), torch.arange(32)
    training._epoch(
        model, model.forward_steps, optimizer, recipe, data, pixels, labels, rows, 1, lambda *progress: None
    )

    order = torch.randperm(32, generator=torch.Generator().manual_seed(1))
    images = (pixels[order] / 255 - data.mean[0]) / data.std[0]
    loss = F.cross_entropy(reference.train()(images, seed=1, samples=order), labels[order])
    loss.backward()
    seen = {True: 0, False: 0}
    for name, parameter in reference.named_parameters():
        gamma = ".weight" in name and name.startswith("bntt")
        expected = before[name] - 0.1 * (parameter.grad + (0.5 if gamma else 0.02) * before[name])
        torch.testing.assert_close(model.get_parameter(name).detach(), expected)
        seen[gamma] += 1
    assert seen == {True: 2 * CONFIG.steps, False: 3}, "γ of every timestep; two layers and the read-out"


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_steps_of_adam_equal_the_equations(kind):
    """Two steps in float64 (Kingma & Ba 2015, algorithm 1; Loshchilov & Hutter 2019, algorithm 2): β₁ is the momentum,
    the decay of γ its own, part of Adam's gradient and apart from AdamW's."""
    recipe = Recipe(optimizer=kind, lr=0.01, momentum=0.8, weight_decay=0.1, gamma_decay=0.4)
    model = build_model(CONFIG)
    optimizer = training.build_optimizer(model, recipe)
    expected = {name: p.detach().double() for name, p in model.named_parameters()}
    first, second = ({name: torch.zeros_like(value) for name, value in expected.items()} for _ in range(2))
    for step in (1, 2):
        for name, parameter in model.named_parameters():
            parameter.grad = torch.randn_like(parameter)
            decay = 0.4 if name.startswith("bntt") else 0.1
            gradient = parameter.grad.double() + (decay * expected[name] if kind == "adam" else 0)
            first[name] = 0.8 * first[name] + 0.2 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient.square()
            moved = first[name] / (1 - 0.8**step) / ((second[name] / (1 - 0.999**step)).sqrt() + 1e-8)
            expected[name] = expected[name] * (1 - 0.01 * decay * (kind == "adamw")) - 0.01 * moved
        optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach().double(), expected[name], rtol=1e-5, atol=1e-6)


def test_gamma_decay_defaults_to_weight_decay():
    groups = training.build_optimizer(build_model(CONFIG), Recipe(weight_decay=0.03)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.03, 0.03]


def test_gamma_decay_shrinks_gamma_of_a_run(tmp_path):
    """The mean of all γ after the same two epochs, with and without decay of its own."""
    means = []
    for decay in (0.0, 0.1):
        model = train(CONFIG, replace(RECIPE, gamma_decay=decay), tmp_path / str(decay))
        means.append(torch.cat([p for n, p in model.named_parameters() if n.startswith("bntt")]).mean().item())
    assert means[1] < 0.95 * means[0]


# ----------------------------------------------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two epochs that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(CONFIG, RECIPE, folder, command="the command")
    return folder


def test_a_run_is_a_folder(finished):
    files = {"config.json", "metrics.jsonl", "model.safetensors", "state.pt", ".lock", "gamma", "tensorboard"}
    assert {path.name for path in finished.iterdir()} == files
    assert {path.name for path in (finished / "gamma").iterdir()} == {"0001.safetensors", "0002.safetensors"}
    setup = json.loads((finished / "config.json").read_text())
    assert ModelConfig.from_dict(setup["model"]) == CONFIG and Recipe(**setup["recipe"]) == RECIPE
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[1]["loss"] < lines[0]["loss"]
    checkpoint = load_checkpoint(finished / "model.safetensors")
    assert (checkpoint.dataset, checkpoint.mean, checkpoint.std) == ("digits", get("digits").mean, get("digits").std)
    assert checkpoint.metadata["command"] == "the command" and checkpoint.metadata["epoch"] == 2
    for layer, stack in checkpoint.stacks.items():
        np.testing.assert_allclose(lines[-1]["gamma"][layer], stack.gamma.mean(1), atol=1e-5)


def test_only_training_images_are_seen(tmp_path, monkeypatch):
    """A data set whose test split cannot be read trains all the same."""
    data = get("digits")

    def read(_place, split, _steps, _side):
        assert split == "train"
        return data.load("train")

    monkeypatch.setattr(training, "get", lambda name, paths: replace(data, read=read))
    train(CONFIG, replace(RECIPE, epochs=1), tmp_path / "run")


def test_metrics_of_an_epoch_equal_a_loop_over_its_batches(tmp_path):
    """One epoch of one batch, so that what the network was is known: accuracy at every step, spikes by layer."""
    recipe = Recipe(epochs=1, batch=1398, augment=False, seed=3)
    seen = []
    train(CONFIG, recipe, tmp_path / "run", on_epoch=seen.append)
    torch.manual_seed(3)
    model, data = build_model(CONFIG).train(), get("digits")
    pixels, labels = data.load("train")
    images = (fit(pixels, CONFIG.in_shape) / 255 - data.mean[0]) / data.std[0]
    spikes = {}
    with torch.no_grad():
        scores = model.forward_steps(
            images,
            seed=3 * 1_000_003 + 1,
            samples=torch.arange(1398),
            observe=lambda layer, fired, _: spikes.update({layer: fired.mean().item()}),
        )
    right = [(step.argmax(1) == labels).double().mean().item() for step in scores]
    assert seen[0]["train_accuracy_steps"] == pytest.approx(right, abs=3 / 1398)  # the order of summation differs
    assert seen[0]["train_accuracy"] == seen[0]["train_accuracy_steps"][-1]
    assert seen[0]["firing_rate"] == pytest.approx({"conv1": spikes[0], "fc1": spikes[1]}, rel=1e-3)


def test_same_seed_same_weights_and_another_seed_others(finished, tmp_path):
    train(CONFIG, RECIPE, tmp_path / "again")
    train(CONFIG, replace(RECIPE, seed=1), tmp_path / "other")
    assert same(weights(finished), weights(tmp_path / "again"))
    assert not same(weights(finished), weights(tmp_path / "other"))


def test_progress_is_reported(tmp_path):
    batches, epochs = [], []
    train(CONFIG, RECIPE, tmp_path / "run", on_batch=lambda *seen: batches.append(seen), on_epoch=epochs.append)
    assert [(epoch, step) for epoch, step, _ in batches] == [(e, s) for e in (1, 2) for s in range(1, 7)]
    assert [row["epoch"] for row in epochs] == [1, 2]
    assert epochs[0]["loss"] == pytest.approx(np.mean([loss for epoch, _, loss in batches if epoch == 1]))


def stop(*progress):
    raise KeyboardInterrupt


def stop_in_epoch_2(epoch, step, _):
    if (epoch, step) == (2, 3):
        raise KeyboardInterrupt


@pytest.mark.parametrize("stopped_by", [{"on_epoch": stop}, {"on_batch": stop_in_epoch_2}], ids=["between", "inside"])
def test_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(stopped_by, finished, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, RECIPE, tmp_path / "run", **stopped_by)
    assert not same(weights(finished), weights(tmp_path / "run"))
    seen = []
    train(CONFIG, RECIPE, tmp_path / "run", resume=True, on_epoch=seen.append)
    assert [row["epoch"] for row in seen] == [2]
    assert same(weights(finished), weights(tmp_path / "run"))
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_every_optimizer_goes_on_where_it_stopped(optimizer, tmp_path):
    recipe = replace(RECIPE, optimizer=optimizer, schedule="cosine", lr=0.01)
    train(CONFIG, recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, recipe, tmp_path / "run", on_batch=stop_in_epoch_2)
    train(CONFIG, recipe, tmp_path / "run", resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_crash_while_an_epoch_is_written_repeats_the_epoch(finished, tmp_path, monkeypatch):
    """The metrics are there and the state is not: `resume` neither loses the epoch nor counts it twice."""
    folder, save = tmp_path / "run", runs_module.save_checkpoint

    def full_disk(path, model, **metadata):
        if metadata["epoch"] == 2:
            raise OSError("no space left on device")
        save(path, model, **metadata)

    monkeypatch.setattr(runs_module, "save_checkpoint", full_disk)
    with pytest.raises(OSError):
        train(CONFIG, RECIPE, folder)
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    monkeypatch.setattr(runs_module, "save_checkpoint", save)
    train(CONFIG, RECIPE, folder, resume=True)
    assert [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    assert same(weights(finished), weights(folder))


def test_resuming_a_finished_run_changes_nothing(finished):
    kept = weights(finished)
    train(CONFIG, RECIPE, finished, resume=True, on_epoch=stop)
    assert same(kept, weights(finished))


def test_stopped_before_its_first_epoch_it_begins_anew(finished, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, RECIPE, tmp_path / "run", on_batch=stop)
    train(CONFIG, RECIPE, tmp_path / "run", resume=True)
    assert same(weights(finished), weights(tmp_path / "run"))


def test_existing_run_is_not_overwritten(finished):
    with pytest.raises(TrainingError, match="already holds a run.*--resume"):
        train(CONFIG, RECIPE, finished)


def test_nothing_to_resume_is_told(tmp_path):
    with pytest.raises(TrainingError, match="no run to resume"):
        train(CONFIG, RECIPE, tmp_path / "nothing", resume=True)
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("place", ["file", "file/inside", "config", "state"])
def test_folder_that_cannot_be_used_is_told(place, finished, tmp_path):
    """A file in the way, and runs whose config.json or state.pt is damaged."""
    folder = tmp_path / place
    if place.startswith("file"):
        (tmp_path / "file").write_text("mine")
    else:
        shutil.copytree(finished, folder)
        next(folder.glob(f"{place}.*")).write_text("{damaged")
    with pytest.raises(TrainingError, match=place.partition("/")[0]) as refused:
        train(CONFIG, RECIPE, folder, resume=not place.startswith("file"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("config, recipe", [(replace(CONFIG, leak=0.5), RECIPE), (CONFIG, replace(RECIPE, lr=0.2))])
def test_other_settings_are_not_resumed(config, recipe, finished):
    with pytest.raises(TrainingError, match="other settings"):
        train(config, recipe, finished, resume=True)


@pytest.mark.parametrize("decay", [{"weight_decay": 3e3}, {"gamma_decay": 1e3}], ids=str)
def test_explosion_stops_in_a_sentence_and_keeps_the_last_good_epoch(decay, tmp_path):
    """A decay above 2/lr makes every step overshoot: values grow by lr·decay − 1 a step, until they overflow.

    A read-out that overflows makes the loss NaN. γ that overflows does not: a NaN potential is not above the threshold,
    so the network falls silent and its loss is ln(classes) for ever.
    """
    done = []
    with pytest.raises(TrainingError, match="epoch") as stopped:
        train(CONFIG, replace(RECIPE, epochs=12, **decay), tmp_path / "run", on_epoch=done.append)
    assert "\n" not in str(stopped.value)
    assert 1 <= len(done) < 12, "it trained for a while first"
    checkpoint = load_checkpoint(tmp_path / "run" / "model.safetensors")
    assert checkpoint.metadata["epoch"] == len(done)
    assert all(t.isfinite().all() for t in checkpoint.model.state_dict().values())


# ------------------------------------------------------------------------------------------- killed at any moment


SHORT = [
    "--layout",
    "C4 P F8",
    "--steps",
    "3",
    "--epochs",
    "30",
    "--batch",
    "200",
    "--lr",
    "0.1",
    "--validation",
    "0.1",
]


def training_process(folder, *more):
    command = [sys.executable, "-m", "engine", "train", *SHORT, "--out", str(folder), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def test_a_run_killed_again_and_again_ends_with_the_same_bits(tmp_path):
    """kill -9 at random moments, some while files are written, until a process gets to the end."""
    whole = training_process(tmp_path / "whole")
    assert whole.wait(120) == 0
    draw, killed = random.Random(0), 0
    for _ in range(4):
        begun = (tmp_path / "run" / "config.json").exists()
        process = training_process(tmp_path / "run", *["--resume"] * begun)
        for _ in range(draw.randint(1, 2)):
            process.stderr.readline()  # an epoch has ended, and the next one runs
        time.sleep(draw.uniform(0, 0.8))
        if process.poll() is None:
            process.kill()
            killed += 1
        process.communicate()
        if process.returncode == 0:
            break
    else:
        assert training_process(tmp_path / "run", "--resume").wait(120) == 0
    assert killed >= 2
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))
    last = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "run")]
    assert same(last[0]["model"], last[1]["model"]) and last[0]["best_epoch"] == last[1]["best_epoch"]
    rows = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "run")
    ]
    assert [row | {"seconds": 0} for row in rows[0]] == [row | {"seconds": 0} for row in rows[1]]
    kept = [sorted((tmp_path / name / "gamma").iterdir()) for name in ("whole", "run")]
    assert [path.name for path in kept[0]] == [f"{epoch:04}.safetensors" for epoch in range(1, 31)]
    assert [path.read_bytes() for path in kept[0]] == [path.read_bytes() for path in kept[1]]
    last = [load_checkpoint(tmp_path / name / "last.safetensors") for name in ("whole", "run")]
    assert same(*(checkpoint.model.state_dict() for checkpoint in last)) and last[0].metadata["epoch"] == 30
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "run")]
    assert results[0] == results[1]
    left = {path.name for path in (tmp_path / "run").rglob(".*")}
    assert left == {".lock"}, "what killed writers left is cleared away"


# ------------------------------------------------------------------------- validation, early stopping, clipping


def test_validation_samples_are_held_out_of_training(tmp_path, monkeypatch):
    """Every sample is either trained on or judged by, never both; the judgement is the engine's own evaluation."""
    trained, real = [], training.fit
    monkeypatch.setattr(training, "fit", lambda pixels, shape: trained.append(len(pixels)) or real(pixels, shape))
    recipe = replace(RECIPE, epochs=1, batch=50, validation=0.2)
    rows, held_out = training._split(1398, recipe)
    assert len(held_out) == 280 and sorted([*rows.tolist(), *held_out.tolist()]) == list(range(1398))
    seen = []
    model = train(CONFIG, recipe, tmp_path / "run", on_epoch=seen.append)
    assert trained == [50] * (1118 // 50) + [280]

    data = get("digits")
    pixels, labels = data.load("train")
    result = evaluate(model, fit(pixels[held_out], (1, 8, 8)), labels[held_out], held_out, data.mean, data.std, seed=0)
    assert seen[0]["validation_accuracy"] == pytest.approx(result.accuracy()["accuracy"].tolist())
    rate = result.spikes[:, 1].sum() / (280 * 3 * 4 * 64)
    assert seen[0]["firing_rate"]["conv1"] == pytest.approx(rate)


def test_the_best_epoch_is_kept_and_patience_ends_the_run(tmp_path, monkeypatch):
    """Accuracies are given to the loop: the third epoch is the best, and two worse ones follow."""
    given = iter([0.2, 0.5, 0.6, 0.6, 0.4, 0.9, 0.9])
    monkeypatch.setattr(training, "_validated", lambda *_: {"validation_accuracy": [next(given)], "firing_rate": {}})
    recipe = replace(RECIPE, epochs=7, validation=0.1, patience=2)
    kept, at_three = [], {}

    def look(row):
        kept.append(load_checkpoint(tmp_path / "run" / "model.safetensors").metadata["epoch"])
        if row["epoch"] == 3:
            at_three.update(weights(tmp_path / "run"))

    model = train(CONFIG, recipe, tmp_path / "run", on_epoch=look)
    assert kept == [1, 2, 3, 3, 3] and same(at_three, weights(tmp_path / "run"))
    assert same(at_three, {name: tensor.cpu() for name, tensor in model.state_dict().items()})
    train(CONFIG, recipe, tmp_path / "run", resume=True, on_epoch=stop)  # resumed, it is still over


def test_a_long_gradient_is_shortened(tmp_path):
    """Without momentum and decay, one step moves the weights by lr·clip in all, by the definition of the norm."""
    recipe = Recipe(epochs=1, batch=1398, lr=0.1, momentum=0.0, weight_decay=0.0, clip=0.01, augment=False)
    torch.manual_seed(recipe.seed)
    before = build_model(CONFIG)
    after = train(CONFIG, recipe, tmp_path / "run")
    steps = [(a - b.to(a)).detach() for a, b in zip(after.parameters(), before.parameters())]
    moved = sum(float(step.square().sum()) for step in steps) ** 0.5
    assert moved == pytest.approx(0.1 * 0.01, rel=1e-3)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"validation": 0.6}, "from 0 to 0.5"),
        ({"validation": -0.1}, "from 0 to 0.5"),
        ({"patience": 3}, "patience needs validation samples"),
        ({"patience": 0, "validation": 0.1}, "patience must be 1"),
        ({"clip": 0.0}, "clip. must be above 0"),
    ],
)
def test_recipes_that_cannot_judge_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        Recipe(**change)


def test_a_run_of_before_these_settings_is_resumed(finished, tmp_path):
    """Its config.json lacks the newer names, whose defaults change nothing."""
    folder = tmp_path / "old"
    shutil.copytree(finished, folder)
    config = json.loads((folder / "config.json").read_text())
    for name in ("validation", "patience", "clip"):
        del config["recipe"][name]
    (folder / "config.json").write_text(json.dumps(config))
    train(CONFIG, RECIPE, folder, resume=True, on_epoch=stop)
