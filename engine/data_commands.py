"""`python -m engine data list | get | check`: which data sets are there, fetching one, looking through one."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Hashable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from .datasets.base import DataSet, Images

READ = 1 << 24  # bytes of pixels looked at once; a whole data set may not fit in memory


def add_parser(commands) -> None:
    """Add `data`, with its own sub-commands, to the sub-parsers of the command line."""
    data = commands.add_parser("data", help="list, fetch and check data sets")
    actions = data.add_subparsers(dest="action", required=True)
    listing = actions.add_parser("list", help="all data sets, and whether they are there")
    fetch = actions.add_parser("get", help="fetch a data set; goes on where an earlier try was broken off")
    check = actions.add_parser("check", help="look through every sample of a data set")
    fetch.add_argument("name")
    check.add_argument("name", help="of a data set, or the path of a folder or archive of images")
    for command in (listing, fetch, check):
        command.add_argument("--data", metavar="DIR", help="folder of data sets (default: $BNTT_DATA, or .data)")
        command.add_argument("--json", action="store_true", help="JSON on standard output")


def run(arguments: argparse.Namespace) -> None:
    """Do what `add_parser` understood; UserError, in one sentence, for what cannot be done or is found wrong."""
    from .commands import UserError
    from .datasets import DataError

    if arguments.data is not None:
        if not arguments.data:
            raise UserError("--data must name a folder and is empty")
        os.environ["BNTT_DATA"] = arguments.data
    actions = {"list": _list, "get": _get, "check": _check}
    try:
        actions[arguments.action](arguments)
    except DataError as error:
        raise UserError(error) from None


def _entries() -> list[DataSet]:
    from .datasets import entries

    return list(entries().values())


# ----------------------------------------------------------------------------------------------------- list


def _list(arguments: argparse.Namespace) -> None:
    from .commands import print_json
    from .datasets import folder

    rows = [_row(data) for data in _entries()]
    if arguments.json:
        return print_json({"folder": str(folder()), "data_sets": rows})
    table = [("name", "title", "shape", "classes", "")]
    for row in rows:
        state = f"there  {row['where']}" if row["there"] else f"missing: {row['missing']}"
        table.append((row["name"], row["title"], "×".join(map(str, row["shape"])), str(row["classes"]), state))
    widths = [max(map(len, column)) for column in zip(*table)]
    for line in table:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip())
    print(f"data folder: {folder()}")


def _row(data: DataSet) -> dict:
    from .datasets import DataError, folder

    where = missing = ""
    try:
        where = _where(data.look(folder()))
    except DataError as error:
        missing = str(error)
    return {
        "name": data.name,
        "title": data.title,
        "shape": list(data.shape),
        "classes": len(data.classes),
        "there": not missing,
        "missing": missing,
        "where": where,
        "download_bytes": sum(remote.size for remote in data.remote),
    }


def _where(place: Hashable) -> str:
    """The file, or the folder of the files, that is named in what `look` gave back; "" when none is."""
    from .datasets import folder

    # Some tell the data folder, too, which says nothing of where in it they lie.
    paths = [part for part in _parts(place) if isinstance(part, Path) and part != folder()]
    return os.path.commonpath(paths) if paths else ""


def _parts(place: Hashable) -> Iterator[Hashable]:
    if isinstance(place, tuple):
        for part in place:
            yield from _parts(part)
    else:
        yield place


# ------------------------------------------------------------------------------------------------------ get


def _get(arguments: argparse.Namespace) -> None:
    from .commands import UserError, data_set, print_json
    from .datasets import folder
    from .datasets.download import intact, megabytes

    data, place = data_set(arguments.name), folder()
    missing = data.missing()
    there = [remote for remote in data.remote if intact(remote, place)]
    # Where nothing is missing, the data set lies there unpacked, without some of the files that a download brings.
    lacking = [r for r in data.remote if r not in there and (missing or (place / r.path).exists())]
    if lacking or (missing and not data.remote):
        _download(replace(data, remote=tuple(lacking)))
    if missing := data.missing():
        raise UserError(missing)
    brought = sum((place / remote.path).stat().st_size for remote in lacking)
    if arguments.json:
        return print_json(
            {
                "name": data.name,
                "folder": str(place),
                "where": _where(data.look(place)),
                "there": [remote.path for remote in there],
                "fetched": [remote.path for remote in lacking],
                "fetched_bytes": brought,
            }
        )
    for remote in there:
        print(f"{remote.path} was there already")
    for remote in lacking:
        print(f"{remote.path} is fetched")
    print(f"{data.name} is in {place}, {megabytes(brought)} are new" if lacking else f"{data.name} was there already")


def _download(data: DataSet) -> None:
    from tqdm import tqdm

    from .datasets.download import download

    with tqdm(unit="B", unit_scale=True, desc=data.name, file=sys.stderr, disable=None) as bar:

        def on_progress(done: int, total: int):
            bar.total = total or None
            bar.update(done - bar.n)

        download(data, progress=on_progress)


# ---------------------------------------------------------------------------------------------------- check


def _check(arguments: argparse.Namespace) -> None:
    from .commands import data_set, print_json
    from .datasets import folder

    data = data_set(arguments.name, paths=True)
    data.look(folder())
    files = _check_files(data)
    splits = {split: _check_split(data, split) for split in ("train", "test")}
    if arguments.json:
        return print_json({"name": data.name, "folder": str(folder()), "verified": files, "splits": splits})
    for file in files:
        print(f"{file}: the checksum is right")
    for split, row in splits.items():
        mean, std = (" ".join(f"{value:.4f}" for value in row[key]) for key in ("mean", "std"))
        print(
            f"{split}: {row['samples']:,} samples of {'×'.join(map(str, row['shape']))}, {row['class_min']:,} to "
            f"{row['class_max']:,} of a class, mean {mean}, standard deviation {std}"
        )
    print(f"{data.name} is in order")


def _check_files(data: DataSet) -> list[str]:
    """The files of `data.remote` that lie there, each with the right checksum, or UserError."""
    from .commands import UserError
    from .datasets import folder
    from .datasets.download import intact

    lying = [remote for remote in data.remote if (folder() / remote.path).exists()]
    for remote in lying:
        if not intact(remote, folder()):
            raise UserError(
                f"{folder() / remote.path} is damaged, its checksum is wrong: fetch it again with "
                f"`python -m engine data get {data.name}`"
            )
    return [remote.path for remote in lying]


def _check_split(data: DataSet, split: str) -> dict:
    """What a split holds, every sample read, or UserError for what no data set may hold."""
    import torch

    from .commands import UserError

    images = data.load(split)
    if wrong := _wrong(data, images):
        raise UserError(f"{data.name} is damaged, in its {split} samples: {wrong}")
    counts = torch.bincount(images.labels, minlength=len(data.classes))
    mean, std = _moments(images.pixels, 1 if data.events else 255)
    return {
        "samples": len(images.labels),
        "shape": list(images.pixels.shape[1:]),
        "class_min": int(counts.min()),
        "class_max": int(counts.max()),
        "mean": mean,
        "std": std,
    }


def _wrong(data: DataSet, images: Images) -> str:
    """What is wrong with the types, shapes or labels, in words; "" when nothing is."""
    import torch

    pixels, labels = images
    expected = (data.steps, *data.shape) if data.events else data.shape
    if pixels.dtype != torch.uint8 or labels.dtype != torch.int64:
        return f"pixels and labels are {pixels.dtype} and {labels.dtype}, not torch.uint8 and torch.int64"
    if tuple(pixels.shape[1:]) != tuple(expected):
        return f"their shape is {tuple(pixels.shape[1:])} and not {tuple(expected)}"
    if labels.shape != pixels.shape[:1]:
        return f"there are {len(pixels):,} samples and {labels.numel():,} labels"
    if not len(labels):
        return "there are none"
    strange = ((labels < 0) | (labels >= len(data.classes))).nonzero()
    if len(strange):
        sample = int(strange[0])
        return f"the label of sample {sample} is {int(labels[sample])}, and there are {len(data.classes)} classes"
    return ""


def _moments(pixels: Tensor, unit: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation, per channel, of pixels divided by `unit`; counted value by value, hence exact."""
    import torch
    from tqdm import tqdm

    counts = torch.zeros(pixels.shape[-3], 256, dtype=torch.int64)
    rows = max(1, READ // pixels[0].numel())
    for start in tqdm(range(0, len(pixels), rows), unit="part", leave=False, file=sys.stderr, disable=None):
        for channel, values in enumerate(pixels[start : start + rows].movedim(-3, 0)):
            counts[channel] += torch.bincount(values.flatten(), minlength=256)
    levels = torch.arange(256, dtype=torch.float64) / unit
    share = counts / counts.sum(1, keepdim=True).to(torch.float64)
    mean = share @ levels
    return mean.tolist(), (share * (levels - mean[:, None]) ** 2).sum(1).sqrt().tolist()
