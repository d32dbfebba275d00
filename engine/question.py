"""What can be asked of a network, and the key under which the answer is kept."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from .checkpoint import Checkpoint
from .datasets import DataSet, folder
from .device import device

# What is neither the network nor its data, and still decides what comes out.
SOURCES = (
    *("snn/*.py", "datasets/*.py", "attacks/*.py"),
    *(f"analysis/{name}.py" for name in ("evaluation", "robustness", "transfer", "early_exit", "verdict")),
)


@dataclass(frozen=True)
class Question:
    """What a function is to find out about a network, a part at a time; made by `question`.

    model: the network's name, which a person knows it by and no key depends on. weights: its Checkpoint.weights_digest.
    network: its `fingerprint`, with the data's place. data: name of the data set, or None. settings: JSON.
    """

    model: str
    weights: str
    network: str
    data: str | None
    function: str
    settings: str
    engine: str

    def key(self, part: tuple) -> str:
        """SHA-256 of everything that function(*part) depends on."""
        return _hash([*self._content(), repr(part)])

    def job_key(self, parts: Iterable[tuple]) -> str:
        """The same for all of these parts together, for Jobs.submit."""
        return _hash([*self._content(), [repr(part) for part in parts]])

    def text(self, part: tuple) -> str:
        """JSON for a person who looks into the store."""
        said = {**asdict(self), "settings": json.loads(self.settings), "part": repr(part)}
        return json.dumps(said, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()

    def _content(self) -> tuple:
        return self.engine, self.function, self.settings, self.network, self.data


def question(checkpoint: Checkpoint, data: DataSet | None, function: Callable, **settings) -> Question:
    """What `function` finds out about the network of `checkpoint` on the test samples of `data` (None: it needs none).

    settings: what else it is given that its result depends on, as JSON has it: seed, precision. Raises DataError where
    the data is not here.
    """
    return Question(
        model=checkpoint.name,
        weights=checkpoint.weights_digest,
        network=fingerprint(checkpoint, place(data) if data else ""),
        data=data.name if data else None,
        function=f"{function.__module__}.{function.__qualname__}",
        settings=json.dumps(settings, sort_keys=True),
        engine=engine_version(),
    )


def fingerprint(checkpoint: Checkpoint, place: str) -> str:
    """24 hexadecimal digits that change with anything a result of the network depends on: its weights, configuration
    and normalisation, and the files of the data, for which `place` stands."""
    config = checkpoint.config.to_dict() if checkpoint.config else None
    return _hash([checkpoint.weights_digest, config, checkpoint.mean, checkpoint.std, place])[:24]


def place(data: DataSet) -> str:
    """Where the files of a data set lie, as text that changes when they do, and is the same in every process. Raises
    DataError."""
    return json.dumps(_plain(data.look(Path(os.path.abspath(folder())))))


def _plain(found) -> object:
    if isinstance(found, tuple):
        return [_plain(item) for item in found]
    if isinstance(found, partial):
        return [_plain(item) for item in (found.func, found.args, *sorted(found.keywords.items()))]
    if callable(found):  # its repr holds an address
        return f"{found.__module__}.{found.__qualname__}"
    return os.fspath(found) if isinstance(found, Path) else found


@cache
def engine_version() -> str:
    """16 hexadecimal digits for the code that computes results and the kind of device it runs on."""
    here = Path(__file__).parent
    digest = hashlib.sha256(f"{torch.__version__} {_torchattacks()} {device().type}".encode())
    for path in sorted(path for pattern in SOURCES for path in here.glob(pattern)):
        digest.update(f"\0{path.relative_to(here).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _torchattacks() -> str:
    try:
        return version("torchattacks")
    except PackageNotFoundError:  # only the engine's core is installed, which attacks nothing
        return ""


def _hash(said: Sequence) -> str:
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()
