"""Images in, disturbed images out: noise is drawn here, attacks are torchattacks'."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..datasets import to_unit
from ..device import device
from ..snn import SpikingNetwork
from .attack import Attack
from .events import delete, insert, jitter
from .victim import Victim

HALF_LEVEL = 0.5 / 255  # CW works on atanh(2x − 1), which is infinite, and cannot move, at 0 and 1
_SLACK = 1e-6  # float32 rounding of x + δ − x


def perturb(
    model: SpikingNetwork, pixels: Tensor, labels: Tensor, samples: Tensor, mean, std, attack: Attack, *, seed: int
) -> Tensor:
    """Attacked images, float32 [N, C, H, W] in [0, 1]; of event data frames [N, T, 2, H, W], counts/255.

    pixels: uint8 or float in [0, 1]. labels: int64 [N]. samples: int64 [N], each image's number in its data set. What
    comes out lies within the attack's ball around the image and within [0, 1]. The same arguments give the same images;
    but for APGD, Square and AutoAttack, which draw for a batch as a whole, and for CW, which ends a batch as a whole,
    whatever others are attacked with them. Raises ValueError with one sentence for an attack that this network or these
    data do not allow.
    """
    unit = to_unit(pixels) if pixels.dtype == torch.uint8 else pixels
    unit, labels = unit.to(device()), labels.to(device())
    check(attack, model, events=unit.dim() == 5)
    if attack.strength == 0:
        return unit
    if attack.does.family == "events":
        return _disturbed_events(unit, samples, attack, seed)
    if attack.does.family == "noise":
        return _noisy(unit, samples, attack, seed)
    return _attacked(model, unit, labels, samples, mean, std, attack, seed)


def check(attack: Attack, model: SpikingNetwork, *, events: bool) -> None:
    """Raises ValueError with one sentence where the attack makes no sense for this network and data."""
    if attack.does.family == "events" and not events:
        raise ValueError(f"{attack.does.label} is for recordings of events, and these are images")
    if attack.kind == "autoattack" and model.config.classes < 4:
        raise ValueError(f"AutoAttack needs at least 4 classes, and the network tells {model.config.classes} apart")
    attack.attacker.check(model)


def _noisy(unit: Tensor, samples: Tensor, attack: Attack, seed: int) -> Tensor:
    draws = [generator(seed, int(sample)) for sample in samples]
    shape = unit.shape[1:]
    if attack.kind == "gaussian":
        noise = torch.stack([torch.randn(shape, generator=draw) for draw in draws])
    else:
        noise = torch.stack([torch.rand(shape, generator=draw) for draw in draws]).mul_(2.0).sub_(1.0)
    return (unit + attack.strength * noise.to(unit.device)).clamp(0.0, 1.0)


def _disturbed_events(unit: Tensor, samples: Tensor, attack: Attack, seed: int) -> Tensor:
    change = {"deletion": delete, "insertion": insert, "jitter": jitter}[attack.kind]
    counts = (255.0 * unit).round().to("cpu", torch.int64)
    rows = [
        change(recording, attack.strength, generator(seed, int(sample))) for recording, sample in zip(counts, samples)
    ]
    return (torch.stack(rows).to(unit) / 255.0).clamp(max=1.0)


def _attacked(model, unit: Tensor, labels, samples, mean, std, attack: Attack, seed: int) -> Tensor:
    victim = Victim(model, mean, std, attack.attacker, seed)
    flat = unit.flatten(1, 2) if unit.dim() == 5 else unit  # torchattacks knows images alone
    given = flat.clamp(HALF_LEVEL, 1.0 - HALF_LEVEL) if attack.kind == "cw" else flat
    attacker = _builder(attack, seed % 2**31)(victim)
    with torch.random.fork_rng(), draws_by_sample(seed, samples), torch.enable_grad():
        torch.manual_seed(seed % 2**63)
        found = attacker(given, labels).detach()
    return within(found, flat, attack).view_as(unit)


def within(images: Tensor, clean: Tensor, attack: Attack) -> Tensor:
    """The images moved into the attack's ball around the clean ones, and into [0, 1].

    What cannot be moved there, because an attack divided by a gradient of zero, becomes the clean image. A change that is
    too long in L2 keeps its direction.
    """
    images = torch.where(images.isfinite(), images, clean)
    change = images - clean
    if attack.does.norm == "L2":
        length = change.flatten(1).norm(dim=1).clamp_min(1e-12)
        short = (attack.strength / length).clamp(max=1.0).view(-1, *[1] * (clean.dim() - 1))
        return (clean + short * change).clamp(0.0, 1.0)
    return (clean + change.clamp(-attack.strength, attack.strength)).clamp(0.0, 1.0)


def inside(images: Tensor, clean: Tensor, attack: Attack) -> Tensor:
    """Whether each image lies in the attack's ball and in [0, 1], up to float32 rounding: bool [N]."""
    change = (images - clean).flatten(1)
    size = change.norm(dim=1) if attack.does.norm == "L2" else change.abs().amax(1)
    flat = images.flatten(1)
    return (size <= attack.strength + _SLACK) & (flat.amin(1) >= 0.0) & (flat.amax(1) <= 1.0)


