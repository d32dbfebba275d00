"""Which attack is strongest on the bundled network: the default must not flatter it."""

import pytest

from engine import bundled, load_checkpoint
from engine.analysis.evaluation import join
from engine.analysis.robustness import attack_rows, sweep_parts, sweep_table
from engine.attacks import FOLLOWING, Attack
from engine.datasets import get

EPS = 8 / 255
ENCODINGS = 3


@pytest.fixture(scope="module")
def accuracy():
    """accuracy(kind): of all 399 test digits in three encodings under this attack with its default settings."""
    checkpoint, (pixels, labels) = load_checkpoint(bundled.path("digits")), get("digits").load("test")
    shared = {"model": checkpoint.model, "mean": checkpoint.mean, "std": checkpoint.std, "seed": 0}
    shared |= {"pixels": pixels, "labels": labels, "encodings": ENCODINGS}
    known = {}

    def measure(kind: str) -> float:
        if kind not in known:
            parts = sweep_parts(checkpoint.config, [Attack(kind, EPS)], len(labels), ENCODINGS)
            found = join([attack_rows(*part, **shared) for part in parts])
            known[kind] = sweep_table([(parts[0][0], found)], ENCODINGS)["accuracy"].iloc[-1]
        return known[kind]

    return measure


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", [kind for kind in FOLLOWING if kind not in ("pgd", "autoattack")])
def test_pgd_is_at_least_as_strong_as(kind, accuracy):
    """On the same samples; AutoAttack may be stronger."""
    assert accuracy("pgd") <= accuracy(kind)
