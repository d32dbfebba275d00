"""Noise and attacks: inside the ball, reproducible, and equal to the textbook formulas."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from engine.analysis import robustness
from engine.analysis.evaluation import join
from engine.analysis.robustness import Attack, attack_rows, perturb, sweep_parts, sweep_table
from engine.snn import ModelConfig, build_model

CONFIG = ModelConfig(arch="vgg-small", steps=4, in_shape=(1, 8, 8), layout="C4 P F8")
MEAN, STD = (0.3,), (0.4,)


@pytest.fixture(scope="module")
def setting():
    torch.manual_seed(0)
    model = build_model(CONFIG).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.fill_(0.2)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (12, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return {"model": model, "pixels": pixels, "labels": torch.arange(12) % 10, "mean": MEAN, "std": STD, "seed": 5}


def attack_all(setting, attack, **change):
    s = {**setting, **change}
    return perturb(s["model"], s["pixels"], s["labels"], torch.arange(12), MEAN, STD, attack, seed=s["seed"])


@pytest.mark.parametrize(
    "attack",
    [Attack("fgsm", 8 / 255), Attack("pgd", 8 / 255, 3), Attack("pgd", 8 / 255, 5, 1 / 255), Attack("gaussian", 0.2)],
    ids=str,
)
def test_images_stay_in_range_and_ball_and_repeat(setting, attack):
    clean = setting["pixels"].float() / 255
    images = attack_all(setting, attack)
    assert images.min() >= 0 and images.max() <= 1 and not torch.equal(images, clean)
    if attack.kind != "gaussian":
        assert (images - clean).abs().max() <= attack.strength + 1e-6
    assert torch.equal(images, attack_all(setting, attack))
    assert not setting["model"].training
    assert not torch.equal(images, attack_all(setting, attack, seed=6))


def test_fgsm_equals_its_formula(setting):
    """x + ε·sign(∂loss/∂x), clipped (Goodfellow et al. 2015), with the gradient taken here by hand."""
    x = (setting["pixels"].float() / 255).requires_grad_()
    model, samples = setting["model"], torch.arange(12)
    scores = model((x - MEAN[0]) / STD[0], seed=((5 + 1) << 20) + 1, samples=samples)
    (gradient,) = torch.autograd.grad(F.cross_entropy(scores, setting["labels"]), x)
    assert (gradient != 0).float().mean() > 0.5, "the gradient reaches the image"
    expected = (x + 0.05 * gradient.sign()).clamp(0, 1).detach()
    torch.testing.assert_close(attack_all(setting, Attack("fgsm", 0.05)), expected)


def test_pgd_equals_its_formula_on_each_sample_alone(setting):
    """Start in the ball, then x + α·sign(∂loss/∂x), back into ball and range (Madry et al. 2018): a plain loop, here
    with the batch of one and the start drawn by hand."""
    eps, alpha, steps, model = 8 / 255, 2 / 255, 4, setting["model"]
    found = attack_all(setting, Attack("pgd", eps, steps, alpha))
    for row in range(12):
        clean, sample = setting["pixels"][row : row + 1].float() / 255, torch.tensor([row])
        draw = torch.Generator().manual_seed(5 * 1_000_003 + row)
        x = (clean + torch.empty(1, 8, 8).uniform_(-eps, eps, generator=draw)).clamp(0, 1)
        for step in range(steps):
            x.requires_grad_()
            scores = model((x - MEAN[0]) / STD[0], seed=((5 + 1) << 20) + 1 + step, samples=sample)
            (gradient,) = torch.autograd.grad(F.cross_entropy(scores, setting["labels"][row : row + 1]), x)
            x = x.detach() + alpha * gradient.sign()
            x = (clean + (x - clean).clamp(-eps, eps)).clamp(0, 1)
        # A gradient next to zero may round to the other side in a batch of another size.
        assert ((found[row] - x[0]).abs() < 1e-6).float().mean() > 0.95


@pytest.mark.parametrize("kind", ["gaussian", "fgsm", "pgd"])
def test_an_attack_does_not_depend_on_the_others_in_its_batch(kind, setting):
    """Nor on torch's own random numbers, which it leaves as they are."""
    attack = Attack(kind, 0.1, 1, 1e-7)  # of PGD the start alone, so that no rounding of gradients is seen
    torch.manual_seed(123)
    before = torch.get_rng_state()
    together = attack_all(setting, attack)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(456)
    order = torch.tensor([7, 0, 11, 3])
    chosen = {name: setting[name][order] for name in ("pixels", "labels")}
    some = perturb(setting["model"], *chosen.values(), order, MEAN, STD, attack, seed=5)
    assert ((some - together[order]).abs() < 1e-6).float().mean() > 0.95


