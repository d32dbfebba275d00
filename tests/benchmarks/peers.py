"""What the engine is measured against: a plain loop over timesteps, and SpikingJelly.

Both compute what a given network computes, with its weights, and give class scores [B, K] after T timesteps. Both encode
with torch's own random numbers and pass the gradient of the expectation straight through, as the engine does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.snn import SpikingNetwork
from engine.snn.norm import EPS, MOMENTUM

SPIKINGJELLY = ("spikingjelly==2.0.0", "loguru==0.7.3")  # installed without their dependencies: torchvision is one


def rate_coded(images: Tensor, steps: int) -> Tensor:
    """Signed random spikes, [T, B, C, H, W]: the published PoissonGen for all timesteps, with a straight-through gradient."""
    draw = torch.rand(steps, *images.shape, device=images.device)
    spikes = (2.0 * draw <= images.detach().abs()).to(images.dtype) * images.detach().sign()
    if not images.requires_grad:
        return spikes
    expected = images.clamp(-2.0, 2.0) / 2.0
    return spikes + (expected - expected.detach())


class _Fire(torch.autograd.Function):
    """1[v > 0] with the triangle 0.3·max(0, 1 − |v|) as its derivative, as in the published code."""

    @staticmethod
    def forward(ctx, distance: Tensor) -> Tensor:
        ctx.save_for_backward(distance)
        return (distance > 0).to(distance.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (distance,) = ctx.saved_tensors
        return gradient * 0.3 * F.threshold(1.0 - distance.abs(), 0.0, 0.0)


def _norms(model: SpikingNetwork, name: str, kind: type[nn.Module]) -> list[nn.Module]:
    """One of torch's BatchNorms for each timestep, without β, holding copies of the network's tensors."""
    found = []
    for step in model.get_submodule(name):
        norm = kind(len(step.weight), eps=EPS, momentum=MOMENTUM)
        norm.bias = None
        norm.load_state_dict(step.state_dict())
        found.append(norm)
    return found


def _weigher(model: SpikingNetwork, spec) -> nn.Module:
    """A convolution or linear layer with a copy of the network's weight."""
    own = model.get_submodule(spec.name)
    layer = (
        nn.Conv2d(own.in_channels, own.out_channels, 3, padding=1, bias=False)
        if spec.kind == "conv"
        else nn.Linear(own.in_features, own.out_features, bias=False)
    )
    layer.load_state_dict(own.state_dict())
    return layer


class PlainLoop(nn.Module):
    """One convolution, one norm, one membrane, one reset for each timestep and layer, as the published code does it."""

    def __init__(self, model: SpikingNetwork):
        super().__init__()
        self.config = model.config
        self.specs = model.config.layers()
        self.weigh = nn.ModuleList(_weigher(model, spec) for spec in self.specs)
        self.norms = nn.ModuleList(
            nn.ModuleList(_norms(model, s.norm_name, nn.BatchNorm2d if s.kind == "conv" else nn.BatchNorm1d))
            for s in model.config.hidden_layers()
        )

    def forward(self, x: Tensor, seen: list | None = None) -> Tensor:
        """x: normalised images [B, C, H, W], or spikes [T, B, C, H, W]. seen: gets the spikes of layer l at t, in order."""
        config, given = self.config, x.dim() == 5
        membranes: list = [0.0] * len(self.norms)
        total = 0.0
        for t in range(config.steps):
            s = x[t] if given else rate_coded(x, 1)[0]
            for index, spec in enumerate(self.specs):
                current = self.weigh[index](s if spec.kind == "conv" else s.flatten(1))
                if not spec.spiking:
                    total = total + current
                    break
                membranes[index] = config.leak * membranes[index] + self.norms[index][t](current)
                s = _Fire.apply(membranes[index] / config.threshold - 1.0)
                membranes[index] = membranes[index] - config.threshold * s.detach()
                if seen is not None:
                    seen.append(s)
                s = F.avg_pool2d(s, 2) if spec.pool == "P" else s.mean((2, 3)) if spec.pool == "G" else s
        return total / config.steps


