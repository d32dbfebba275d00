"""python -m engine inspect | train | convert | compare | evaluate | robustness | data"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable
from functools import cache

from . import data_commands
from .torchrun import several


class _Parser(argparse.ArgumentParser):
    """Bad arguments: one line on standard error, exit status 2."""

    def __init__(self, **options):
        super().__init__(**{"formatter_class": _Help, **options})

    def error(self, message: str):
        _say(f"{self.prog}: {message}")
        self.exit(2)


class _Help(argparse.HelpFormatter):
    """Says the default of every option that has one."""

    def _get_help_string(self, action):
        said = action.help or ""
        shown = (
            action.option_strings and type(action.default) in (str, int, float) and action.default != argparse.SUPPRESS
        )
        return f"{said} (default: %(default)s)" if shown and "default" not in said else said


def _say(sentence: str) -> None:
    """Write to standard error why the command fails; of several processes one does."""
    if several():
        from . import parallel

        parallel.tell(sentence)
    else:
        print(sentence, file=sys.stderr)


def _fraction(text: str) -> float:
    """A number or a fraction such as 8/255."""
    try:
        top, _, bottom = text.partition("/")
        return float(top) / (float(bottom) if bottom else 1.0)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor a fraction such as 8/255") from None


def _seed(text: str) -> int:
    """A whole number from 0 to 2^31 − 1."""
    if not text.isascii() or not text.isdigit() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {2**31 - 1}")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The command line, complete."""
    root = _Parser(prog="python -m engine", description="Look into, train and measure BNTT spiking networks.")
    commands = root.add_subparsers(dest="command", required=True, parser_class=_Parser)

    inspect = commands.add_parser("inspect", help="what a checkpoint holds, and what was guessed about it")
    inspect.add_argument("file")
    _model_options(inspect)

    train = commands.add_parser(
        "train",
        help="train a network into a folder",
        description="Train a network into a folder. `torchrun --nproc-per-node N -m engine train …` trains it in N "
        "processes, whose batches make one: normalisation takes its statistics over all of them.",
    )
    train.add_argument("--preset", metavar="NAME", help="settings of a row of the paper's table; `list` shows them all")
    train.add_argument("--out", help="folder of the run")
    train.add_argument("--resume", action="store_true", help="go on with the run in --out, with its settings")
    train.add_argument("--dry-run", action="store_true", help="say what it would cost, and train nothing")
    train.add_argument(
        "--kind", choices=("snn", "ann"), help="ann: the same layers with ReLU, no spikes (default: snn)"
    )
    train.add_argument("--norm", help="bntt, bn, tdbn or none (default: bntt; bn for an ANN)")
    _network_and_recipe(train)

    convert = commands.add_parser("convert", help="make a spiking network from a trained ANN")
    convert.add_argument("file")
    convert.add_argument("--out", required=True, help="file of the converted network")
    convert.add_argument("--steps", type=int, default=100, help="timesteps T")
    convert.add_argument("--encoding", default="direct", help="direct or poisson; events for an ANN on events")
    convert.add_argument("--percentile", type=float, default=99.9, help="of the activations, that one spike stands for")
    convert.add_argument("--dataset", help="where the activations come from (default: the one it was trained on)")
    _data_and_json(convert)

    compare = commands.add_parser("compare", help="train BNTT and every baseline alike; accuracy against timestep")
    compare.add_argument("--out", required=True, help="folder of the runs")
    compare.add_argument("--converted-steps", type=int, default=100, help="timesteps of the converted ANN")
    _network_and_recipe(compare)
    compare.set_defaults(kind=None, norm=None)

    evaluate = commands.add_parser("evaluate", help="accuracy, spikes and energy for every exit step")
    _file_and_data(evaluate)
    evaluate.add_argument(
        "--precision",
        default="float32",
        metavar="{float32,tf32,bfloat16}",
        help="tf32 needs a GPU; other than float32 is compared with it",
    )

    robustness = commands.add_parser("robustness", help="accuracy under noise and attacks")
    _file_and_data(robustness)
    _attack_arguments(robustness)
    data_commands.add_parser(commands)
    return root


