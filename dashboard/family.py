"""Networks that belong together: a BNTT network, the baselines trained beside it, its ordinary twin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from engine import run_library
from engine.analysis import transfer
from engine.checkpoint import CheckpointError
from engine.comparison import BASELINES, is_twin
from engine.snn import ModelConfig

from . import models, session
from .session import View


def of(name: str, available: Sequence[str]) -> dict[str, str]:
    """Baseline (a key of BASELINES) → model, of the networks that were trained together with the one called `name`.

    `python -m engine compare` makes a folder of runs that are named after their baseline; bundled networks have the
    baseline behind their name, and none for BNTT. Empty where nothing tells.
    """
    place = PurePosixPath(name)
    if place.parts[0] == "bundled":
        stem, _, last = place.name.rpartition("-")
        first = stem if last in BASELINES else place.name
        wanted = {key: f"bundled/{first}" + ("" if key == "bntt" else f"-{key}") for key in BASELINES}
    elif place.parts[0] == "runs" and len(place.parts) > 2 and place.name in BASELINES:
        wanted = {key: str(place.parent / key) for key in BASELINES}
    else:
        return {}
    return {key: model for key, model in wanted.items() if model in available}


def can_have_twin(config: ModelConfig) -> bool:
    """Whether an ordinary network can see the same images: not those of a sequence or of events, and it is none itself."""
    return config.kind != "ann" and config.encoding in ("poisson", "direct")


def twin(view: View) -> View | None:
    """The ordinary network with the layers of `view`'s, trained on the same data, on the same samples; None where there is
    none that takes the same images."""
    checkpoint = view.checkpoint
    if not can_have_twin(checkpoint.config):
        return None
    for name in _candidates(view):
        try:
            other = models.open_model(name)
        except CheckpointError:
            continue  # deleted at this moment, or damaged: its own pages say so
        if other.model is None or other.dataset != checkpoint.dataset or not is_twin(other.config, checkpoint.config):
            continue
        if transfer.same_images(other.model, checkpoint.model):
            return session.view(name, other, view.data, 0, len(view.labels))
    return None


def _candidates(view: View) -> Iterator[str]:
    """The ANN trained together with it, then finished runs whose settings say that they are such a twin."""
    if beside := of(view.name, models.names()).get("ann"):
        yield beside
    for run in run_library.list_runs(models.runs_folder()):
        fits = run.recipe.dataset == view.checkpoint.dataset and is_twin(run.config, view.checkpoint.config)
        if fits and run.state == "finished":
            yield f"runs/{run.name}"
