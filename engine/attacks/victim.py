"""The network as an attacker meets it: images in [0, 1] in, class scores out, a fresh random encoding at every look."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..analysis.evaluation import normalised
from ..device import device
from ..snn import SpikingNetwork
from ..snn.encoding import sample_keys
from .attack import Attacker

_DRAW = 1 << 32  # apart from the next draw in the upper half of a sample's number


class Victim(nn.Module):
    """What torchattacks is given for a model.

    Takes images [N, C, H, W] in [0, 1]; of events frames [N, T·2, H, W], counts/255. The random encoding depends on the
    seed, on how often it was asked before and on the image's own pixels, not on what else is in the batch.
    """

    def __init__(self, model: SpikingNetwork, mean, std, attacker: Attacker, seed: int):
        super().__init__()
        attacker.check(model)
        # A copy of its own: the caller's gradient stays as it is, and for weights that get none nothing is kept.
        self.model = copy.deepcopy(model.to(device())).requires_grad_(False)
        self.model.surrogate, self.model.straight_through = attacker.surrogate, attacker.straight_through
        self.mean, self.std, self.attacker = mean, std, attacker
        self.random = model.config.random_input
        self.next_seed = (seed + 1) << 20  # far from the seeds of evaluation
        self.eval()  # torchattacks puts a model back into the mode it found it in

    def forward(self, images: Tensor) -> Tensor:
        """Class scores [N, K] that are to become wrong: the mean of the attacker's draws at its target."""
        self.next_seed += 1
        config, draws = self.model.config, self.attacker.draws if self.random else 1
        if config.encoding == "events":
            images = images.unflatten(1, (config.steps, 2))
        shown = normalised(images.repeat(draws, *[1] * (images.dim() - 1)), self.mean, self.std)
        scores = self.model.forward_steps(shown, seed=self.next_seed, samples=self._samples(images, draws))
        return self._target(scores).unflatten(0, (draws, -1)).mean(0)

    def _samples(self, images: Tensor, draws: int) -> Tensor | None:
        if not self.random:
            return None
        keys = sample_keys(images)
        return torch.cat([keys + draw * _DRAW for draw in range(draws)])

    def _target(self, scores: Tensor) -> Tensor:
        """[T, N, K] → [N, K]."""
        if self.attacker.target == "average":
            return scores.mean(0)
        return scores[-1 if self.attacker.target == "final" else self.attacker.target - 1]
