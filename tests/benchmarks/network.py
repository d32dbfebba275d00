"""How fast the engine is beside a plain loop over timesteps, beside SpikingJelly, and beside what the device can do.

    python3 -m tests.benchmarks.network [--batch 8 32] [--rounds 5] [--json FILE]

One training step, one evaluation and one 10-step PGD attack of VGG9, T = 25, on random 32×32 images, at each batch size
and precision. All take turns, each in a process of its own, once to warm up and then once measured; the median of their
times is told and how far their quartiles lie apart, with their ratio to the engine's, the peak memory of each, and what share of
the device's limit the engine reaches: the time that the operations of all convolutions and matrix products take at the
rate of a large one, or the bytes that must move at that of a large copy, whichever is longer. The bare convolutions and
matrix products take their turn, too, alone and with one pass over memory, and beside other precisions the loop in float32.
Before all that, they are shown to fire the same spikes in float32. In bfloat16 the peers run under torch's autocast, in which
their norms and membranes are bfloat16 too; the engine's stay float32. Aims are marked where they are met.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path

from dashboard import bootstrap

PRECISIONS = ("float32", "tf32", "bfloat16")
TASKS = ("evaluation", "training", "pgd")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m tests.benchmarks.network", description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="vgg9", choices=("vgg9", "vgg11"))
    parser.add_argument("--steps", type=int, default=25, help="T (default: 25)")
    parser.add_argument("--batch", type=int, nargs="+", help="default: 8 and 32 on a CPU, 64 and 256 on a GPU")
    parser.add_argument(
        "--precision", nargs="+", choices=PRECISIONS, help="default: float32 and bfloat16, on a GPU tf32 too"
    )
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default: 5)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # one contestant's part, as JSON
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


def main() -> None:
    options = arguments()
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("torchattacks") is None:
        bootstrap.ensure("tests.benchmarks.network", "requirements.txt")
    if options.only:
        _only(json.loads(options.only))
        return
    _ensure_spikingjelly()
    from . import contest, network_table

    def kept(found: dict) -> None:
        found |= {"date": date.today().isoformat(), "machine": platform.machine(), "python": platform.python_version()}
        found["ratios"] = network_table.ratios(found["rows"], found["kind"])
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n")

    print(network_table.table(contest.held(options, kept)))


def _only(asked: dict) -> None:
    """One contestant's part, in a process of its own."""
    from . import contestant

    name = asked.pop("serve", None)
    if name is None:
        print(contestant.memory_of_one(asked))
    else:
        contestant.serve(name, argparse.Namespace(**asked))


def _ensure_spikingjelly() -> None:
    """Without its dependencies: torchvision is one, which does not load beside every build of torch."""
    from .peers import SPIKINGJELLY

    if importlib.util.find_spec("spikingjelly") is None:
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", *SPIKINGJELLY]
        if subprocess.run(command).returncode:
            print("SpikingJelly cannot be installed: measured without it.", file=sys.stderr)


if __name__ == "__main__":
    main()
