"""Noise and attacks: inside the ball, reproducible, and equal to the textbook formulas."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from engine.analysis import robustness
from engine.analysis.evaluation import join
from engine.analysis.robustness import attack_rows, sweep_parts, sweep_table
from engine.attacks import KINDS, Attack, Attacker, inside, perturb
from engine.snn import ModelConfig, Surrogate, build_model
from engine.snn.encoding import sample_keys

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
    [Attack("pgd", 8 / 255, 5, 1 / 255)]
    + [
        Attack(name, 0.2, None if kind.steps < 5 else 5, attacker=Attacker(draws=1))
        for name, kind in KINDS.items()
        if kind.family != "events" and name != "autoattack"
    ],
    ids=lambda attack: f"{attack.kind}-{attack.size:.2g}",
)
def test_images_stay_in_range_and_ball_and_repeat(setting, attack):
    """The ball measured here in float64, in the norm that the attack says."""
    clean = (setting["pixels"].float() / 255).double()
    images = attack_all(setting, attack)
    change = (images.double() - clean).flatten(1)
    assert images.min() >= 0 and images.max() <= 1
    assert (change != 0).any() or attack.kind == "square", "which returns what fools alone"
    if attack.kind != "gaussian":
        size = change.norm(dim=1) if attack.does.norm == "L2" else change.abs().amax(1)
        assert size.max() <= attack.strength + 1e-6
        assert inside(images, clean.float(), attack).all()
    assert torch.equal(images, attack_all(setting, attack))
    assert not setting["model"].training
    assert torch.equal(
        setting["model"](torch.zeros(1, 1, 8, 8), seed=0), setting["model"](torch.zeros(1, 1, 8, 8), seed=0)
    )


@pytest.mark.parametrize("encoding", ["poisson", "direct"])
def test_autoattack_stays_in_its_ball(setting, encoding):
    """Two versions: that for random networks, and the standard suite, whose Square alone takes 5,000 queries."""
    config = ModelConfig(**{**CONFIG.to_dict(), "steps": 2, "encoding": encoding, "layout": "F8"})
    rows, attack = slice(0, 2), Attack("autoattack", 0.05, attacker=Attacker(draws=1))
    clean, labels = setting["pixels"][rows], setting["labels"][rows]
    images = perturb(build_model(config).eval(), clean, labels, torch.arange(2), MEAN, STD, attack, seed=0)
    assert inside(images, clean.float() / 255, attack).all()


def test_what_lies_outside_of_the_ball_is_seen():
    clean = torch.full((3, 1, 2, 2), 0.5)
    moved = clean + torch.tensor([0.01, 0.02, 0.6]).view(3, 1, 1, 1)
    assert inside(moved, clean, Attack("fgsm", 0.015)).tolist() == [True, False, False]
    assert inside(moved, clean, Attack("cw", 0.03)).tolist() == [True, False, False], "√4·0.01 = 0.02, √4·0.02 = 0.04"
    assert inside(moved, clean, Attack("fgsm", 1.0)).tolist() == [True, True, False], "1.1 is no pixel"


@pytest.mark.parametrize("kind", ["uniform", "gaussian", "pgd", "pgdl2", "eotpgd"])
def test_another_seed_is_another_disturbance(setting, kind):
    one, other = (attack_all(setting, Attack(kind, 0.1, 2), seed=seed) for seed in (5, 6))
    assert not torch.equal(one, other)


def test_uniform_noise_fills_its_range(setting):
    """On mid-grey images, where nothing is clipped: the standard deviation of the uniform distribution is ε/√3."""
    grey = torch.full((400, 1, 8, 8), 0.5)
    noise = perturb(
        *(setting["model"], grey, torch.zeros(400), torch.arange(400), MEAN, STD, Attack("uniform", 0.1)), seed=1
    )
    noise -= grey
    assert noise.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02) and abs(noise.mean().item()) < 0.002
    assert noise.abs().max() <= 0.1 + 1e-6


def test_gradient_of_the_draws_is_that_of_their_mean_score(setting):
    """FGSM with three draws, against the mean of three passes made here by hand, each with its stream of the code."""
    x = (setting["pixels"].float() / 255).requires_grad_()
    keys, first = sample_keys(x), ((5 + 1) << 20) + 1
    scores = sum(setting["model"]((x - MEAN[0]) / STD[0], seed=first, samples=keys + (draw << 32)) for draw in range(3))
    (gradient,) = torch.autograd.grad(F.cross_entropy(scores / 3, setting["labels"]), x)
    expected = (x + 0.05 * gradient.sign()).clamp(0, 1).detach()
    found = attack_all(setting, Attack("fgsm", 0.05, attacker=Attacker(draws=3)))
    assert ((found - expected).abs() < 1e-6).float().mean() > 0.99, "a gradient next to zero may round either way"


@pytest.mark.parametrize(("target", "pick"), [("final", -1), ("average", slice(None)), (2, 1)])
def test_attacked_scores(setting, target, pick):
    """FGSM against the gradient of the scores that were asked for, taken here by hand."""
    x = (setting["pixels"].float() / 255).requires_grad_()
    steps = setting["model"].forward_steps((x - MEAN[0]) / STD[0], seed=((5 + 1) << 20) + 1, samples=sample_keys(x))
    scores = steps[pick] if isinstance(pick, int) else steps.mean(0)
    (gradient,) = torch.autograd.grad(F.cross_entropy(scores, setting["labels"]), x)
    expected = (x + 0.05 * gradient.sign()).clamp(0, 1).detach()
    found = attack_all(setting, Attack("fgsm", 0.05, attacker=Attacker(draws=1, target=target)))
    assert ((found - expected).abs() < 1e-6).float().mean() > 0.99


def test_literal_gradient_of_the_rate_code_moves_nothing(setting):
    """The trap of the published code: FGSM adds ε·sign(0)."""
    attack = Attack("fgsm", 0.1, attacker=Attacker(straight_through=False))
    assert torch.equal(attack_all(setting, attack), setting["pixels"].float() / 255)


def test_surrogate_of_the_attacker_is_not_left_on_the_network(setting):
    wide = Attack("fgsm", 0.1, attacker=Attacker(Surrogate("sigmoid", 3.0)))
    assert not torch.equal(attack_all(setting, wide), attack_all(setting, Attack("fgsm", 0.1)))
    assert setting["model"].surrogate == Surrogate() and setting["model"].straight_through


def test_encodings_are_shown_side_by_side(setting):
    """Three encodings: the first is that of a single one; the table against plain counting."""
    attack = Attack("gaussian", 0.3)
    one, three = (attack_rows(attack, 0, 12, **setting, encodings=count) for count in (1, 3))
    assert np.array_equal(three.predictions[:, ::3], one.predictions) and np.array_equal(three.labels[::3], one.labels)
    assert not np.array_equal(three.spikes[:, :, 1::3], one.spikes)
    row = sweep_table([(attack, three)], 3).iloc[-1]
    shares = [sum(three.predictions[-1, i] == three.labels[i] for i in range(k, 36, 3)) / 12 for k in range(3)]
    assert row["accuracy"] == pytest.approx(sum(shares) / 3) and row["samples"] == 12
    assert row["spread"] == pytest.approx(np.std(shares, ddof=1))
    low, high = robustness.wilson(sum(shares) / 3 * 12, 12)
    assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))
    assert np.isnan(sweep_table([(attack, one)])["spread"]).all()


# ------------------------------------------------------------------------------------------------------ surrogates


@pytest.mark.parametrize(
    ("shape", "formula"),
    [
        ("triangle", lambda v: 0.3 * max(0.0, 1 - abs(v))),
        ("arctangent", lambda v: 0.3 / (1 + 4 * v * v)),
        ("sigmoid", lambda v: 0.3 / np.cosh(2 * np.arccosh(2**0.5) * v) ** 2),
    ],
)
@pytest.mark.parametrize("width", [0.5, 1.0, 3.0])
def test_surrogates_equal_their_formulas(shape, formula, width):
    """In float64, a value at a time; the sigmoid's as the hyperbolic secant it is."""
    u = torch.linspace(-3, 5, 33, dtype=torch.float64).view(1, 1, 33)
    found = Surrogate(shape, width).derivative(u, 1.5).flatten()
    expected = [formula((float(value) / 1.5 - 1) / width) for value in u.flatten()]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    half = Surrogate(shape, width).derivative(torch.tensor([[[1.0 + width / 2]]], dtype=torch.float64), 1.0)
    assert half.item() == pytest.approx(0.15), "half of the peak at half a width"