def test_pgd_starts_anywhere_in_the_ball(setting):
    """On mid-grey images: uniform on [−ε, ε], whose standard deviation is ε/√3; each sample and seed its own."""
    grey, count, eps = torch.full((200, 1, 8, 8), 0.5), 200, 0.1
    samples = torch.arange(count)
    starts = [
        perturb(setting["model"], grey, samples % 10, samples, MEAN, STD, Attack("pgd", eps, 1, 1e-7), seed=seed) - grey
        for seed in (0, 1)
    ]
    for start in starts:
        assert start.std().item() == pytest.approx(eps / 3**0.5, rel=0.03) and abs(start.mean().item()) < 0.003
        assert start.abs().max() <= eps + 1e-6
    flat = torch.cat(starts).flatten(1)
    correlation = torch.corrcoef(flat) - torch.eye(2 * count)
    assert correlation.abs().max() < 0.7, "64 independent values: two of 400 rows that share a start would give 1"


def test_gaussian_noise_has_its_standard_deviation(setting):
    """On mid-grey images, where nothing is clipped: σ within 5 standard errors; each sample has its own noise."""
    grey = torch.full((400, 1, 8, 8), 0.5)
    images = perturb(
        setting["model"], grey, torch.zeros(400), torch.arange(400), MEAN, STD, Attack("gaussian", 0.05), seed=1
    )
    noise = images - grey
    assert noise.std().item() == pytest.approx(0.05, abs=5 * 0.05 / (2 * noise.numel()) ** 0.5)
    alone = perturb(
        setting["model"], grey[:1], torch.zeros(1), torch.tensor([17]), MEAN, STD, Attack("gaussian", 0.05), seed=1
    )
    assert torch.equal(alone[0], images[17])


def test_no_strength_changes_nothing(setting):
    assert torch.equal(attack_all(setting, Attack("pgd", 0.0)), setting["pixels"].float() / 255)


