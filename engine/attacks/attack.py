"""What is done to an image, and which gradient an attacker follows to do it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..snn import TRAINED, SpikingNetwork, Surrogate

TARGETS = ("final", "average")


@dataclass(frozen=True)
class Kind:
    """One entry of KINDS.

    about: one sentence with the source. family: "noise" (no look at the network), "gradient", "black box" or "events".
    norm: in which `strength` is measured: "σ" (standard deviation), "L∞" (largest change of a pixel), "L2" (Euclidean
    length of the whole change), "share" (of a recording's events) or "frames". unit: of `strength`, for an axis.
    steps: how many there are unless asked otherwise, 0 where it has none.
    cost: forward passes for so many steps, a backward pass counted as two. sized: whether the size of a step is free.
    """

    label: str
    about: str
    family: str
    norm: str
    steps: int = 0
    cost: Callable[[int], int] = lambda steps: 3 * steps
    sized: bool = False


KINDS = {
    "gaussian": Kind("Gaussian noise", "Independent normal noise on every pixel.", "noise", "σ"),
    "uniform": Kind(
        "Uniform noise",
        "Every pixel moves by a random amount up to ε: the control that any attack of the same ε must beat.",
        "noise",
        "L∞",
    ),
    "fgsm": Kind(
        "FGSM",
        "Fast gradient sign method: one step of ε along the sign of the gradient (Goodfellow et al., arXiv 1412.6572).",
        "gradient",
        "L∞",
        cost=lambda steps: 3,
    ),
    "bim": Kind(
        "BIM",
        "Basic iterative method: several small sign steps from the image itself (Kurakin et al., arXiv 1607.02533).",
        "gradient",
        "L∞",
        10,
        sized=True,
    ),
    "mifgsm": Kind(
        "MI-FGSM",
        "BIM with a momentum of the gradient (Dong et al., arXiv 1710.06081).",
        "gradient",
        "L∞",
        10,
        sized=True,
    ),
    "pgd": Kind(
        "PGD",
        "Projected gradient descent: sign steps from a random point of the ball (Madry et al., arXiv 1706.06083).",
        "gradient",
        "L∞",
        10,
        sized=True,
    ),
    "pgdl2": Kind(
        "PGD L2",
        "PGD along the gradient itself, within a Euclidean ball (arXiv 1706.06083).",
        "gradient",
        "L2",
        10,
        sized=True,
    ),
    "apgd": Kind(
        "APGD",
        "PGD that chooses its own step size (Croce & Hein, arXiv 2003.01690).",
        "gradient",
        "L∞",
        10,
        cost=lambda steps: 3 * steps + 4,
    ),
    "eotpgd": Kind(
        "EOT-PGD",
        "PGD whose every step averages the gradient over two more random encodings (Liu et al., arXiv 1810.01279).",
        "gradient",
        "L∞",
        10,
        cost=lambda steps: 6 * steps,
        sized=True,
    ),
    "cw": Kind(
        "CW",
        "Carlini & Wagner: the smallest change that fools, by optimisation (arXiv 1608.04644), cut to the ball.",
        "gradient",
        "L2",
        50,
    ),
    "deepfool": Kind(
        "DeepFool",
        "The nearest decision boundary of the linearised network (Moosavi-Dezfooli et al., arXiv 1511.04599), cut to "
        "the ball.",
        "gradient",
        "L2",
        10,
        cost=lambda steps: 12 * steps,
    ),
    "square": Kind(
        "Square",
        "Random squares, kept when they help: a black box that sees scores alone (Andriushchenko et al., "
        "arXiv 1912.00049).",
        "black box",
        "L∞",
        200,
        cost=lambda steps: steps + 1,
    ),
    "autoattack": Kind(
        "AutoAttack",
        "A fixed suite without anything to tune (Croce & Hein, arXiv 2003.01690): for random encodings APGD on two "
        "losses, each step averaged over 20 draws; else APGD, targeted APGD, FAB and Square.",
        "gradient",
        "L∞",
        cost=lambda steps: 1500,
    ),
    "deletion": Kind("Event deletion", "Each event is lost with this probability.", "events", "share"),
    "insertion": Kind(
        "Event insertion", "So many random events come on top, as a share of the recording's own.", "events", "share"
    ),
    "jitter": Kind(
        "Event jitter", "Each event moves in time by a normal amount with this deviation.", "events", "frames"
    ),
}
FOLLOWING = [name for name, kind in KINDS.items() if kind.family in ("gradient", "black box")]


@dataclass(frozen=True)
class Attacker:
    """Which gradient an attack follows; what is evaluated afterwards is always the network itself.

    surrogate: ∂s/∂u of the backward pass. straight_through: whether the gradient of the rate code's expectation is
    passed, or the literal one, zero everywhere, with which no attack on a rate code moves. draws: random encodings whose
    class scores are averaged at each look at the network (expectation over transformation, Athalye et al.,
    arXiv 1802.00420); more than one is of use for the rate code alone. target: the scores that are to be wrong: "final",
    those at T, or "average", the mean over all exit steps, or an exit step t.
    Raises ValueError with one sentence.
    """

    surrogate: Surrogate = TRAINED
    straight_through: bool = True
    draws: int = 2
    target: str | int = "final"

    def __post_init__(self):
        if not 1 <= self.draws <= 64:
            raise ValueError(f"an attacker averages 1 to 64 encodings, not {self.draws!r}")
        if self.target not in TARGETS and not (isinstance(self.target, int) and self.target >= 1):
            raise ValueError(f"attacked scores {self.target!r} are not final, average or an exit step from 1")

    @property
    def label(self) -> str:
        """For people: "triangle of width 1, straight through the code, mean of 2 encodings, scores at T"."""
        width = f"{'adaptive ' if self.surrogate.adaptive else ''}width {self.surrogate.width:g}"
        code = "straight through the code" if self.straight_through else "literal (zero) gradient of the code"
        draws = f"mean of {self.draws} encodings" if self.draws > 1 else "one encoding"
        target = {"final": "scores at T", "average": "mean of all exits"}.get(
            self.target, f"scores at t = {self.target}"
        )
        return f"{self.surrogate.shape} of {width}, {code}, {draws}, {target}"

    def check(self, model: SpikingNetwork) -> None:
        """Raises ValueError where it cannot attack this network."""
        if isinstance(self.target, int) and self.target > model.config.steps:
            raise ValueError(
                f"the network has {model.config.steps} timesteps and cannot be attacked at t = {self.target}"
            )


@dataclass(frozen=True)
class Attack:
    """What is done to an image.

    kind: one of KINDS. strength: σ of Gaussian noise, or ε, the radius of the ball around the image in the kind's norm,
    in units where a pixel runs from 0 to 1; for events a share, or frames. 0 leaves the image alone. steps: None takes
    the kind's. step_size: None = 2.5·ε/steps (Madry et al.). attacker: the gradient that is followed, of no account to
    noise. Raises ValueError with one sentence for values that make no attack.
    """

    kind: str
    strength: float
    steps: int | None = None
    step_size: float | None = None
    attacker: Attacker = field(default_factory=Attacker)

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"attack {self.kind!r} is not one of {', '.join(KINDS)}")
        if self.steps == KINDS[self.kind].steps:
            object.__setattr__(self, "steps", None)  # one attack, one name under which it is found again
        if not 0 <= self.strength <= 1000:
            raise ValueError(f"strength {self.strength!r} must lie between 0 and 1000")
        if self.kind == "deletion" and self.strength > 1:
            raise ValueError(f"no more than all events can be deleted: {self.strength!r} is above 1")
        if self.steps is not None and not 1 <= self.steps <= 5000:
            raise ValueError(f"attack steps must be 1 to 5000, not {self.steps!r}")
        if self.step_size is not None and not 0 < self.step_size <= 1000:
            raise ValueError(f"step size {self.step_size!r} must be above 0 and at most 1000")

    @property
    def does(self) -> Kind:
        return KINDS[self.kind]

    @property
    def taken(self) -> int:
        """Steps (or queries) it takes."""
        return self.steps or self.does.steps

    @property
    def size(self) -> float:
        """Of one step, in units of `strength`."""
        return self.step_size or 2.5 * self.strength / max(1, self.taken)

    def passes(self, random: bool = True) -> int:
        """Forward passes it costs with the final look, a backward pass counted as two. random: whether the network's input
        is, so that the attacker's draws count."""
        if self.strength == 0 or self.kind not in FOLLOWING:
            return 1
        return 1 + self.does.cost(self.taken) * (self.attacker.draws if random else 1)

    @property
    def label(self) -> str:
        """For tables and legends: "FGSM ε = 8/255"."""
        return f"{self.does.label} {self.amount}" if self.strength else "clean"

    @property
    def amount(self) -> str:
        """The strength as it is written: "ε = 8/255"."""
        norm = self.does.norm
        if norm == "L∞":
            return f"ε = {self.strength * 255:.3g}/255"
        return f"{ {'σ': 'σ', 'L2': 'ε', 'share': 'share', 'frames': 'σ'}[norm] } = {self.strength:g}"


CLEAN = Attack("gaussian", 0.0)  # the images as they are
