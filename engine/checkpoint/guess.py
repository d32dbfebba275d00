"""What a file does not say: its data set, λ, θ and normalisation; from its name, or the likeliest."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, NamedTuple

from .errors import Refusal, shown


@dataclass(frozen=True)
class Note:
    """Where a value comes from, in words. guessed: nothing in the file or its name says so."""

    field: str
    value: Any
    reason: str
    guessed: bool


class DatasetFacts(NamedTuple):
    """What a network trained on a data set most likely has: λ and normalisation with it."""

    title: str
    channels: int
    side: int
    classes: int
    leak: float | None
    mean: tuple[float, ...]
    std: tuple[float, ...]


_CIFAR10_MOMENTS = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
DATASETS = {
    "digits": DatasetFacts("digits", 1, 16, 10, 0.95, (0.3053,), (0.3189,)),
    "mnist": DatasetFacts("MNIST", 1, 28, 10, None, (0.1307,), (0.3081,)),
    "fashion-mnist": DatasetFacts("Fashion-MNIST", 1, 28, 10, None, (0.2860,), (0.3530,)),
    "cifar10": DatasetFacts("CIFAR-10", 3, 32, 10, 0.95, *_CIFAR10_MOMENTS),
    # Not CIFAR-100's own moments: the published script normalises both with CIFAR-10's.
    "cifar100": DatasetFacts("CIFAR-100", 3, 32, 100, 0.99, *_CIFAR10_MOMENTS),
    "tiny-imagenet": DatasetFacts("Tiny-ImageNet", 3, 64, 200, 0.99, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
_ARCH_LEAK = {"vgg11": 0.99}  # others: 0.95
_NAMES = {
    "tiny-imagenet": r"tiny[-_ ]?imagenet",
    "fashion-mnist": r"fashion[-_ ]?mnist|(?<![a-z])fmnist",
    "cifar100": r"cifar[-_ ]?100(?!\d)",
    "cifar10": r"(?<!dvs)(?<!dvs[-_ ])cifar[-_ ]?10(?!\d)(?![-_ ]?dvs)",
    "mnist": r"(?<![a-z])mnist",
    "digits": r"(?<![a-z])digits(?![a-z])",
}
OVERRIDES = ("leak", "threshold", "dataset", "image_size", "encoding", "mean", "std")
BY_USER = "set by you"


@dataclass(frozen=True)
class Facts:
    """What is known of a network before anything is guessed.

    sides: smallest and largest image side that fit the tensors; None when any does. stated: values that the file's own
    header gives, by name. steps, classes, channels, arch are None when the file holds BNTT stacks alone.
    """

    name: str
    arch: str | None = None
    steps: int | None = None
    classes: int | None = None
    channels: int | None = None
    sides: tuple[int, int] | None = None
    stated: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """A value for everything that can be set, and where each comes from."""

    values: dict[str, Any]
    notes: tuple[Note, ...]


def hints(name: str) -> dict[str, Any]:
    """What a file name says: dataset, steps and leak, those of them it has.

    The published script writes `{dataset}{arch}_timestep{T}_lr{lr}_epoch{E}_leak{λ}_bestmodel.pth.tar`.
    """
    text = name.lower()
    found: dict[str, Any] = {}
    for dataset, pattern in _NAMES.items():
        if re.search(pattern, text):
            found["dataset"] = dataset
            break
    if match := re.search(r"timesteps?[-_ =]?(\d{1,5})(?!\d)", text):
        found["steps"] = int(match[1])
    if match := re.search(r"leak[-_ =]?(\d?\.\d{1,9}|\d(?!\d))", text):
        leak = float(match[1])
        if leak <= 1.0:
            found["leak"] = leak
    return found


def check_overrides(overrides: dict[str, Any]) -> dict[str, Any]:
    """The given values as plain Python ones; those that are None are not given. Raises Refusal for any other."""
    clean = {}
    for name, value in overrides.items():
        if name not in OVERRIDES:
            raise Refusal(f"{shown(name)!r} cannot be set; what can is {', '.join(OVERRIDES)}")
        if value is not None:
            clean[name] = _checked(name, value)
    return clean


def _checked(name: str, value: Any) -> Any:
    if name in ("leak", "threshold"):
        _require(_finite(value), name, value, "a number")
        return float(value)
    if name == "image_size":
        _require(isinstance(value, Integral) and not isinstance(value, bool), name, value, "a whole number of pixels")
        return int(value)
    if name in ("dataset", "encoding"):
        _require(isinstance(value, str) and 0 < len(value) <= 64 and value.isprintable(), name, value, "a name")
        return value
    numbers = tuple(value) if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) else ()
    plain = 1 <= len(numbers) <= 4096 and all(map(_finite, numbers))
    _require(plain, name, value, "a number for each channel")
    _require(name == "mean" or min(numbers) > 0, name, value, "above 0 for each channel")
    return tuple(map(float, numbers))


def _finite(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and abs(value) < 1e30


def _require(holds: bool, name: str, value: Any, wanted: str) -> None:
    if not holds:
        raise Refusal(f"{name} must be {wanted}, not {shown(value)}")


def settle(facts: Facts, overrides: dict[str, Any]) -> Settings:
    """Fill in everything: what the user set, else what the file says, else its name, else the likeliest."""
    settler = _Settler(facts, overrides)
    if facts.arch is None:
        settler.settle_stacks_alone()
    else:
        settler.settle_network()
    return Settings(settler.values, tuple(settler.notes))


class _Settler:
    def __init__(self, facts: Facts, overrides: dict[str, Any]):
        self.facts, self.overrides = facts, overrides
        self.hints = hints(facts.name)
        self.values: dict[str, Any] = {}
        self.notes: list[Note] = []

    def settle_network(self) -> None:
        facts = self.facts
        steps = self.hints.get("steps", facts.steps)
        if steps != facts.steps:
            self.notes.append(Note("steps", facts.steps, f"from the tensors; the file name says {steps}", False))
        nearest = self._nearest()
        self._choose_dataset(nearest)
        likely = DATASETS.get(self.values["dataset"]) or DATASETS[nearest]
        self._choose("image_size", *self._side(likely))
        self._choose("leak", *self._leak(likely))
        self._choose("threshold", 1.0, "the published code's value; not in the file", True)
        self._choose("encoding", "poisson", "the published code's encoding; not in the file", True)
        reason = f"the usual normalisation of {likely.title}; not in the file"
        if self.values["dataset"] == "cifar100":
            reason = "the published script normalises CIFAR-100 with CIFAR-10's values; not in the file"
        for name, moments in (("mean", likely.mean), ("std", likely.std)):
            self._choose(name, _fitted(moments, facts.channels), reason, True)
            if len(self.values[name]) != facts.channels:
                raise Refusal(f"{name} needs {facts.channels} values, one a channel, not {len(self.values[name])}")

    def settle_stacks_alone(self) -> None:
        """There is no network to set anything of; data set and normalisation are kept for what they tell."""
        dataset = self.hints.get("dataset")
        self._choose("dataset", dataset, "from the file name" if dataset else "not in the file", dataset is None)
        likely = DATASETS.get(self.values["dataset"])
        for name in ("mean", "std"):
            self.values[name] = self.overrides.get(name, getattr(likely, name) if likely else ())
        for name in self.overrides:
            if name != "dataset":
                reason = f"{BY_USER}; there is no network it could act on"
                self.notes.append(Note(name, self.overrides[name], reason, False))

    def _choose(self, name: str, value: Any, reason: str, guessed: bool) -> None:
        if name in self.overrides:
            value, reason, guessed = self.overrides[name], BY_USER, False
        elif name in self.facts.stated:
            value, reason, guessed = self.facts.stated[name], "from the file", False
        self.values[name] = value
        self.notes.append(Note(name, value, reason, guessed))

    def _nearest(self) -> str:
        facts, (low, high) = self.facts, self.facts.sides or (1, 4096)

        def distance(name: str):
            known = DATASETS[name]
            off = max(low - known.side, known.side - high, 0)
            return abs(known.channels - facts.channels), abs(math.log(known.classes / facts.classes)), off

        return min(DATASETS, key=distance)

    def _choose_dataset(self, nearest: str) -> None:
        facts, hint = self.facts, self.hints.get("dataset")
        if hint and (DATASETS[hint].channels, DATASETS[hint].classes) == (facts.channels, facts.classes):
            return self._choose("dataset", hint, "from the file name", False)
        known = DATASETS[nearest]
        exact = (known.channels, known.classes) == (facts.channels, facts.classes)
        what = f"{facts.channels} input channel{'s' * (facts.channels > 1)} and {facts.classes} classes"
        reason = f"the likeliest with {what}" if exact else f"the nearest to {what}"
        told = f"; the file name says {hint}, which the tensors are not for" if hint else "; not in the file"
        self._choose("dataset", nearest, reason + told, True)

    def _side(self, likely: DatasetFacts) -> tuple[int, str, bool]:
        if self.facts.sides is None:
            return likely.side, f"the side of {likely.title}'s images; not in the file", True
        low, high = self.facts.sides
        return (likely.side if low <= likely.side <= high else low), "from fc1.weight", False

    def _leak(self, likely: DatasetFacts) -> tuple[float, str, bool]:
        if "leak" in self.hints:
            return self.hints["leak"], "from the file name", False
        if likely.leak is not None and self.values["dataset"] in ("cifar10", "cifar100"):
            return likely.leak, f"the paper's value for {likely.title}; not in the file", True
        if likely.leak is not None:
            return likely.leak, f"the usual value for {likely.title}; not in the file", True
        return _ARCH_LEAK.get(self.facts.arch, 0.95), f"the usual value for {self.facts.arch}; not in the file", True


def _fitted(moments: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Grey is repeated and colours averaged, as images are when they are made to fit a network."""
    return moments if len(moments) == channels else (sum(moments) / len(moments),) * channels