def test_an_attack_hurts_more_than_noise_of_the_same_size():
    """On the bundled model: FGSM at ε = 0.1 against uniform signs of the same ε."""
    from engine import bundled, load_checkpoint
    from engine.analysis.evaluation import evaluate
    from engine.datasets import get

    checkpoint = load_checkpoint(bundled.path("digits"))
    pixels, labels = (part[:40] for part in get("digits").load("test"))
    shared = {
        "model": checkpoint.model,
        "pixels": pixels,
        "labels": labels,
        "mean": checkpoint.mean,
        "std": checkpoint.std,
        "seed": 0,
    }
    fgsm = attack_rows(Attack("fgsm", 0.1), 0, 40, **shared)
    signs = torch.randint(0, 2, pixels.shape, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    noisy = (pixels / 255 + 0.1 * signs).clamp(0, 1)
    noise = evaluate(checkpoint.model, noisy, labels, torch.arange(40), checkpoint.mean, checkpoint.std, seed=0)
    assert fgsm.accuracy()["accuracy"].iloc[-1] < noise.accuracy()["accuracy"].iloc[-1]


def test_a_sweep_in_parts_equals_its_attacks(setting):
    attacks = [Attack("gaussian", 0.0), Attack("gaussian", 0.3), Attack("fgsm", 0.1)]
    parts = sweep_parts(CONFIG, attacks, 12)
    assert [(a, s) for a, s, _ in parts] == sorted(
        [(a, s) for a, s, _ in parts], key=lambda p: (attacks.index(p[0]), p[1])
    )
    assert all(sum(stop - start for a, start, stop in parts if a == attack) == 12 for attack in attacks)
    halves = [(a, join([attack_rows(a, 0, 6, **setting), attack_rows(a, 6, 12, **setting)])) for a in attacks]
    table = sweep_table(halves)
    assert len(table) == 3 * CONFIG.steps
    row = table[(table["attack"] == "Gaussian noise") & (table["strength"] == 0.3) & (table["step"] == 4)].iloc[0]
    whole = attack_rows(attacks[1], 0, 12, **setting)
    assert row["correct"] == (whole.predictions[-1] == whole.labels).sum()
    assert row["spikes"] == pytest.approx(whole.spikes[:, 1:].sum() / 12)


def test_empty_sweep_has_its_columns():
    assert {"attack", "strength", "accuracy"} <= set(sweep_table([]).columns)


def test_closeup_counts_spikes_of_both(setting):
    shared = {key: value for key, value in setting.items()}
    close = robustness.closeup(Attack("fgsm", 0.1), 3, **shared)
    np.testing.assert_allclose(close.clean, setting["pixels"][3].numpy() / 255, rtol=1e-6)
    assert np.abs(close.attacked - close.clean).max() <= 0.1 + 1e-6
    frame = robustness.spikes_by_layer(CONFIG, {"clean": close.clean_result, "FGSM": close.attacked_result})
    assert frame["layer"].drop_duplicates().tolist() == ["input", "conv1", "fc1"]
    assert (
        frame.query("condition == 'FGSM' and layer == 'conv1'")["spikes"].item()
        == close.attacked_result.spikes[:, 1].sum()
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("laser", 0.1), "attack"),
        (("fgsm", -1), "strength"),
        (("fgsm", float("nan")), "strength"),
        (("pgd", 0.1, 0), "steps"),
        (("pgd", 0.1, 5, 0.0), "step size"),
    ],
)
def test_impossible_attacks_say_why(arguments, said):
    with pytest.raises(ValueError, match=said):
        Attack(*arguments)


@pytest.mark.parametrize("kind", ["fgsm", "pgd", "gaussian"])
def test_events_are_attacked_frame_by_frame(kind):
    """ε = 2/255 moves each count by at most two events, none below zero; FGSM moves by the gradient's sign, by hand."""
    config = ModelConfig(arch="vgg-small", layout="C4 P F8", steps=3, classes=3, in_shape=(2, 8, 8), encoding="events")
    model = build_model(config).eval()
    counts = torch.randint(0, 6, (5, 3, 2, 8, 8)).to(torch.uint8)
    labels, samples = torch.tensor([0, 1, 2, 0, 1]), torch.arange(5)
    attack = Attack(kind, 2 / 255)
    found = perturb(model, counts, labels, samples, (0.0, 0.0), (1.0, 1.0), attack, seed=0) * 255
    assert found.shape == counts.shape and found.min() >= 0 and not torch.equal(found, counts.float())
    if kind != "gaussian":
        assert (found - counts).abs().max() <= 2 + 1e-4
    if kind == "fgsm":
        x = counts.float().transpose(0, 1).requires_grad_()
        torch.nn.functional.cross_entropy(model(x), labels).backward()
        expected = (x + 2 * x.grad.sign()).clamp(min=0).detach().transpose(0, 1)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    same = perturb(model, counts, labels, samples, (0.0, 0.0), (1.0, 1.0), attack, seed=0) * 255
    assert torch.equal(found, same)
