"""Noise and attacks on the image in [0, 1], before normalisation and encoding."""

from .attack import CLEAN, FOLLOWING, KINDS, Attack, Attacker, Kind
from .perturb import check, inside, perturb
from .victim import Victim

__all__ = [
    "CLEAN",
    "FOLLOWING",
    "KINDS",
    "Attack",
    "Attacker",
    "Kind",
    "Victim",
    "check",
    "inside",
    "perturb",
]
