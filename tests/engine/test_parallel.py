"""Two processes against one with the doubled batch, which uses torch's own batch normalisation (float64)."""

from contextlib import redirect_stderr
from io import StringIO

import pytest
import torch

from engine import parallel, torchrun
from engine.snn import ModelConfig, build_model
from engine.snn.norm import build_norm

from .processes import run_pair

KINDS = ("bntt", "bn", "tdbn")
STEPS, CHANNELS, EACH = 4, 3, 5
SHAPES = {"convolution": (3, 2), "linear": ()}
ROWS = (STEPS, 1)
CASES = [(kind, shape, rows) for kind in KINDS for shape in SHAPES for rows in ROWS]


def batch_of(shape: str, rows: int, offset: float = 0.0) -> torch.Tensor:
    """The whole batch [rows, 2·EACH, C, …]: its halves, and its timesteps, differ in mean and spread."""
    x = torch.randn(rows, 2 * EACH, CHANNELS, *SHAPES[shape], generator=torch.Generator().manual_seed(3)).double()
    step = torch.arange(1.0, rows + 1, dtype=torch.float64).view(rows, *(1,) * (x.dim() - 1))
    x[:, EACH:] = 3 * x[:, EACH:] + 2
    return x * step + offset


def half(x: torch.Tensor) -> torch.Tensor:
    """This process's samples."""
    return parallel.share(x.transpose(0, 1)).transpose(0, 1)


def passes(kind: str, x: torch.Tensor) -> dict:
    """Two training passes of a norm over x: outputs, gradients of Σ y³ in x and in its parameters, running estimates."""
    norm = build_norm(kind, STEPS, CHANNELS).to(x.dtype)
    with torch.no_grad():
        for number, parameter in enumerate(norm.parameters()):
            parameter.copy_(torch.linspace(0.5, 1.5, CHANNELS) + 0.1 * number)
    threshold = (0.7,) if kind == "tdbn" else ()
    norm(x + 1, STEPS, *threshold)
    x = x.clone().requires_grad_()
    y = norm(x, STEPS, *threshold)
    (y**3).sum().backward()
    found = {"y": y.detach(), "x.grad": x.grad}
    return found | {f"{n}.grad": p.grad for n, p in norm.named_parameters()} | norm.state_dict()


def norms_and_helpers(folder):
    """What each process of the pair does."""
    torch.set_num_threads(1)
    parallel.start()
    place = parallel.rank()
    found = {"norms": {case: passes(case[0], half(batch_of(*case[1:]))) for case in CASES}}
    found["far"] = {kind: passes(kind, half(batch_of("linear", STEPS, 1e4)).float()) for kind in KINDS}
    found["place"] = (place, parallel.world(), parallel.is_main())
    found["state"] = parallel.broadcast({"epoch": 3, "weights": torch.arange(4.0)} if place == 0 else None)
    found["mean"] = [parallel.mean(value) for value in (float(place), [2.0, float("nan")][place])]
    found["total"] = parallel.total(torch.tensor([1, place]))
    found["gathered"] = parallel.gathered({"rank": place})
    found["failures"] = {f"{place} of {broken}": failure_of(broken) for broken in ([], [0], [1], [0, 1])}
    with redirect_stderr(StringIO()) as said:
        parallel.tell(f"process {place} ends")
    found["said"] = said.getvalue()
    if place == 0:  # the other one has gone
        found["alone"] = waiting_alone()
    parallel.stop()
    found["after"] = (parallel.rank(), parallel.world())
    torch.save(found, folder / f"{place}.pt")


def waiting_alone() -> str:
    """What a block raises that waits for a process which has gone."""
    try:
        with parallel.watched():
            parallel.mean(1.0)
    except parallel.PeerError as error:
        return str(error)
    return ""


