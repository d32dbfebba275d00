"""One object that says everything about a network; every other module builds from it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

# C<n>: 3×3 convolution + norm + LIF.  P: 2×2 average pool.  G: global average pool.  F<n>: linear + norm + LIF.
# The read-out (linear, no norm, no spike) always follows and is not written.
LAYOUTS = {
    "vgg9": "C64 C64 P C128 C128 P C256 C256 C256 P F1024",
    "vgg11": "C64 P C128 P C256 C256 P C512 C512 P C512 C512 G F4096",
    "vgg-small": "C16 C16 P C32 C32 P F128",
    "cnn7": "C64 P C128 P C128 P C256 P C256 P F512",
    "mlp": "F256 F256",
}
INPUT_LIMIT = 2**20  # values of an image, such as 3×512×512
SAMPLE_LIMIT = 2**30  # bytes of one sample's membrane potentials in the widest layer, over all timesteps
WEIGHT_LIMIT = 2**32  # bytes of all weights
KINDS = {
    "snn": "spiking network, trained as one",
    "ann": "ordinary network: ReLU, one pass, no spikes",
    "converted": "spiking network made from a trained ordinary one",
}
NORMS = {
    "bntt": "BNTT: statistics and γ of their own for each timestep",
    "bn": "one BatchNorm, applied at each timestep",
    "tdbn": "tdBN: one BatchNorm over batch and time together, scaled by θ",
    "none": "no normalisation",
    "folded": "a fixed scale and bias per channel, folded in by the conversion",
}
ENCODINGS = {
    "poisson": "signed random spikes at a rate given by each pixel",
    "direct": "the image as current at every timestep",
    "rows": "one row of the image at each timestep, as current",
    "pixels": "one pixel of the image at each timestep, as current",
    "events": "events of a camera, counted in T frames",
}
_RUNNING = ("running_mean", "running_var", "num_batches_tracked")
_NORM_TENSORS = {
    "bntt": ("weight", *_RUNNING),  # of each timestep
    "bn": ("weight", "bias", *_RUNNING),
    "tdbn": ("weight", "bias", *_RUNNING),
    "none": (),
    "folded": ("weight", "bias"),
}
_NORMS_OF = {"snn": ("bntt", "bn", "tdbn", "none"), "ann": ("bn", "none"), "converted": ("folded",)}


@dataclass(frozen=True)
class LayerSpec:
    """One weight layer. Shapes exclude the batch: (C, H, W) for a convolution, (N,) for a linear layer."""

    name: str  # the published name: conv1…, fc1…
    kind: str  # "conv" or "linear"
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    pool: str = ""  # what happens to the spikes afterwards: "", "P" (2×2 average) or "G" (global average)
    spiking: bool = True  # False for the read-out
    norm: str = "bntt"  # of the network, one of NORMS

    @property
    def norm_name(self) -> str:
        """Name of its BNTT stack in a published file: conv3 → bntt3, fc1 → bntt_fc, fc2 → bntt_fc2.

        Norms of another kind, which no published file has, are called norm3, norm_fc, norm_fc2.
        """
        number = self.name.removeprefix("conv").removeprefix("fc")
        prefix = "bntt" if self.norm == "bntt" else "norm"
        return f"{prefix}{number}" if self.kind == "conv" else f"{prefix}_fc{'' if number == '1' else number}"

    @property
    def weight_shape(self) -> tuple[int, ...]:
        if self.kind == "conv":
            return (self.out_shape[0], self.in_shape[0], 3, 3)
        return (self.out_shape[0], math.prod(self.in_shape))

    @property
    def neurons(self) -> int:
        return math.prod(self.out_shape)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one dense pass, image borders counted as full 3×3 windows."""
        if self.kind == "conv":
            return self.neurons * self.in_shape[0] * 9
        return math.prod(self.weight_shape)