def _builder(attack: Attack, seed: int) -> Callable[[Victim], Callable[[Tensor, Tensor], Tensor]]:
    """torchattacks' class for this kind, with its settings."""
    import torchattacks as ta

    eps, steps, size = attack.strength, attack.taken, attack.size
    return {
        "fgsm": lambda victim: ta.FGSM(victim, eps=eps),
        "bim": lambda victim: ta.BIM(victim, eps=eps, alpha=size, steps=steps),
        "mifgsm": lambda victim: ta.MIFGSM(victim, eps=eps, alpha=size, steps=steps),
        "pgd": lambda victim: ta.PGD(victim, eps=eps, alpha=size, steps=steps, random_start=True),
        "pgdl2": lambda victim: ta.PGDL2(victim, eps=eps, alpha=size, steps=steps, random_start=True),
        "apgd": lambda victim: ta.APGD(victim, eps=eps, steps=steps, seed=seed),
        "eotpgd": lambda victim: ta.EOTPGD(victim, eps=eps, alpha=size, steps=steps, eot_iter=2),
        "cw": lambda victim: ta.CW(victim, c=1, steps=steps, lr=0.05),
        "deepfool": lambda victim: ta.DeepFool(victim, steps=steps),
        "square": lambda victim: ta.Square(victim, eps=eps, n_queries=steps, seed=seed),
        "autoattack": lambda victim: ta.AutoAttack(
            victim,
            eps=eps,
            version="rand" if victim.random else "standard",
            n_classes=victim.model.config.classes,
            seed=seed,
        ),
    }[attack.kind]


class draws_by_sample(TorchFunctionMode):
    """Gives each image of a batch random numbers that depend on the seed and its sample alone.

    torchattacks draws the random starts of PGD, EOT-PGD and PGD L2 from torch's global generator, for the whole batch at
    once: where an attack began would depend on which samples share a batch.
    """

    def __init__(self, seed: int, samples: Tensor):
        super().__init__()
        self.generators = [generator(seed, int(sample)) for sample in samples]

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.Tensor.uniform_, torch.Tensor.normal_) and len(args[0]) == len(self.generators):
            return self._fill(function, args[0], args[1:], kwargs or {})
        return function(*args, **(kwargs or {}))

    def _fill(self, function: Callable, target: Tensor, args: tuple, kwargs: dict) -> Tensor:
        shape = target.shape[1:]
        rows = [function(torch.empty(shape), *args, **kwargs, generator=one) for one in self.generators]
        return target.copy_(torch.stack(rows))


def generator(seed: int, sample: int) -> torch.Generator:
    """Random numbers of one sample."""
    return torch.Generator().manual_seed((seed * 1_000_003 + sample) % 2**63)