def _attack_arguments(command: argparse.ArgumentParser):
    command.add_argument(
        "--attack",
        required=True,
        help="gaussian, uniform; fgsm, bim, mifgsm, pgd, pgdl2, apgd, eotpgd, cw, deepfool, square, autoattack; of "
        "events deletion, insertion, jitter",
    )
    command.add_argument(
        "--eps",
        type=_fraction,
        nargs="+",
        required=True,
        help="ε, the radius of the ball, or σ of gaussian, in units of [0, 1]: 0.03 or 8/255; of events a share, or frames",
    )
    command.add_argument("--attack-steps", type=int, help="steps, or queries of square (default: the attack's own)")
    command.add_argument("--step-size", type=_fraction, help="of one step (default: 2.5·ε/steps)")
    command.add_argument(
        "--encodings", type=int, default=1, help="random encodings each sample is tested in (default: 1)"
    )
    command.add_argument("--draws", type=int, default=2, help="random encodings an attacker averages (default: 2)")
    command.add_argument("--surrogate", default="triangle", help="shape: triangle, arctangent or sigmoid")
    command.add_argument("--width", type=float, default=1.0, help="of the surrogate, in units of θ (default: 1)")
    command.add_argument(
        "--adaptive", action="store_true", help="--width times the mean distance of the potentials from θ"
    )
    command.add_argument(
        "--literal", action="store_true", help="follow the rate code's literal gradient, which is zero: a broken attack"
    )
    command.add_argument("--target", default="final", help="attacked scores: final, average, or those at step t")


def _network_and_recipe(command: argparse.ArgumentParser):
    """None stands for what was not given: the defaults are those of engine.recipe, or come from data set and preset."""
    command.add_argument("--dataset", help="a name of `data list`, or a folder of class folders (default: digits)")
    command.add_argument("--arch", help="architecture (default: the data set's usual one)")
    command.add_argument("--steps", type=int, help="timesteps T (default: the data set's)")
    command.add_argument("--epochs", type=int, help="passes over the training samples (default: 100)")
    command.add_argument("--batch", type=int, help="samples a step, under torchrun of each process (default: 256)")
    command.add_argument("--optimizer", help="sgd, adam or adamw (default: sgd)")
    command.add_argument("--lr", type=float, help="learning rate of the first epoch (default: 0.3)")
    command.add_argument(
        "--schedule",
        help="of the learning rate: steps (a tenth at each milestone), cosine or constant (default: steps)",
    )
    command.add_argument(
        "--milestones", type=float, nargs="+", metavar="SHARE", help="of the epochs (default: 0.5 0.7 0.9)"
    )
    command.add_argument("--momentum", type=float, help="of the gradient descent; β₁ of Adam (default: 0.9)")
    command.add_argument("--weight-decay", type=float, help="on all weights and γ (default: 0.0001)")
    command.add_argument("--gamma-decay", type=float, help="weight decay on γ alone (default: --weight-decay)")
    command.add_argument(
        "--validation", type=float, help="share of the training samples to judge epochs by (default: 0.0)"
    )
    command.add_argument("--patience", type=int, help="stop after so many epochs without better validation accuracy")
    command.add_argument("--clip", type=float, help="largest norm of the gradient (default: any)")
    command.add_argument("--leak", type=float, help="λ (default: the data set's)")
    command.add_argument("--threshold", type=float, help="θ (default: 1.0)")
    command.add_argument(
        "--encoding", help="poisson, direct, rows, pixels or events (default: the data set's usual one)"
    )
    command.add_argument("--image-size", type=int, help="side the images are brought to (default: their own)")
    command.add_argument("--layout", help="own layers, such as 'C16 C16 P C32 C32 P F128'")
    command.add_argument(
        "--no-augment", dest="augment", action="store_false", default=None, help="no random crops and flips"
    )
    command.add_argument("--seed", type=_seed, help="of weights, order, augmentation and input spikes (default: 0)")
    command.add_argument("--precision", metavar="{float32,tf32,bfloat16}", help="tf32 needs a GPU (default: float32)")
    command.add_argument(
        "--threads", type=int, help="CPU threads, on which rounding depends (default: torch's own number)"
    )
    _data_and_json(command)


