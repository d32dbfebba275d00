"""Training: one readable loop. A run is a folder.

    config.json             network and recipe
    metrics.jsonl           a line per epoch
    model.safetensors       the network after the last finished epoch
    state.pt                what `resume` needs besides

Every random number is a function of (seed, epoch, sample), so a run that was stopped and resumed ends with the weights
of one that never stopped.
"""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .checkpoint import save_checkpoint
from .analysis.evaluation import normalised
from .datasets import DataSet, fit, get
from .device import device
from .files import replacing, write_text
from .snn import PRECISIONS, ModelConfig, SpikingNetwork, build_model


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults are the paper's for CIFAR-10 (Kim & Panda 2021; decay as in the published code).

    milestones: shares of the epochs after which the learning rate falls tenfold. gamma_decay: weight decay on the norm's
    parameters alone;
    None = weight_decay. On a small data set γ of an idle timestep fades only if this is raised (a step shrinks it by
    about lr·decay/(1 − momentum)). Raises ValueError with one sentence for values that cannot train.
    """

    dataset: str = "digits"
    epochs: int = 100
    batch: int = 256
    lr: float = 0.3
    momentum: float = 0.9
    weight_decay: float = 1e-4
    gamma_decay: float | None = None
    milestones: tuple[float, ...] = (0.5, 0.7, 0.9)
    augment: bool = True
    seed: int = 0
    precision: str = "float32"

    def __post_init__(self):
        object.__setattr__(self, "milestones", tuple(self.milestones))
        for holds, sentence in (
            (self.epochs >= 1, "epochs must be 1 or more"),
            (self.batch >= 2, "batch must be 2 or more: batch statistics need two images"),
            (0 < self.lr < 1e3, "lr must be above 0 and below 1000"),
            (0 <= self.momentum < 1, "momentum must be at least 0 and below 1"),
            (self.weight_decay >= 0 and (self.gamma_decay or 0) >= 0, "weight decay must not be negative"),
            (all(0 < m < 1 for m in self.milestones), "milestones are shares of the epochs, between 0 and 1"),
            (0 <= self.seed < 2**31, "seed must be from 0 to 2^31 − 1"),
            (self.precision in PRECISIONS, f"precision must be one of {', '.join(PRECISIONS)}"),
        ):
            if not holds:
                raise ValueError(sentence)


class TrainingError(Exception):
    """A run cannot start or go on; one sentence."""


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
    """Train a network into the folder `out` and return it in evaluation mode.

    on_batch(epoch from 1, batches done in it, loss) and on_epoch(the row of metrics.jsonl) report progress.
    Raises TrainingError when `out` holds a run and resume is False, when there is nothing to resume or it is another
    run, and when the loss stops being a number (the last good epoch stays on disk); DataError when the data set is not
    there or damaged.
    """
    out, data = Path(out), get(recipe.dataset, paths=True)
    pixels, labels = _resident(*data.load("train", steps=config.steps, side=config.in_shape[1]))
    setup = {"model": config.to_dict(), "recipe": asdict(recipe)}
    done, state = _open_run(out, setup, resume)

    torch.manual_seed(recipe.seed)
    model = build_model(config)
    if state:
        model.load_state_dict(state["model"])
    model.to(device()).precision = recipe.precision
    optimizer = _optimizer(model, recipe)
    if state:
        optimizer.load_state_dict(state["optimizer"])

    for epoch in range(done + 1, recipe.epochs + 1):
        started = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, epoch)
        loss, accuracy = _epoch(model, optimizer, recipe, data, pixels, labels, epoch, on_batch)
        _require_finite(model, recipe, epoch)
        row = {
            "epoch": epoch,
            "loss": loss,
            "train_accuracy": accuracy,
            "lr": learning_rate(recipe, epoch),
            "gamma": _mean_gamma(model),
            "seconds": round(time.perf_counter() - started, 2),
        }
        _save_epoch(out, model, optimizer, data, recipe, row, command)
        on_epoch(row)
    return model.eval()


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """The step size during `epoch` (from 1): lr in the first, and a tenth after each milestone."""
    passed = sum(epoch > max(1, round(share * recipe.epochs)) for share in recipe.milestones)
    return recipe.lr * 0.1**passed


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


def _epoch(model, optimizer, recipe: Recipe, data: DataSet, pixels, labels, epoch: int, on_batch: Progress):
    """One pass over the training images in a fresh order; the last, incomplete batch is left out."""
    model.train()
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
    order = torch.randperm(len(pixels), generator=generator).to(pixels.device)
    batch = min(recipe.batch, len(pixels))
    shape = model.config.in_shape
    moments = data.moments(shape[0])
    losses, hits = [], 0
    batches = len(pixels) // batch
    for index in range(batches):
        rows = order[index * batch : (index + 1) * batch]
        images, truth = fit(pixels[rows], shape).to(device()), labels[rows].to(device())
        if recipe.augment:
            images = augmented(images, data.pad, data.flip, generator)
        seed = recipe.seed * 1_000_003 + epoch
        scores = model(normalised(images, *moments), seed=seed, samples=rows.to(device()))
        loss = F.cross_entropy(scores, truth)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss.item()} in epoch {epoch}; the network of the last finished epoch is kept. "
                f"A smaller learning rate than {recipe.lr} usually helps"
            )
        optimizer.zero_grad()
        loss.backward()
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


def _open_run(out: Path, setup: dict, resume: bool) -> tuple[int, dict | None]:
    """(epochs already done, saved state). A new run gets its config.json; an old one must be the same run."""
    if out.exists() and not out.is_dir():
        raise TrainingError(f"{out} is a file: name a folder for the run")
    config_file, state_file = out / "config.json", out / "state.pt"
    if not config_file.exists():
        if resume:
            raise TrainingError(f"there is no run to resume in {out}")
        try:
            write_text(config_file, json.dumps(setup, indent=1))
        except OSError as error:
            raise TrainingError(f"{out} cannot be written: {error.strerror}") from error
        return 0, None
    if not resume:
        raise TrainingError(f"{out} already holds a run: choose another folder, or go on with --resume")
    try:
        if json.loads(config_file.read_text()) != json.loads(json.dumps(setup)):
            raise TrainingError(f"{out} holds a run with other settings than these; see its config.json")
        if not state_file.exists():
            return 0, None
        state = torch.load(state_file, map_location="cpu", weights_only=True)
        metrics = out / "metrics.jsonl"
        write_text(metrics, "".join(metrics.read_text().splitlines(keepends=True)[: state["epoch"]]))
        return state["epoch"], state
    except (ValueError, KeyError, TypeError, RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise TrainingError(
            f"the run in {out} is damaged and cannot go on ({type(error).__name__}): train anew"
        ) from error


def _save_epoch(out: Path, model, optimizer, data: DataSet, recipe: Recipe, row: dict, command: str):
    """Metrics first and state last: whatever a crash leaves, `resume` repeats the epoch and nothing is lost."""
    metrics = out / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)[: row["epoch"] - 1] if metrics.exists() else []
    write_text(metrics, "".join(lines) + json.dumps(row) + "\n")
    mean, std = data.moments(model.config.in_shape[0])
    save_checkpoint(
        out / "model.safetensors",
        model,
        dataset=data.name,
        mean=mean,
        std=std,
        epoch=row["epoch"],
        recipe=asdict(recipe),
        command=command,
    )
    with replacing(out / "state.pt") as file:
        torch.save({"epoch": row["epoch"], "model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