def failure_of(broken) -> str:
    """What a block raises that fails in the processes `broken`."""
    try:
        with parallel.together():
            if parallel.rank() in broken:
                raise ValueError(f"{parallel.rank()} is broken")
    except (ValueError, parallel.PeerError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What both processes found."""
    folder = tmp_path_factory.mktemp("pair")
    run_pair(norms_and_helpers, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def agree(first: dict, second: dict, whole: dict, **tolerance):
    """Each process's rows are those of the whole batch, parameters' gradients add up, estimates are equal in both."""
    for name, expected in whole.items():
        if name in ("y", "x.grad"):
            found = torch.cat([first[name], second[name]], 1)
        elif name.endswith(".grad"):
            found = first[name] + second[name]
        else:
            found = first[name]
            assert torch.equal(found, second[name]), name
        torch.testing.assert_close(found, expected, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@pytest.mark.parametrize("kind, shape, rows", CASES)
def test_a_norm_in_two_processes_is_that_of_the_doubled_batch(kind, shape, rows, pair):
    """float64, so 1e-10 is far above rounding (1e-16 and a few thousand operations) and far below any other mistake."""
    one, two = (found["norms"][kind, shape, rows] for found in pair)
    agree(one, two, passes(kind, batch_of(shape, rows)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mean_far_from_zero_costs_no_digits(kind, pair):
    """float32 at a mean of 10⁴, where E[x²] − μ² would be off by 10⁸·2⁻²⁴ ≈ 6: against float64 of the same numbers."""
    whole = passes(kind, batch_of("linear", STEPS, 1e4).float().double())
    for name in ("y", *(name for name in whole if "running" in name)):
        found = torch.cat([each["far"][kind][name] for each in pair], 1) if name == "y" else pair[0]["far"][kind][name]
        torch.testing.assert_close(found.double(), whole[name], rtol=1e-3, atol=1e-2)


def test_the_helpers_of_a_pair(pair):
    for place, found in enumerate(pair):
        assert found["place"] == (place, 2, place == 0) and found["after"] == (0, 1)
        assert found["state"]["epoch"] == 3 and torch.equal(found["state"]["weights"], torch.arange(4.0))
        assert found["total"].tolist() == [2, 1] and found["gathered"] == [{"rank": 0}, {"rank": 1}]
        assert found["mean"][0] == 0.5 and found["mean"][1] != found["mean"][1], "a NaN anywhere is one everywhere"


def test_what_fails_in_one_process_fails_in_both(pair):
    assert pair[0]["failures"] == {
        "0 of []": "",
        "0 of [0]": "ValueError: 0 is broken",
        "0 of [1]": "PeerError: 1 is broken",
        "0 of [0, 1]": "ValueError: 0 is broken",
    }
    assert pair[1]["failures"]["1 of [0]"] == "PeerError: 0 is broken"
    assert pair[1]["failures"]["1 of [0, 1]"] == "ValueError: 1 is broken"


def test_one_process_says_why_all_end_and_none_waits_for_one_that_has_gone(pair):
    assert [found["said"] for found in pair] == ["process 0 ends\n", ""]
    assert pair[0]["alone"] == "another process of this training has ended"


def test_one_process_is_left_alone(monkeypatch, capsys):
    """Without torchrun, or with one process of it, no group is made and every value passes through."""
    for name in torchrun.NAMES:
        monkeypatch.delenv(name, raising=False)
    parallel.start()
    for name, value in zip(torchrun.NAMES, ("0", "1", "127.0.0.1", "1")):
        monkeypatch.setenv(name, value)
    parallel.start()
    rows = torch.arange(5)
    model = build_model(ModelConfig(arch="mlp", layout="F2", steps=2, in_shape=(1, 2, 2), encoding="direct"))
    assert not torch.distributed.is_initialized() and (parallel.rank(), parallel.world()) == (0, 1)
    assert parallel.share(rows).equal(rows) and parallel.total(rows) is rows and parallel.mean(0.25) == 0.25
    assert parallel.broadcast(model) is model and parallel.gathered(model) == [model]
    assert parallel.forward_steps(model) == model.forward_steps
    with pytest.raises(KeyError), parallel.together():
        raise KeyError("own")
    parallel.tell("it ends")
    parallel.stop()
    assert capsys.readouterr().err == "it ends\n"