class Jelly(nn.Module):
    """The same network of SpikingJelly's layers in multi-step mode, each neuron with the fastest backend of its device.

    Its surrogate gradient is the same triangle without the factor 0.3.
    """

    def __init__(self, model: SpikingNetwork):
        super().__init__()
        from spikingjelly.activation_based import layer, neuron, surrogate

        config = self.config = model.config
        parts: list[nn.Module] = []
        for spec in config.layers():
            if spec.kind == "linear" and not any(isinstance(part, layer.Flatten) for part in parts):
                parts.append(layer.Flatten(step_mode="m"))
            own = model.get_submodule(spec.name)
            weigh = (
                layer.Conv2d(own.in_channels, own.out_channels, 3, padding=1, bias=False, step_mode="m")
                if spec.kind == "conv"
                else layer.Linear(own.in_features, own.out_features, bias=False, step_mode="m")
            )
            weigh.load_state_dict(own.state_dict())
            parts.append(weigh)
            if not spec.spiking:
                break
            through = layer.BatchNormThroughTime2d if spec.kind == "conv" else layer.BatchNormThroughTime1d
            norm = through(config.steps, spec.out_shape[0], eps=EPS, momentum=MOMENTUM, step_mode="m")
            for own, theirs in zip(model.get_submodule(spec.norm_name), norm.bn_list):
                theirs.load_state_dict(own.state_dict())
            parts.append(norm)
            parts.append(
                neuron.LIFNode(
                    tau=1.0 / (1.0 - config.leak),
                    decay_input=False,
                    v_threshold=config.threshold,
                    v_reset=None,
                    surrogate_function=surrogate.PiecewiseQuadratic(alpha=1.0),
                    detach_reset=True,
                    step_mode="m",
                )
            )
            if spec.pool:
                parts.append(
                    {"P": layer.AvgPool2d(2, step_mode="m"), "G": layer.AdaptiveAvgPool2d(1, step_mode="m")}[spec.pool]
                )
        self.layers = nn.Sequential(*parts)

    def forward(self, x: Tensor, seen: list | None = None) -> Tensor:
        """As PlainLoop.forward; `seen` gets [T, B, …] of each layer."""
        from spikingjelly.activation_based import functional, neuron

        x = x if x.dim() == 5 else rate_coded(x, self.config.steps)
        for part in self.layers:
            x = part(x)
            if seen is not None and isinstance(part, neuron.LIFNode):
                seen.append(x)
        functional.reset_net(self)
        return x.mean(0)


class Bare(nn.Module):
    """The convolutions and matrix products of a network alone, over all timesteps at once, channels last: the floor.

    On a CPU in pieces of time, which is faster there. one_pass: with the least that norm, membrane and spikes cost beside
    them as long as no kernel joins them to the convolution: each current read and a spike written, once, and in a backward
    pass the gradient of each spike read and that of the current written.
    """

    PIECE_BYTES = 64 * 2**20

    def __init__(self, model: SpikingNetwork, one_pass: bool = False):
        super().__init__()
        self.config, self._one_pass = model.config, one_pass
        self.weights = nn.ParameterList(
            model.get_submodule(spec.name).weight.detach() for spec in model.config.layers()
        )

    def work(self, task: str, precision: str, batch: int, attack_steps: int) -> Callable[[], None]:
        """Each layer forwards; for a training backwards to input and weight, for an attack to the input alone."""
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        steps = [self._layer(n, spec, task, dtype, batch) for n, spec in enumerate(self.config.layers())]

        def run():
            for _ in range(attack_steps if task == "pgd" else 1):
                for step in steps:
                    step()

        return run

    def _layer(self, number: int, spec, task: str, dtype: torch.dtype, batch: int) -> Callable[[], None]:
        total, place = self.config.steps * batch, self.weights[number].device
        rows = total
        if place.type == "cpu" and spec.kind == "conv":
            rows = min(total, max(batch, self.PIECE_BYTES // (4 * spec.neurons)))
            rows = -(-total // -(-total // rows))  # pieces of one size
        weight = self.weights[number].detach().to(dtype).requires_grad_(task == "training")
        x = torch.rand(rows, *spec.in_shape, dtype=dtype, device=place)
        if spec.kind == "conv":
            x, weight = (one.contiguous(memory_format=torch.channels_last) for one in (x, weight.detach()))
            weight.requires_grad_(task == "training")
        x = x if spec.kind == "conv" else x.flatten(1)
        x.requires_grad_(task == "pgd" or task == "training" and number > 0)
        inputs = [one for one in (x, weight) if one.requires_grad]
        one_pass = self._one_pass and spec.spiking
        pull = None

        def run():
            nonlocal pull
            for _ in range(0, total, rows):
                out = F.conv2d(x, weight, padding=1) if spec.kind == "conv" else F.linear(x, weight)
                pull = torch.ones_like(out) if pull is None else pull
                if one_pass:
                    torch.gt(out.detach(), 1.0, out=torch.empty_like(out, requires_grad=False))
                if inputs:
                    torch.autograd.grad(out, inputs, 0.5 * pull if one_pass else pull)

        return run
