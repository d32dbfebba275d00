"""Memory stays bounded: measured as the growth of a process's largest resident size, by the operating system."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine import training
from engine.recipe import Recipe
from engine.snn import ModelConfig, build_model, passing

ROOT = Path(__file__).resolve().parents[2]
resource = pytest.importorskip("resource", reason="only Unix tells a process's largest size")

GROWTH = """
import resource, sys, torch
from engine import training
from engine.recipe import Recipe
from engine.analysis.evaluation import evaluate
from engine.snn import ModelConfig, build_model

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def evaluated(steps, count=2):
    # one norm for all timesteps: of BNTT the 8,000 modules alone would take most of the memory
    config = ModelConfig(arch="vgg-small", steps=steps, classes=10, in_shape=(1, 32, 32), norm="bn")
    pixels = torch.randint(256, (count, 1, 32, 32), dtype=torch.uint8)
    rows = torch.arange(count)
    evaluate(build_model(config), pixels, rows % 10, rows, (0.5,), (0.25,), seed=0)

def trained():
    # one batch as engine.training takes the last one of an epoch
    config = ModelConfig(arch="vgg11", steps=50, classes=200, in_shape=(3, 64, 64), leak=0.99)
    training.machine_memory = lambda: 24 * 10**9
    model, recipe = build_model(config).train(), Recipe(dataset="tiny-imagenet", batch=128)
    model.memory_limit = training.training_limit()
    model.precision = "bfloat16"
    optimizer, counts = training.build_optimizer(model, recipe), []
    scores = model.forward_steps(torch.randn(128, 3, 64, 64), seed=0, counts=counts)
    training.descend(model, optimizer, recipe, scores, torch.arange(128))
    assert len(counts) == len(config.layers())

evaluated(2)
before = peak()
exec(sys.argv[1])
print(peak() - before)
"""


def growth(work: str) -> int:
    done = subprocess.run([sys.executable, "-c", GROWTH, work], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(torch.cuda.is_available(), reason="memory of a GPU is not the process's")
def test_evaluation_of_many_timesteps_takes_no_more_memory_than_of_few():
    """16,384 neurons in the first layer: kept whole, a single sample's T = 8,000 would need 524 MB a tensor."""
    assert growth("evaluated(8000)") < 500e6


def test_no_batch_of_a_training_keeps_more_than_it_may(tmp_path, monkeypatch, cuts):
    """Not even the last one of an epoch, which counts spikes, too: as many as where nothing is computed again."""
    config = ModelConfig(arch="vgg-small", steps=4, in_shape=(1, 8, 8), layout="C4 P F8")
    recipe, rows = Recipe(epochs=1, batch=200), []
    needed = passing.Pass(build_model(config).train(), recipe.batch, config.steps).kept_bytes()
    for limit in (None, needed // 2):
        monkeypatch.setattr(training, "training_limit", lambda limit=limit: limit)
        training.train(config, recipe, tmp_path / str(limit), on_epoch=rows.append)
    batches = 1398 // recipe.batch  # of the digits
    assert len(cuts) >= 2 * batches and len(cuts) % batches == 0
    assert rows[0]["firing_rate"] == pytest.approx(rows[1]["firing_rate"], rel=1e-3)
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_vgg11_with_50_timesteps_and_batches_of_128_trains_within_24_gb():
    assert growth("trained()") < 22e9


@pytest.mark.skipif(torch.cuda.is_available(), reason="each process has a GPU of its own")
def test_processes_that_share_a_machine_share_its_memory(monkeypatch):
    monkeypatch.delenv("BNTT_WORKERS", raising=False)
    monkeypatch.setattr(training, "machine_memory", lambda: 24_000)
    assert training.training_limit() == 12_000
    monkeypatch.setenv("BNTT_WORKERS", "2")
    assert training.training_limit() == 6_000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert training.training_limit() == 3_000
    monkeypatch.setattr(training, "machine_memory", lambda: None)
    assert training.training_limit() is None