def _data_and_json(command: argparse.ArgumentParser):
    command.add_argument("--data", metavar="DIR", help="folder of the data sets (default: .data)")
    command.add_argument("--json", action="store_true", help="JSON on standard output")


def _model_options(command: argparse.ArgumentParser):
    command.add_argument("--leak", type=float, help="λ, where the file does not say or to override it")
    command.add_argument("--threshold", type=float, help="θ")
    command.add_argument("--image-size", type=int, help="side of the images, where the file does not say")
    _data_and_json(command)


def _file_and_data(command: argparse.ArgumentParser):
    command.add_argument("file")
    command.add_argument("--dataset", help="default: the one the checkpoint was trained on")
    command.add_argument("--samples", type=int, help="the first so many test samples (default: all)")
    command.add_argument("--seed", type=_seed, default=0, help="of the input spikes")
    command.add_argument(
        "--no-store", dest="keep", action="store_false", help="compute anew what is known, and keep nothing"
    )
    _model_options(command)


def main(argv: list[str] | None = None) -> int:
    """Run one command, under torchrun in step with the other processes; the exit status."""
    try:
        if several():
            from . import parallel  # and torch, for which a wrong argument need not wait otherwise

            try:
                parallel.start()
            except parallel.TrainingError as error:
                _say(f"python -m engine: {error}")
                return 2
        return _run(argv)
    except KeyboardInterrupt:
        _say("stopped")
        return 130
    finally:
        if several():
            parallel.stop()


def _waiting() -> Callable[[], None]:
    """Called again and again while it waits for a GPU, it says so once."""

    @cache
    def say() -> None:
        print("waiting until another job is done with the GPU", file=sys.stderr, flush=True)

    return say


def _run(argv: list[str] | None) -> int:
    arguments = parser().parse_args(argv)
    if several() and arguments.command != "train":
        _say(f"python -m engine {arguments.command}: torchrun is for train; run this without it")
        return 2
    missing = next((name for name in ("torch", "pandas") if importlib.util.find_spec(name) is None), None)
    if missing:
        _say(
            f"python -m engine: {missing} is not installed in this Python. `python3 -m dashboard` installs everything into "
            ".venv; then use .venv/bin/python -m engine"
        )
        return 2
    if getattr(arguments, "data", None):
        os.environ["BNTT_DATA"] = arguments.data
    from . import commands, training_commands  # torch is imported only once the arguments are known to be good
    from .device import exclusive, keep_freed_memory

    keep_freed_memory()
    makes = arguments.command in ("train", "convert", "compare")
    try:
        if arguments.command == "data":
            data_commands.run(arguments)
        elif arguments.command == "inspect" or getattr(arguments, "preset", None) == "list":
            getattr(training_commands if makes else commands, arguments.command)(arguments)
        else:
            with exclusive(_waiting()):
                getattr(training_commands if makes else commands, arguments.command)(arguments)
    except commands.UserError as error:
        _say(f"python -m engine {arguments.command}: {error}")
        return 2
    except OSError as error:
        _say(f"python -m engine {arguments.command}: {error.filename or 'a file'}: {error.strerror}")
        return 2
    return 0


if __name__ == "__main__":
    warnings.formatwarning = lambda message, *_: f"python -m engine: {message}\n"  # without our source code
    if several():
        from .parallel import end_with

        end_with(main)
    sys.exit(main())