def test_adaptive_width_follows_the_potentials():
    """Against a plain loop over timesteps and samples."""
    u = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10.0]).view(1, 2, 1, 1)
    found = Surrogate("triangle", 2.0, adaptive=True).derivative(u, 1.0)
    for t in range(3):
        for sample in range(2):
            distance = (u[t, sample] - 1).abs()
            expected = 0.3 * (1 - distance / (2 * distance.mean())).clamp(min=0)
            torch.testing.assert_close(found[t, sample], expected)


@pytest.mark.parametrize(("given", "said"), [(("box",), "surrogate"), (("triangle", 0.0), "width")])
def test_impossible_surrogates_say_why(given, said):
    with pytest.raises(ValueError, match=said):
        Surrogate(*given)


@pytest.mark.parametrize(
    ("settings", "said"), [({"draws": 0}, "encodings"), ({"target": "last"}, "scores"), ({"target": 0}, "scores")]
)
def test_impossible_attackers_say_why(settings, said):
    with pytest.raises(ValueError, match=said):
        Attacker(**settings)


def test_attacks_that_do_not_suit_say_why(setting):
    with pytest.raises(ValueError, match="is for recordings of events"):
        attack_all(setting, Attack("deletion", 0.1))
    with pytest.raises(ValueError, match="has 4 timesteps and cannot be attacked at t = 5"):
        attack_all(setting, Attack("fgsm", 0.1, attacker=Attacker(target=5)))
    few = build_model(ModelConfig(**{**CONFIG.to_dict(), "classes": 3}))
    with pytest.raises(ValueError, match="AutoAttack needs at least 4 classes, and the network tells 3 apart"):
        attack_all({**setting, "model": few}, Attack("autoattack", 0.1))


