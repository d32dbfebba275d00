"""Training: one readable loop.

Every random number is a function of (seed, epoch, sample), so a run that was stopped and resumed ends with the weights
of one that never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .analysis.evaluation import evaluate, normalised
from .checkpoint import load_checkpoint
from .datasets import DataSet, fit, get
from .device import device
from .recipe import Recipe, learning_rate
from .runs import TrainingError, open_run, save_epoch
from .snn import ModelConfig, SpikingNetwork, build_model

Progress = Callable[[int, int, float], None]


def train(
    config: ModelConfig,
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    on_batch: Progress = lambda epoch, step, loss: None,
    on_epoch: Callable[[dict], None] = lambda row: None,
    command: str = "",
) -> SpikingNetwork:
    """Train a network into the folder `out` (see engine.runs) and return the one kept there, in evaluation mode.

    on_batch(epoch from 1, batches done in it, loss) and on_epoch(the row of metrics.jsonl) report progress.
    Raises TrainingError when `out` holds a run and resume is False, when there is nothing to resume or it is another
    run, and when the loss stops being a number (the last good epoch stays on disk); DataError when the data set is not
    there or damaged.
    """
    out, data = Path(out), get(recipe.dataset, paths=True)
    pixels, labels = _resident(*data.load("train", steps=config.steps, side=config.in_shape[1]))
    done, state = open_run(out, config, recipe, resume)
    rows, held_out = _split(len(pixels), recipe)

    torch.manual_seed(recipe.seed)
    model = build_model(config)
    if state:
        model.load_state_dict(state["model"])
    model.to(device()).precision = recipe.precision
    optimizer = _optimizer(model, recipe)
    if state:
        optimizer.load_state_dict(state["optimizer"])
    best = {"best_epoch": 0, "best_accuracy": -1.0} | {k: v for k, v in (state or {}).items() if k.startswith("best_")}

    for epoch in range(done + 1, recipe.epochs + 1):
        if recipe.patience and epoch - 1 - best["best_epoch"] >= recipe.patience:
            break
        started = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, epoch)
        loss, accuracy = _epoch(model, optimizer, recipe, data, pixels, labels, rows, epoch, on_batch)
        _require_finite(model, recipe, epoch)
        row = {
            "epoch": epoch,
            "loss": loss,
            "train_accuracy": accuracy,
            "lr": learning_rate(recipe, epoch),
            "gamma": _mean_gamma(model),
            **_validated(model, recipe, data, pixels, labels, held_out),
            "seconds": round(time.perf_counter() - started, 2),
        }
        judged = row["validation_accuracy"][-1] if len(held_out) else 0.0
        if not len(held_out) or judged > best["best_accuracy"]:
            best = {"best_epoch": epoch, "best_accuracy": judged}
        save_epoch(out, model, optimizer, data, recipe, row, {**best, "command": command})
        on_epoch(row)
    if len(held_out):
        return load_checkpoint(out / "model.safetensors").model.to(device())
    return model.eval()


def _split(count: int, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows held out, each sorted; drawn once a run, by its seed."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(recipe.seed))
    held_out = round(recipe.validation * count)
    return order[held_out:].sort().values, order[:held_out].sort().values


def _validated(model: SpikingNetwork, recipe: Recipe, data: DataSet, pixels, labels, held_out: Tensor) -> dict:
    """validation_accuracy at every exit step and firing_rate (spikes per neuron and timestep) by layer; {} without."""
    if not len(held_out):
        return {}
    rows, config = held_out.to(pixels.device), model.config
    images = fit(pixels[rows], config.in_shape)
    result = evaluate(model, images, labels[rows], held_out, *data.moments(config.in_shape[0]), seed=recipe.seed)
    spikes = result.mean_spikes()[:, 1:].mean(0)
    rates = {spec.name: float(n) / spec.neurons for spec, n in zip(config.hidden_layers(), spikes)}
    return {"validation_accuracy": result.accuracy()["accuracy"].tolist(), "firing_rate": rates}


def _resident(pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The data on the device where it takes less than half of its free memory; else it stays, and batches travel."""
    if device().type == "cuda" and pixels.nbytes < torch.cuda.mem_get_info()[0] / 2:
        pixels = pixels.to(device())
    return pixels, labels.to(pixels.device)


def augmented(pixels: Tensor, pad: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Random crop after padding with black by `pad` pixels, and random horizontal flip; uint8 [B, C, H, W] both ways.

    Of event counts [B, T, C, H, W], all frames of a recording are moved alike.
    """
    if pixels.dim() == 5:
        return augmented(pixels.flatten(1, 2), pad, flip, generator).unflatten(1, pixels.shape[1:3])
    count, _, height, width = pixels.shape
    top, left = torch.randint(2 * pad + 1, (2, count, 1), generator=generator).to(pixels.device)
    rows = top + torch.arange(height, device=pixels.device)
    columns = left + torch.arange(width, device=pixels.device)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator).to(pixels.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    padded = F.pad(pixels, (pad,) * 4)
    image = torch.arange(count, device=pixels.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _optimizer(model: SpikingNetwork, recipe: Recipe) -> torch.optim.SGD:
    norms = ("bntt", "norm")
    gamma = [p for name, p in model.named_parameters() if name.startswith(norms)]
    weights = [p for name, p in model.named_parameters() if not name.startswith(norms)]
    gamma_decay = recipe.weight_decay if recipe.gamma_decay is None else recipe.gamma_decay
    return torch.optim.SGD(
        [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": gamma, "weight_decay": gamma_decay}],
        lr=recipe.lr,
        momentum=recipe.momentum,
    )


def _epoch(model, optimizer, recipe: Recipe, data: DataSet, pixels, labels, rows, epoch: int, on_batch: Progress):
    """One pass over the training images `rows` in a fresh order; the last, incomplete batch is left out."""
    model.train()
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
    order = rows[torch.randperm(len(rows), generator=generator)].to(pixels.device)
    batch = min(recipe.batch, len(order))
    shape = model.config.in_shape
    moments = data.moments(shape[0])
    losses, hits = [], 0
    batches = len(order) // batch
    for index in range(batches):
        chosen = order[index * batch : (index + 1) * batch]
        images, truth = fit(pixels[chosen], shape).to(device()), labels[chosen].to(device())
        if recipe.augment:
            images = augmented(images, data.pad, data.flip, generator)
        seed = recipe.seed * 1_000_003 + epoch
        scores = model(normalised(images, *moments), seed=seed, samples=chosen.to(device()))
        loss = F.cross_entropy(scores, truth)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss.item()} in epoch {epoch}; the network of the last finished epoch is kept. "
                f"A smaller learning rate than {recipe.lr} usually helps"
            )
        optimizer.zero_grad()
        loss.backward()
        if recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        losses.append(loss.item())
        hits += int((scores.argmax(1) == truth).sum())
        on_batch(epoch, index + 1, losses[-1])
    return sum(losses) / batches, hits / (batches * batch)


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
