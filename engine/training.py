"""Training: one readable loop.

Every random number is a function of (seed, epoch, sample), so a run that was stopped and resumed ends with the weights
of one that never stopped.

Under torchrun several processes train one network (engine.parallel). A batch is that of all together, of which each
works on its rows; batch statistics, loss and gradients are those of the whole batch, and random numbers those of the
sample. So the run is that of one process with this batch, but for the rounding of sums. The main process alone writes.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import parallel
from .analysis.evaluation import chunk_size, evaluate, join, normalised
from .checkpoint import load_checkpoint
from .cluster import WORKERS
from .datasets import DataError, DataSet, fit, get
from .device import device, machine_memory
from .recipe import Recipe, learning_rate
from .reports import NoReports, Reports
from .runs import OpenRun, TrainingError, computing_on, open_run, save_epoch, save_result
from .snn import ModelConfig, SpikingNetwork, build_model

OnBatch = Callable[[int, int, float], None]
OnPart = Callable[[int, int], None]


class EpochSeen(NamedTuple):
    """What one pass over the training images showed. loss: mean of its batches. accuracy: at every exit step, of the
    network as it was at each batch. firing_rate: as in _rates, of the last batch.
    """

    loss: float
    accuracy: list[float]
    firing_rate: dict[str, float]


def train(
    config: ModelConfig,
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    on_batch: OnBatch = lambda epoch, step, loss: None,
    on_epoch: Callable[[dict], None] = lambda row: None,
    command: str = "",
    threads: int | None = None,
    on_trained: Callable[[OnPart], dict] | None = None,
) -> SpikingNetwork:
    """Train a network into the folder `out` (see engine.runs) and return the one kept there, in evaluation mode.

    on_batch(epoch from 1, batches done in it, loss) and on_epoch(the row of metrics.jsonl) report progress. threads:
    how many torch computes on; None = as many as it does now, or as a run that is resumed began with.
    on_trained(report) measures the network that was kept, while no other process may train here; what it returns
    becomes result.json, and it tells its own progress by report(samples done, of how many).
    Raises TrainingError when `out` holds a run and resume is False, when there is nothing to resume or it is another
    run, when another process trains there, and when the loss stops being a number (the last good epoch stays on disk);
    DataError when the data set is not there or damaged.

    Of several processes (see the module) only the main one looks at `out`, calls the functions and gets the network
    that was kept; what one raises ends all of them.
    """
    out, main = Path(out), parallel.is_main()
    with parallel.together():
        data = get(recipe.dataset, paths=True)
        if missing := data.missing():
            raise DataError(missing)
        if recipe.batch % parallel.world():
            raise TrainingError(f"{parallel.world()} processes cannot share a batch of {recipe.batch} samples equally")
    with _opened(out, config, recipe, resume=resume, command=command, threads=threads) as run:
        with Reports(run, recipe, on_batch) if main else nullcontext(NoReports()) as reports:
            model = _train(run, config, recipe, data, reports, on_epoch)
            if on_trained is not None and main:
                save_result(run, on_trained(reports.tested))
    if recipe.validation and main:
        return load_checkpoint(out / "model.safetensors").model.to(device())
    return model.eval()


@contextmanager
def _opened(out: Path, config: ModelConfig, recipe: Recipe, **options) -> Iterator[OpenRun]:
    """open_run by the main process; the others begin from what it found there, and compute on as many threads."""
    with ExitStack() as stack:
        run = None
        with parallel.together():
            if parallel.is_main():
                run = stack.enter_context(open_run(out, config, recipe, **options))
        run, threads = parallel.broadcast((run, torch.get_num_threads()))
        with computing_on(threads), parallel.watched():
            yield run


def _train(
    run: OpenRun, config: ModelConfig, recipe: Recipe, data: DataSet, reports: Reports | NoReports, on_epoch
) -> SpikingNetwork:
    """The epochs that a run still lacks; the network after the last."""
    with parallel.together():
        pixels, labels = _resident(*data.load("train", steps=config.steps, side=config.in_shape[1]))
    rows, held_out = _split(len(pixels), recipe)
    torch.manual_seed(recipe.seed)
    model = build_model(config)
    if run.state:
        model.load_state_dict(run.state["model"])
    model.to(device()).precision = recipe.precision
    model.memory_limit = parallel.broadcast(training_limit())  # all processes must cut time alike
    optimizer = build_optimizer(model, recipe)
    if run.state:
        optimizer.load_state_dict(run.state["optimizer"])
    forward = parallel.forward_steps(model)
    best = {"best_epoch": 0, "best_accuracy": -1.0}
    best |= {name: value for name, value in (run.state or {}).items() if name in best}

    for epoch in range(run.done + 1, recipe.epochs + 1):
        if recipe.patience and epoch - 1 - best["best_epoch"] >= recipe.patience:
            break
        reports.begin(epoch, len(rows) // _batch(recipe, rows))
        started = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, epoch)
        seen = _epoch(model, forward, optimizer, recipe, data, pixels, labels, rows, epoch, reports.batch)
        _require_finite(model, recipe, epoch)
        found = {
            "epoch": epoch,
            "loss": seen.loss,
            "train_accuracy": seen.accuracy[-1],
            "train_accuracy_steps": seen.accuracy,
            "lr": learning_rate(recipe, epoch),
            "gamma": _mean_gamma(model),
            "firing_rate": seen.firing_rate,
            **_validated(model, recipe, data, pixels, labels, held_out, reports.validated),
            "seconds": round(time.perf_counter() - started, 2),
        }
        row = parallel.broadcast(found)  # judged once, for all
        judged = row["validation_accuracy"][-1] if len(held_out) else 0.0
        if not len(held_out) or judged > best["best_accuracy"]:
            best = {"best_epoch": epoch, "best_accuracy": judged}
        with parallel.together():
            if parallel.is_main():
                reports.epoch(row)
                save_epoch(run, model, optimizer, data, recipe, row, best)
                on_epoch(row)
    return model


def training_limit() -> int | None:
    """What the backward pass may keep of neurons, in bytes: half of the memory, as weights, gradients and workspaces need
    theirs. Of all memory, not of what is free: a run that is resumed must be cut in time as before. On CPUs the processes
    that torchrun started share it, and so do the app's workers, each of which is killed where it takes more than its part.
    """
    memory = machine_memory()
    if memory is None or device().type == "cuda":
        return memory and memory // 2
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get(WORKERS) or 1)
    return memory // (2 * sharing)


def _split(count: int, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows held out, each sorted; drawn once a run, by its seed."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(recipe.seed))
    held_out = round(recipe.validation * count)
    return order[held_out:].sort().values, order[:held_out].sort().values


def _validated(model: SpikingNetwork, recipe: Recipe, data: DataSet, pixels, labels, held_out: Tensor, on_part: OnPart):
    """validation_accuracy at every exit step and firing_rate of the validation samples; {} without.

    on_part(samples done, of how many) reports progress.
    """
    if not len(held_out):
        return {}
    config, moments = model.config, data.moments(model.config.in_shape[0])
    rows = held_out.to(pixels.device)
    images, truth, own = fit(pixels[rows], config.in_shape), labels[rows], {}
    chunks = torch.arange(len(rows)).split(chunk_size(config))
    for index in range(parallel.rank(), len(chunks), parallel.world()):
        some = chunks[index]
        on_part(int(some[0]), len(rows))
        own[index] = evaluate(model, images[some], truth[some], held_out[some], *moments, seed=recipe.seed)
    parts = {index: part for found in parallel.gathered(own) for index, part in found.items()}
    result = join([parts[index] for index in sorted(parts)])
    found = {"validation_accuracy": result.accuracy()["accuracy"].tolist()}
    if config.kind == "snn":
        spikes = result.mean_spikes()[:, 1:].mean(0)
        found["firing_rate"] = {s.name: float(n) / s.neurons for s, n in zip(config.hidden_layers(), spikes)}
    return found


def _resident(pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The data on the device where it takes less than half of its free memory; else it stays, and batches travel."""
    if device().type == "cuda" and pixels.nbytes < torch.cuda.mem_get_info()[0] / 2:
        pixels = pixels.to(device())
    return pixels, labels.to(pixels.device)


