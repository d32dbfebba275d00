"""The 1,797 handwritten digits that scikit-learn ships: real images without a download."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .base import DataSet, Images

SIDE = 16


def _read(_place, split: str, _steps: int, _side: int) -> Images:
    """The 8×8 originals (0 … 16 levels), enlarged to 16×16.

    Every ninth digit from the fifth on, and every ninth from the ninth on, is a test sample: 399 of them. The digits
    stand in the file writer by writer, so both splits hold every writer. No random number, so the split never moves.
    """
    # The file is read where it lies: importing sklearn.datasets would cost the first page more than a second.
    package = Path(importlib.util.find_spec("sklearn").submodule_search_locations[0])
    table = np.loadtxt(package / "datasets" / "data" / "digits.csv.gz", delimiter=",", dtype=np.int64)
    levels = torch.from_numpy(table[:, :64]).view(-1, 1, 8, 8).to(torch.float32)
    pixels = F.interpolate(levels, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    pixels = (pixels * (255.0 / 16.0)).round().to(torch.uint8)
    number = torch.arange(len(pixels))
    chosen = (number % 9 == 4) | (number % 9 == 8)
    chosen = chosen if split == "test" else ~chosen
    return Images(pixels[chosen], torch.from_numpy(table[:, 64])[chosen])


DIGITS = DataSet(
    name="digits",
    title="Digits",
    classes=tuple("0123456789"),
    shape=(1, SIDE, SIDE),
    mean=(0.3053,),
    std=(0.3189,),
    steps=25,
    leak=0.95,
    pad=1,
    flip=False,
    look=lambda _folder: (),
    read=_read,
    arch="vgg-small",
    about="1,797 handwritten digits from scikit-learn, enlarged from 8×8 to 16×16; 1,398 for training, 399 for testing",
)
