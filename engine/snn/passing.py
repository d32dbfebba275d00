"""One way through all layers and timesteps, in an order that suits the memory.

A layer needs of the timesteps before only its membrane potentials after their reset, so time can be cut into pieces.
Without gradients their size is bounded, whatever T, unless every membrane is observed. With gradients all timesteps go
through a layer at once; where that would not fit into memory, pieces are computed again in the backward pass (activation
checkpointing over time). The statistics of tdBN are of all timesteps: while it is trained, nothing is cut.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from . import kernels
from .config import LayerSpec
from .layer import Affine, Scaling, fire, normalise, pool

if TYPE_CHECKING:
    from .network import SpikingNetwork

Shown = Callable[[int, int], Tensor]
Observer = Callable[[int, Tensor, Tensor], None]
PIECE_BYTES = {"cpu": 64 * 2**20, "cuda": 2**30}  # of the widest layer's output; measured: half or twice is slower
WINDOW = 4  # pieces of the widest layer that go through all layers before the next ones begin


class Pass:
    """A network made ready for `steps` timesteps: its weights in the precision and memory layout they are used in.

    observe, counts: as SpikingNetwork.forward_steps.
    """

    def __init__(
        self,
        network: SpikingNetwork,
        batch: int,
        steps: int,
        observe: Observer | None = None,
        counts: list[Tensor] | None = None,
    ):
        self._network, self._config, self._batch, self._steps = network, network.config, batch, steps
        self._observe, self._counts = observe, counts
        self._counted: dict[int, list[Tensor]] = {}  # layer by layer, in pieces of time
        self._dtype = torch.bfloat16 if network.precision == "bfloat16" else None
        self._layers = [(number, spec, self._weight(spec)) for number, spec in enumerate(self._config.layers())]
        self._fixed = None if network.training else self._fixed_norms()
        self._still: tuple[Tensor, Tensor] | None = (
            None  # an image shown at every timestep, and the first layer's answer
        )
        all_at_once = network.training and self._config.norm == "tdbn"  # its statistics are of all timesteps
        self._whole = all_at_once or observe is not None

    def answering(self, shown: Shown) -> Tensor:
        """W s_t of the read-out, [T, B, K], without gradients."""
        found, carried = [], {}
        widest = max(spec.neurons for _, spec, _ in self._layers)
        for start, stop in self._cut(0, self._steps, WINDOW * self._piece(widest)):
            x, given = None, shown
            for layers in self._sections():
                x = self._in_pieces(layers, given, start, stop, carried)
                given = lambda begin, end, x=x, start=start: x[begin - start : end - start]  # noqa: E731
            found.append(x)
        return self._finished(found[0] if len(found) == 1 else torch.cat(found))

    def _sections(self) -> list[list]:
        """The layers, cut after each pooling and before the linear ones: layers of about one width go together."""
        sections: list[list] = [[]]
        for layer in self._layers:
            if sections[-1] and (sections[-1][-1][1].pool or sections[-1][-1][1].kind != layer[1].kind):
                sections.append([])
            sections[-1].append(layer)
        return sections

    def learning(self, shown: Shown) -> Tensor:
        """The same for a backward pass to follow."""
        length = self._length()
        if length == self._steps:
            return self._finished(self._through(self._layers, shown(0, length), 0, length, {})[0])
        parts, carried = [], {}
        for start, stop in self._cut(0, self._steps, length):
            again = self._once_and_again()
            x, carried = checkpoint(again, shown, start, stop, carried, use_reentrant=False, preserve_rng_state=False)
            parts.append(x)
        return self._finished(torch.cat(parts))

    def kept_bytes(self) -> int:
        """About what a backward pass needs of all timesteps: of each neuron its current, its spike, perhaps its membrane.

        Of pooled neurons averages are kept instead of spikes.
        """
        wide = 4 if self._dtype is None else 2
        membrane = 4 * kernels.of(self._layers[0][2], learning=True).KEEPS_MEMBRANE
        averages = sum(spec.neurons for _, spec, _ in self._layers if spec.spiking and spec.pool)
        spikes = self._neurons() - averages + averages // 4
        return self._steps * self._batch * (self._neurons() * (membrane + wide) + spikes * wide)

    def kept_share(self) -> float:
        """What of kept_bytes is really kept, with the membrane potentials between pieces of time: 0 … 1."""
        return self._kept(self._length()) / self.kept_bytes()

    def _length(self) -> int:
        """How many timesteps a backward pass keeps at once: as many as the limit allows, or what keeps least."""
        limit = self._network.memory_limit
        if self._whole or limit is None:
            return self._steps
        within = [length for length in range(self._steps, 0, -1) if self._kept(length) <= limit]
        return within[0] if within else min(range(1, self._steps + 1), key=self._kept)

    def _kept(self, length: int) -> int:
        """Bytes kept in pieces of `length` timesteps: all of one piece, and the membrane potentials between pieces."""
        pieces = -(-self._steps // length)
        between = 4 * pieces * self._batch * self._neurons() if pieces > 1 else 0
        return self.kept_bytes() * length // self._steps + between

    def _neurons(self) -> int:
        return sum(spec.neurons for _, spec, _ in self._layers if spec.spiking)

    def _in_pieces(self, layers: list, shown: Shown, start: int, stop: int, carried: dict[int, Tensor]) -> Tensor:
        """Some layers at timesteps start + 1 … stop; `carried` is brought up to date."""
        found, widest = None, max(spec.neurons for _, spec, _ in layers)
        for begin, end in self._cut(start, stop, self._piece(widest)):
            x, after = self._through(layers, shown(begin, end), begin, end, carried)
            carried.update(after)
            if end - begin == stop - start:
                return x
            if found is None:
                rows = x.movedim(2, -1)  # channels last in memory, as x is
                found = rows.new_empty(stop - start, *rows.shape[1:]).movedim(-1, 2)
            found[begin - start : end - start] = x
        return found

    def _piece(self, neurons: int) -> int:
        """How many timesteps of a layer of so many neurons make a piece."""
        place = self._layers[0][2].device.type
        size = PIECE_BYTES["cuda" if place == "cuda" else "cpu"] // (4 * neurons * max(1, self._batch))
        return self._steps if self._whole else max(1, size)

    def _cut(self, start: int, stop: int, length: int) -> list[tuple[int, int]]:
        return [(begin, min(begin + length, stop)) for begin in range(start, stop, length)]

    def _once_and_again(self) -> Callable:
        """A piece of time; running statistics and counts are of the first time alone."""
        again = False

        def piece(shown: Shown, start: int, stop: int, carried: dict[int, Tensor]):
            nonlocal again
            first, again = not again, True
            return self._through(self._layers, shown(start, stop), start, stop, carried, first)

        return piece

    def _through(
        self, layers: list, x: Tensor, start: int, stop: int, carried: dict[int, Tensor], first: bool = True
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Some layers at timesteps start + 1 … stop, from membrane potentials to membrane potentials (by layer)."""
        after: dict[int, Tensor] = {}
        if layers[0][0] == 0 and first:
            self._seen(-1, x.expand(stop - start, *x.shape[1:]), None)
        for number, spec, weight in layers:
            current = self._weighed(number, spec, weight, x)
            if not spec.spiking:
                return current, after
            pooled = self._pools_spikes(spec, current)
            spikes, membrane, after[number] = self._fired(
                number, spec, current, start, stop, carried.get(number), first, pooled
            )
            if first:
                self._seen(number, spikes, membrane, 4 if pooled else 1)
            x = spikes if pooled else pool(spikes, spec.pool)
        return x, after

    def _pools_spikes(self, spec: LayerSpec, current: Tensor) -> bool:
        """Whether spikes are averaged as they are fired, without a pass of its own over all of them."""
        even = not any(side % 2 for side in current.shape[3:])
        return spec.pool == "P" and even and self._config.kind == "snn" and self._observe is None

    def _fired(
        self, number: int, spec: LayerSpec, current: Tensor, start: int, stop: int, carried, first: bool, pooled: bool
    ):
        """Spikes, the membrane if it is observed, and the membrane to go on from; of an ANN its activations."""
        config, norm = self._config, self._network.get_submodule(spec.norm_name)
        if self._fixed is None:
            scaling = norm.scaling(current, start, stop - start, config.threshold, first)
        else:
            scaling = self._fixed[number].piece(start, stop)
        if config.kind == "ann":
            activation = F.relu(normalise(current, scaling))
            return activation, activation, None
        fired = fire(
            current,
            scaling,
            config.leak,
            config.threshold,
            self._network.surrogate,
            carried=carried,
            dtype=self._dtype,
            keep_membrane=self._observe is not None,
            over=self._still is None or number > 0,
            pooled=pooled,
        )
        return fired.spikes, fired.membrane, fired.carried

    def _seen(self, number: int, spikes: Tensor, membrane: Tensor | None, each: int = 1) -> None:
        """each: how many neurons every element of `spikes` is the average of."""
        if self._observe is not None:
            self._observe(number, spikes, spikes if membrane is None else membrane)
        if self._counts is not None:
            self._counted.setdefault(number, []).append(self._count(number, spikes, each))

    def _count(self, number: int, spikes: Tensor, each: int) -> Tensor:
        """int64 [T, B]; spikes are summed, which is exact below 2^24 and faster than counting."""
        if number >= 0 and self._config.kind == "ann":
            return torch.zeros(spikes.shape[:2], dtype=torch.int64, device=spikes.device)
        if number < 0 and self._config.encoding != "events":
            return spikes.flatten(2).count_nonzero(2)
        return spikes.movedim(2, -1).flatten(2).sum(2, dtype=torch.float32).mul_(each).long()

    def _finished(self, x: Tensor) -> Tensor:
        if self._counts is not None:
            self._counts.extend(torch.cat(self._counted[number]) for number in sorted(self._counted))
        return x.to(torch.promote_types(x.dtype, torch.float32))

    def _weight(self, spec: LayerSpec) -> Tensor:
        weight = self._network.get_submodule(spec.name).weight
        layout = torch.channels_last if spec.kind == "conv" else torch.contiguous_format
        return weight.to(self._dtype or weight.dtype).contiguous(memory_format=layout)

    def _weighed(self, number: int, spec: LayerSpec, weight: Tensor, x: Tensor) -> Tensor:
        """One convolution or matrix product over [T·B, …], not T of them."""
        if self._still is not None and number == 0 and self._still[0] is x:
            return self._still[1]
        if spec.kind == "conv":
            flat = x.flatten(0, 1).to(weight.dtype).contiguous(memory_format=torch.channels_last)
            out = F.conv2d(flat, weight, padding=1)
        else:
            out = F.linear(x.flatten(2).flatten(0, 1).to(weight.dtype), weight)
        out = out.unflatten(0, x.shape[:2])
        if number == 0 and len(x) == 1 and not torch.is_grad_enabled():
            self._still = x, out
        return out

    def _fixed_norms(self) -> list[Scaling | Affine]:
        """Of every spiking layer, for all timesteps, of a network that is not being trained."""
        found = []
        for _, spec, weight in self._layers:
            if spec.spiking:
                norm = self._network.get_submodule(spec.norm_name)
                scaling = norm.scaling(weight, 0, self._steps, self._config.threshold)
                found.append(scaling if torch.is_grad_enabled() else Affine(*scaling.affine()))
        return found