def augmented(pixels: Tensor, pad: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Random crop after padding with black by `pad` pixels, and random horizontal flip; uint8 [B, C, H, W] both ways.

    Of event counts [B, T, C, H, W], all frames of a recording are moved alike. Of several processes each gives its rows
    of a batch, and all must draw from equal generators: the numbers are those of the whole batch.
    """
    if pixels.dim() == 5:
        return augmented(pixels.flatten(1, 2), pad, flip, generator).unflatten(1, pixels.shape[1:3])
    count, _, height, width = pixels.shape
    whole = count * parallel.world()
    corners = torch.randint(2 * pad + 1, (2, whole, 1), generator=generator)
    top, left = (parallel.share(corner).to(pixels.device) for corner in corners)
    rows = top + torch.arange(height, device=pixels.device)
    columns = left + torch.arange(width, device=pixels.device)
    if flip:
        mirrored = parallel.share(torch.rand(whole, 1, generator=generator)).to(pixels.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    padded = F.pad(pixels, (pad,) * 4)
    image = torch.arange(count, device=pixels.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def build_optimizer(model: SpikingNetwork, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over all weights, with a weight decay of its own for γ and the other norms' parameters."""
    norms = ("bntt", "norm")
    gamma = [p for name, p in model.named_parameters() if name.startswith(norms)]
    weights = [p for name, p in model.named_parameters() if not name.startswith(norms)]
    gamma_decay = recipe.weight_decay if recipe.gamma_decay is None else recipe.gamma_decay
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": gamma, "weight_decay": gamma_decay}]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999))


def _batch(recipe: Recipe, rows: Tensor) -> int:
    """How many samples all processes train on at once: the recipe's batch, or what there is to share out equally."""
    return min(recipe.batch, len(rows)) // parallel.world() * parallel.world()


def _epoch(
    model, forward, optimizer, recipe: Recipe, data: DataSet, pixels, labels, rows, epoch: int, on_batch: OnBatch
) -> EpochSeen:
    """One pass over the training images `rows` in a fresh order; the last, incomplete batch is left out.

    forward: parallel.forward_steps of the model.
    """
    model.train()
    seed = recipe.seed * 1_000_003 + epoch
    generator = torch.Generator().manual_seed(seed)
    order = rows[torch.randperm(len(rows), generator=generator)].to(pixels.device)
    batch = _batch(recipe, rows)
    shape = model.config.in_shape
    moments = data.moments(shape[0])
    losses, hits = [], 0
    batches = len(order) // batch
    counts: list[Tensor] = []
    for index in range(batches):
        chosen = parallel.share(order[index * batch : (index + 1) * batch])
        images, truth = fit(pixels[chosen], shape).to(device()), labels[chosen].to(device())
        if recipe.augment:
            images = augmented(images, data.pad, data.flip, generator)
        last = {"counts": counts} if index == batches - 1 and model.config.kind == "snn" else {}
        scores = forward(normalised(images, *moments), seed=seed, samples=chosen.to(device()), **last)
        losses.append(parallel.mean(descend(model, optimizer, recipe, scores, truth)))
        if not math.isfinite(losses[-1]):
            raise TrainingError(
                f"the loss became {losses[-1]} in epoch {epoch}; the network of the last finished epoch is kept. "
                f"A smaller learning rate than {recipe.lr} usually helps"
            )
        hits += (scores.argmax(2) == truth).sum(1)
        on_batch(epoch, index + 1, losses[-1])
    accuracy = parallel.total(hits).double() / (batches * batch)
    rates = {layer: parallel.mean(rate) for layer, rate in _rates(model.config, counts).items()}
    return EpochSeen(sum(losses) / batches, accuracy.tolist(), rates)


def descend(model: SpikingNetwork, optimizer, recipe: Recipe, scores: Tensor, truth: Tensor) -> float:
    """One step down the cross-entropy of the scores at T, of [T, B, K]; returns the loss."""
    loss = F.cross_entropy(scores[-1], truth)
    optimizer.zero_grad()
    loss.backward()
    if recipe.clip is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    optimizer.step()
    return loss.item()


def _rates(config: ModelConfig, counts: list[Tensor]) -> dict[str, float]:
    """Spikes per neuron and timestep by layer, from what forward_steps counted of the input and the hidden layers."""
    return {
        spec.name: int(fired.sum()) / (fired.numel() * spec.neurons)
        for spec, fired in zip(config.hidden_layers(), counts[1:])
    }


def _require_finite(model: SpikingNetwork, recipe: Recipe, epoch: int):
    """The loss alone does not tell: neurons whose γ overflowed merely fall silent."""
    bad = next((name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()), None)
    if bad:
        raise TrainingError(
            f"{bad} overflowed in epoch {epoch}; the network of the last finished epoch is kept. "
            f"A smaller learning rate than {recipe.lr} or a smaller weight decay usually helps"
        )


def _mean_gamma(model: SpikingNetwork) -> dict[str, list[float]]:
    """Layer → mean γ of each timestep; empty where γ does not depend on time."""
    if model.config.norm != "bntt":
        return {}
    means = {s.name: model.get_submodule(s.norm_name).gamma().detach().mean(1) for s in model.config.hidden_layers()}
    return {layer: [round(value, 5) for value in mean.tolist()] for layer, mean in means.items()}