# ---------------------------------------------------------------------------------------------------------- events


@pytest.fixture(scope="module")
def recordings():
    counts = torch.randint(0, 6, (40, 5, 2, 6, 6), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    config = ModelConfig(arch="vgg-small", layout="F8", steps=5, classes=3, in_shape=(2, 6, 6), encoding="events")
    return build_model(config).eval(), counts, torch.zeros(40, dtype=torch.int64), torch.arange(40), (0, 0), (1, 1)


def test_deletion_loses_each_event_alike(recordings):
    """None appears; the number lost lies within five standard deviations of a binomial's mean."""
    found = (perturb(*recordings, Attack("deletion", 0.3), seed=0) * 255).round()
    counts = recordings[1].float()
    assert (found <= counts).all()
    total = counts.sum().item()
    assert abs((counts - found).sum().item() - 0.3 * total) < 5 * (0.3 * 0.7 * total) ** 0.5
    assert perturb(*recordings, Attack("deletion", 1.0), seed=0).sum() == 0


def test_insertion_adds_so_many_events_anywhere(recordings):
    found = (perturb(*recordings, Attack("insertion", 0.5), seed=0) * 255).round() - recordings[1]
    assert (found >= 0).all()
    assert found.flatten(1).sum(1).tolist() == [round(0.5 * int(one.sum())) for one in recordings[1]]
    by_frame = found.sum((0, 2, 3, 4))
    assert by_frame.std() < 0.1 * by_frame.mean(), "uniform over time"


def test_jitter_moves_events_in_time_alone(recordings):
    """Each pixel and polarity keeps its events; a narrow jitter leaves most where they were."""
    counts = recordings[1].float()
    for deviation in (0.3, 2.0):
        found = (perturb(*recordings, Attack("jitter", deviation), seed=0) * 255).round()
        assert torch.equal(found.sum(1), counts.sum(1)) and not torch.equal(found, counts)
    one = torch.zeros(1, 9, 2, 6, 6, dtype=torch.uint8)
    one[0, 4, 1, 2, 3] = 255
    config = ModelConfig(arch="vgg-small", layout="F8", steps=9, classes=3, in_shape=(2, 6, 6), encoding="events")
    about = (build_model(config), one, torch.zeros(1, dtype=torch.int64), torch.zeros(1), (0, 0), (1, 1))
    times = (perturb(*about, Attack("jitter", 1.0), seed=0) * 255).round()[0, :, 1, 2, 3]
    mean = (times * torch.arange(9)).sum() / 255
    variance = (times * (torch.arange(9) - mean) ** 2).sum() / 255
    assert abs(mean - 4) < 0.35 and variance.item() == pytest.approx(1 + 1 / 12, rel=0.35), "rounding adds 1/12"


def test_fgsm_equals_its_formula(setting):
    """x + ε·sign(∂loss/∂x), clipped (Goodfellow et al. 2015), with the gradient taken here by hand."""
    x = (setting["pixels"].float() / 255).requires_grad_()
    model = setting["model"]
    scores = model((x - MEAN[0]) / STD[0], seed=((5 + 1) << 20) + 1, samples=sample_keys(x))
    (gradient,) = torch.autograd.grad(F.cross_entropy(scores, setting["labels"]), x)
    assert (gradient != 0).float().mean() > 0.5, "the gradient reaches the image"
    expected = (x + 0.05 * gradient.sign()).clamp(0, 1).detach()
    found = attack_all(setting, Attack("fgsm", 0.05, attacker=Attacker(draws=1)))
    torch.testing.assert_close(found, expected)


def test_pgd_equals_its_formula_on_each_sample_alone(setting):
    """Start in the ball, then x + α·sign(∂loss/∂x), back into ball and range (Madry et al. 2018): a plain loop, here
    with the batch of one and the start drawn by hand."""
    eps, alpha, steps, model = 8 / 255, 2 / 255, 4, setting["model"]
    found = attack_all(setting, Attack("pgd", eps, steps, alpha, Attacker(draws=1)))
    for row in range(12):
        clean = setting["pixels"][row : row + 1].float() / 255
        draw = torch.Generator().manual_seed(5 * 1_000_003 + row)
        x = (clean + torch.empty(1, 8, 8).uniform_(-eps, eps, generator=draw)).clamp(0, 1)
        for step in range(steps):
            x.requires_grad_()
            scores = model((x - MEAN[0]) / STD[0], seed=((5 + 1) << 20) + 1 + step, samples=sample_keys(x))
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