@dataclass(frozen=True)
class ModelConfig:
    """Everything that defines a network except its weights.

    arch: a name in LAYOUTS. layout overrides its layers (same letters). steps: T ≥ 1; 1 for kind "ann", and as many as
    the image has rows or pixels where these are the timesteps. in_shape: (C, H, W). leak: λ in [0, 1]. threshold:
    θ > 0. norm: one of NORMS. encoding: one of ENCODINGS. kind: one of KINDS; "ann" uses neither λ nor θ.
    Raises ValueError with one plain sentence when a value makes no network.
    """

    arch: str = "vgg9"
    steps: int = 25
    classes: int = 10
    in_shape: tuple[int, int, int] = (3, 32, 32)
    leak: float = 0.95
    threshold: float = 1.0
    norm: str = "bntt"
    encoding: str = "poisson"
    layout: str | None = None
    kind: str = "snn"

    def __post_init__(self):
        object.__setattr__(self, "in_shape", tuple(self.in_shape))
        object.__setattr__(self, "leak", float(self.leak))
        object.__setattr__(self, "threshold", float(self.threshold))
        for name, value, known in (
            ("architecture", self.arch, LAYOUTS),
            ("kind", self.kind, KINDS),
            ("norm", self.norm, NORMS),
            ("encoding", self.encoding, ENCODINGS),
        ):
            self._require(value in known, f"{name} {value!r} is not one of {', '.join(known)}")
        self._require(_whole(self.steps) and 1 <= self.steps <= 10_000, f"steps must be 1 to 10000, not {self.steps!r}")
        self._require(
            _whole(self.classes) and 2 <= self.classes <= 1_000_000, f"classes must be 2 or more, not {self.classes!r}"
        )
        self._require(
            len(self.in_shape) == 3 and all(_whole(n) and 1 <= n <= 4096 for n in self.in_shape),
            f"in_shape must be (channels, height, width), each 1 to 4096, not {self.in_shape!r}",
        )
        self._require(0.0 <= self.leak <= 1.0, f"leak λ must lie between 0 and 1, not {self.leak!r}")
        self._require(0.0 < self.threshold < math.inf, f"threshold θ must be above 0, not {self.threshold!r}")
        self._check_kind()
        self._check_sizes()

    def _check_kind(self):
        allowed = _NORMS_OF[self.kind]
        self._require(
            self.norm in allowed, f"a network of kind {self.kind} has norm {' or '.join(allowed)}, not {self.norm}"
        )
        if self.kind == "ann":
            self._require(
                self.encoding in ("direct", "events") and self.steps == 1,
                "an ANN takes the image itself, or all events in one frame, in one step: "
                f"encoding direct or events and 1 step, not {self.encoding} and {self.steps}",
            )
        needed = sequence_steps(self.encoding, self.in_shape)
        self._require(
            needed is None or self.steps == needed,
            f"images of {self.in_shape[1]}×{self.in_shape[2]} have {needed} {self.encoding}, so steps must be {needed}, "
            f"not {self.steps}",
        )

    def _check_sizes(self):
        self._require(
            math.prod(self.in_shape) <= INPUT_LIMIT,
            f"images of {'×'.join(map(str, self.in_shape))} have more than {INPUT_LIMIT:,} values",
        )
        weights = 4 * sum(math.prod(spec.weight_shape) for spec in self.layers())
        self._require(
            weights <= WEIGHT_LIMIT,
            f"the weights would need {weights / 2**30:.1f} GiB; at most {WEIGHT_LIMIT / 2**30:g} GiB are allowed",
        )
        widest = max(math.prod(self.in_shape), *(spec.neurons for spec in self.layers()))
        self._require(
            4 * self.steps * widest <= SAMPLE_LIMIT,
            f"one sample would need {4 * self.steps * widest / 2**30:.1f} GiB in the widest layer; "
            f"at most {SAMPLE_LIMIT / 2**30:g} GiB are allowed",
        )

    @property
    def step_shape(self) -> tuple[int, int, int]:
        """What the first layer gets at one timestep: (C, H, W), a row (C, 1, W) or a pixel (C, 1, 1)."""
        channels, height, width = self.in_shape
        return {"rows": (channels, 1, width), "pixels": (channels, 1, 1)}.get(self.encoding, (channels, height, width))

    @property
    def random_input(self) -> bool:
        """Whether the input's spikes are drawn at random, so that another seed may give another answer."""
        return self.encoding == "poisson"

    @property
    def analog_input(self) -> bool:
        """Whether the first layer gets real numbers, so that it has to multiply, instead of spikes."""
        return self.encoding in ("direct", "rows", "pixels")

    @staticmethod
    def _require(holds: bool, sentence: str):
        if not holds:
            raise ValueError(sentence)

    def layers(self) -> tuple[LayerSpec, ...]:
        """The weight layers in order, read-out last. Raises ValueError for a layout that does not fit in_shape."""
        specs: list[LayerSpec] = []
        shape: tuple[int, ...] = self.step_shape
        convs = linears = 0
        for token in (LAYOUTS[self.arch] if self.layout is None else self.layout).split():
            letter, number = token[:1], token[1:]
            if letter in "PG" and not number:
                self._require(
                    bool(specs) and specs[-1].kind == "conv" and not specs[-1].pool, f"no convolution before {token}"
                )
                shape = self._pooled(shape, letter)
                specs[-1] = LayerSpec(**{**vars(specs[-1]), "pool": letter})
            elif letter in "CF" and number.isascii() and number.isdigit() and 1 <= int(number) <= 65536:
                width = int(number)
                if letter == "C":
                    self._require(len(shape) == 3, "a convolution cannot follow a linear layer")
                    convs += 1
                    out = (width, *shape[1:])
                    specs.append(LayerSpec(f"conv{convs}", "conv", shape, out, norm=self.norm))
                else:
                    linears += 1
                    out = (width,)
                    specs.append(LayerSpec(f"fc{linears}", "linear", shape, out, norm=self.norm))
                shape = out
            else:
                raise ValueError(
                    f"layer {token!r} is not C<n> (convolution), F<n> (linear), P (pool) or G (global pool)"
                )
        self._require(bool(specs), "the layout has no layers")
        specs.append(LayerSpec(f"fc{linears + 1}", "linear", shape, (self.classes,), spiking=False))
        return tuple(specs)

    def _pooled(self, shape, letter):
        if letter == "G":
            return (shape[0], 1, 1)
        self._require(
            min(shape[1:]) >= 2,
            f"inputs of {self.step_shape[1]}×{self.step_shape[2]} are too small for {self.arch}: "
            f"a pool meets {shape[1]}×{shape[2]}"
            + ("; arch mlp suits a sequence" if self.encoding in ("rows", "pixels") else ""),
        )
        return (shape[0], shape[1] // 2, shape[2] // 2)

    def hidden_layers(self) -> tuple[LayerSpec, ...]:
        """The spiking layers, in order."""
        return self.layers()[:-1]

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the network's state_dict, named as in a published file, with its shape."""
        shapes: dict[str, tuple[int, ...]] = {}
        parts = _NORM_TENSORS[self.norm]
        for spec in self.layers():
            shapes[f"{spec.name}.weight"] = spec.weight_shape
            if spec.spiking:
                for place in (f"{t}." for t in range(self.steps)) if self.norm == "bntt" else ("",):
                    for part in parts:
                        counter = part == "num_batches_tracked"
                        shapes[f"{spec.norm_name}.{place}{part}"] = () if counter else (spec.out_shape[0],)
        return shapes

    def to_dict(self) -> dict:
        """Plain JSON values; from_dict gives the same configuration back."""
        return {**asdict(self), "in_shape": list(self.in_shape)}

    @classmethod
    def from_dict(cls, values: dict) -> ModelConfig:
        """Inverse of to_dict. Raises ValueError for anything that is not a configuration."""
        if not isinstance(values, dict):
            raise ValueError("the configuration is not a table of names and values")
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"the configuration has unknown entries: {', '.join(sorted(map(str, unknown)))}")
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"the configuration has a value of the wrong kind ({error})") from None


def sequence_steps(encoding: str, in_shape: tuple[int, int, int]) -> int | None:
    """T of a network that is shown an image (C, H, W) piece by piece: its rows or its pixels; None for other codings."""
    return {"rows": in_shape[1], "pixels": in_shape[1] * in_shape[2]}.get(encoding)


def _whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
