"""What the forms of a layer's arithmetic are compared on."""

import torch

from engine.snn.layer import Scaling

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = {
    "one row": (3, 1, 5),
    "a block": (4, 32, 32),
    "odd": (5, 37, 33),
    "one step": (1, 70, 3),
    "wide": (3, 4, 300),
}


def draw(*shape, seed=0, grid=None, device=DEVICE):
    """Normal numbers; multiples of 1/grid where given, of which sums and products with the like are exact."""
    found = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (found if grid is None else (found * grid).round() / grid).to(device)


def inputs(shape, grid=None, device=DEVICE):
    """x, scale, shift and potentials from before."""
    steps, rows, channels = shape
    scale, shift = (draw(steps, channels, seed=s, grid=grid, device=device) for s in (1, 2))
    return draw(*shape, grid=grid, device=device), scale, shift, draw(rows, channels, seed=3, grid=grid, device=device)


def scaling(shape, statistics, device=DEVICE):
    """γ, β and statistics that are "fixed", of the batch at "each step", or of all "over time"."""
    steps, rows, channels = shape
    gamma, beta = draw(steps, channels, seed=5, device=device), draw(steps, channels, seed=6, device=device)
    if statistics == "over time":
        gamma, beta = (one[:1].expand(steps, -1) for one in (gamma, beta))
    mean, inverse = (
        draw(steps, channels, seed=7, device=device),
        draw(steps, channels, seed=8, device=device).abs() + 0.5,
    )
    count = 0 if statistics == "fixed" else rows * (steps if statistics == "over time" else 1)
    return Scaling(gamma, mean, inverse, beta, count, statistics == "over time")
