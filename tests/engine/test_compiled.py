"""Numba's kernels for a CPU against the plain PyTorch form, and against float64."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from engine.snn import ModelConfig, Surrogate, build_model, encoding, kernels
from engine.snn.kernels import plain

from .kernel_inputs import SHAPES, draw, inputs, scaling

pytest.importorskip("numba", reason="Numba is not installed: bfloat16 is computed in the plain form")
from engine.snn.kernels import compiled  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
BFLOAT16 = torch.bfloat16
KINDS = [(torch.float32, torch.float32), (BFLOAT16, torch.float32), (BFLOAT16, BFLOAT16)]  # of currents and spikes
LARGER = {"several shares": (7, 5000, 9), "a thousand steps": (1000, 3, 80)}


def on_cpu(*shape, **choices):
    return draw(*shape, device="cpu", **choices)


@pytest.fixture(params=[1, 3], ids=["one thread", "three threads"])
def threads(request, monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    monkeypatch.setattr(compiled, "SHARE_BYTES", 2**10)  # small ones for small tensors
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [*SHAPES.values(), *LARGER.values()], ids=[*SHAPES, *LARGER])
@pytest.mark.parametrize("begun", [False, True], ids=["from rest", "carried on"])
@pytest.mark.parametrize("given, dtype", KINDS, ids=str)
def test_spikes_and_membranes_are_those_of_the_plain_form(shape, begun, given, dtype, threads):
    """On numbers whose products are exact, so that it does not matter whether a processor adds and multiplies in one."""
    x, scale, shift, carried = inputs(shape, 8, "cpu")
    carried, x = carried if begun else None, x.to(given)
    results = [form.fire(x, scale, shift, carried, 0.75, 1.0, dtype, True) for form in (plain, compiled)]
    for expected, found in zip(*results):
        assert found.dtype == expected.dtype and torch.equal(found, expected)
    assert results[0][0].float().mean() > 0.03
    without = compiled.fire(x, scale, shift, carried, 0.75, 1.0, dtype, False)
    assert torch.equal(without[0], results[0][0]) and without[2] is None
    assert carried is None or torch.equal(carried, inputs(shape, 8, "cpu")[3])


@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT16], ids=str)
@pytest.mark.parametrize("shape", [(20, 3000, 64), (25, 700, 33), (6, 500, 5)], ids=str)
def test_on_any_numbers_too_where_the_processor_adds_and_multiplies_in_one(shape, dtype):
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("this processor, or torch on it, rounds a product before it adds")
    x, scale, shift, carried = inputs(shape, device="cpu")
    for expected, found in zip(
        *(form.fire(x.to(dtype), scale, shift, carried, 0.95, 1.0, dtype, True) for form in (plain, compiled))
    ):
        assert torch.equal(expected, found)


def test_one_row_stands_for_every_timestep():
    x, scale, shift, _ = inputs((6, 10, 7), 8, "cpu")
    results = [
        form.fire(x[:1].to(BFLOAT16), scale, shift, None, 0.5, 1.0, BFLOAT16, True) for form in (plain, compiled)
    ]
    assert all(torch.equal(expected, found) for expected, found in zip(*results))


@pytest.mark.parametrize("shape", [*SHAPES.values(), *LARGER.values()], ids=[*SHAPES, *LARGER])
@pytest.mark.parametrize("mean", [0.0, 1e4], ids=["around zero", "far from zero"])
def test_moments_are_those_of_float64(shape, mean, threads):
    x = (on_cpu(*shape) * (1 + mean / 50) + mean).to(BFLOAT16)
    var, expected = torch.var_mean(x.double(), 1, correction=0)
    found, spread = compiled.moments(x)
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(spread.double(), var, rtol=1e-4, atol=1e-6)


SURROGATES = [Surrogate(), Surrogate(width=0.25), Surrogate("arctangent", 0.5), Surrogate(adaptive=True)]


@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: f"{s.shape} {s.width}" + " adaptive" * s.adaptive)
@pytest.mark.parametrize("statistics", ["fixed", "each step", "over time"])
@pytest.mark.parametrize(
    "shape", [*SHAPES.values(), (1, 6, 4), LARGER["several shares"]], ids=[*SHAPES, "still", "several shares"]
)
@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT16], ids=str)
def test_gradients_are_those_of_the_plain_form(dtype, shape, statistics, surrogate, threads):
    """γ and ∂u'_0 in float32; ∂x, where it is bfloat16, up to one rounding."""
    x, _, _, carried = inputs(shape, device="cpu")
    x = x.to(dtype)
    norm = scaling((4, *shape[1:]) if len(x) == 1 and shape[1] == 6 else shape, statistics, "cpu")
    steps = len(norm.gamma)
    pulls = on_cpu(steps, *shape[1:], seed=9).to(dtype), on_cpu(*shape[1:], seed=10)
    rest = (norm, 0.9, 1.0, surrogate, 1, x.shape, x.dtype)
    cases = [  # as in training; as in an attack; a gradient through the last membrane alone
        (carried, *pulls, (True, True, True)),
        (None, pulls[0], None, (True, False, False)),
        (carried, None, pulls[1], (True, True, False)),
    ]
    for before, spikes, after, wanted in cases:
        membrane = plain.fire(x, *norm.affine(), before, 0.9, 1.0, dtype, True)[2]
        expected = plain.gradients(x, membrane, before, spikes, after, *rest, wanted)
        found = compiled.gradients(x, None, before, spikes, after, *rest, wanted)
        assert [one is not None for one in found] == [*wanted, True]
        for one, other in zip(expected, found):
            if one is not None:
                rounding = 2.0**-7 if one.dtype == BFLOAT16 else 1e-4
                assert other.dtype == one.dtype
                torch.testing.assert_close(other, one, rtol=rounding, atol=1e-5 * float(one.abs().max()))


POOLED = {"small": (3, 24, 5, 6), "one average": (2, 4, 3, 2), "several shares": (7, 4800, 9, 20)}  # …, width


@pytest.mark.parametrize("shape", POOLED.values(), ids=POOLED)
@pytest.mark.parametrize("begun", [False, True], ids=["from rest", "carried on"])
@pytest.mark.parametrize("still", [False, True], ids=["moving", "still"])
@pytest.mark.parametrize("given, dtype", KINDS, ids=str)
def test_pooled_spikes_are_those_of_the_plain_form(shape, begun, still, given, dtype, threads):
    *shape, width = shape
    x, scale, shift, carried = inputs(shape, 8, "cpu")
    x = (x[:1] if still else x).to(given)
    expected, found = (
        form.fire(x, scale, shift, carried if begun else None, 0.75, 1.0, dtype, False, pool_width=width)[:2]
        for form in (plain, compiled)
    )
    assert all(torch.equal(one, other) and one.dtype == other.dtype for one, other in zip(expected, found))
    assert set(found[0].unique().tolist()) <= {0, 0.25, 0.5, 0.75, 1}


@pytest.mark.parametrize("shape", POOLED.values(), ids=POOLED)
@pytest.mark.parametrize("surrogate", [SURROGATES[0], SURROGATES[-1]], ids=["triangle", "adaptive"])
@pytest.mark.parametrize("statistics", ["fixed", "each step"])
@pytest.mark.parametrize("still", [False, True], ids=["moving", "still"])
@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT16], ids=str)
def test_gradients_of_pooled_spikes_are_those_of_the_plain_form(dtype, shape, still, statistics, surrogate, threads):
    *shape, width = shape
    x, norm = on_cpu(*shape).to(dtype)[: 1 if still else None], scaling(shape, statistics, "cpu")
    carried, after = (on_cpu(*shape[1:], seed=seed) for seed in (3, 10))
    pull = on_cpu(shape[0], shape[1] // 4, shape[2], seed=9).to(dtype)
    rest = norm, 0.9, 1.0, surrogate, 1, x.shape, x.dtype, (True, True, True), width
    membrane = plain.fire(x, *norm.affine(), carried, 0.9, 1.0, dtype, True)[2]
    expected = plain.gradients(x, membrane, carried, pull, after, *rest)
    for one, other in zip(expected, compiled.gradients(x, None, carried, pull, after, *rest)):
        rounding = 2.0**-7 if one.dtype == BFLOAT16 else 1e-4
        torch.testing.assert_close(other, one, rtol=rounding, atol=1e-5 * float(one.abs().max()))


@pytest.mark.parametrize("shape", [(3, 1, 6, 5), (2, 3, 8, 8), (40, 2, 20, 20)], ids=str)
@pytest.mark.parametrize("start", [0, 3, 2**30], ids=["from the first", "later", "counters that wrap"])
def test_random_spikes_are_the_same_bits(shape, start, threads):
    images, samples = on_cpu(*shape), torch.arange(shape[0]) * 2**31 + 7
    images.view(-1)[:3] = torch.tensor([0.0, float("inf"), -float("inf")])
    found = encoding.poisson(images, 6, 5, samples, start=start, dtype=BFLOAT16)
    assert torch.equal(found, encoding.poisson(images, 6, 5, samples, start=start).to(BFLOAT16))
    assert found.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    assert set(found.unique().tolist()) == {-1, 0, 1}


def test_an_image_whose_gradient_is_asked_for_keeps_its_precision():
    images = on_cpu(2, 1, 4, 4).requires_grad_()
    spikes = encoding.poisson(images, 3, 5, torch.arange(2), dtype=BFLOAT16)
    assert spikes.dtype == torch.float32 and spikes.requires_grad


@pytest.mark.parametrize("shape", [(784, 128, 256), (1000, 32, 1024), (25, 8, 1024), (25, 8192, 64)], ids=str)
def test_sums_take_no_more_memory_than_the_currents(shape):
    steps, _, channels = shape
    x, one = torch.empty(shape, dtype=BFLOAT16), torch.empty(steps, channels)
    back = compiled._Back(x, one, one, one, None, None, None, 0.9, 1.0, Surrogate(), 0)
    assert back._shares[0] * 2 * 8 * steps * channels <= max(x.nbytes, 2 * 8 * steps * channels)


def test_sums_do_not_depend_on_the_number_of_threads(monkeypatch):
    """Bit for bit: the shares that are summed are the same."""
    shape = LARGER["several shares"]
    x, norm = on_cpu(*shape).to(BFLOAT16), scaling(shape, "each step", "cpu")
    pull, found, before = on_cpu(*shape, seed=9).to(BFLOAT16), [], torch.get_num_threads()
    monkeypatch.setattr(compiled, "SHARE_BYTES", 2**12)
    for number in (1, 2, 5):
        torch.set_num_threads(number)
        rest = norm, 0.9, 1.0, Surrogate(), 1, x.shape, x.dtype, (True, True, True)
        found.append([*compiled.moments(x), *compiled.gradients(x, None, None, pull, None, *rest)])
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other))


def test_a_float32_is_rounded_to_bfloat16_as_torch_does():
    """Of every kind: ties, the largest, infinities, what is not a number, the smallest."""
    special = [
        0.0,
        -0.0,
        1.00390625,
        1.01171875,
        3.4e38,
        -3.4e38,
        float("inf"),
        -float("inf"),
        float("nan"),
        1e-45,
        1e-39,
    ]
    numbers = torch.cat([torch.tensor(special), on_cpu(989) * 10.0 ** on_cpu(989, seed=1).mul(10)])
    count = len(numbers)
    x, one, none = torch.zeros(1, count, 1, dtype=BFLOAT16), torch.ones(1, 1), torch.zeros(1, 1)
    back = compiled._Back(x, one, none, none[0], None, None, numbers[:, None], 0.5, 1.0, Surrogate(), 0)
    found, first = back.written(one, none, none, BFLOAT16)
    torch.testing.assert_close(found.flatten(), numbers.to(BFLOAT16), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(first.flatten(), 0.5 * numbers, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("norm", ["bntt", "bn", "tdbn", "none"])
def test_a_network_trains_alike_on_either_form(norm, monkeypatch):
    """Scores, gradients and running statistics of a whole network in bfloat16."""
    config = ModelConfig("vgg-small", 4, 3, (2, 8, 8), 0.75, norm=norm, layout="C5 P C6 F7")
    x, truth = on_cpu(4, 2, 8, 8, grid=4), torch.tensor([0, 1, 2, 1])
    found = []
    for form in (plain, compiled):
        monkeypatch.setattr(
            kernels,
            "of",
            lambda x, dtype=None, *, learning=False, f=form: f if (dtype or x.dtype) == BFLOAT16 else plain,
        )
        torch.manual_seed(0)
        model = build_model(config).train()
        model.precision = "bfloat16"
        scores = model.forward_steps(x, seed=1)
        torch.nn.functional.cross_entropy(scores[-1], truth).backward()
        found.append((scores, {name: p.grad for name, p in model.named_parameters()}, model.state_dict()))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-2, atol=1e-3)
    for name, gradient in found[0][1].items():
        largest = float(gradient.abs().max())
        torch.testing.assert_close(
            found[1][1][name], gradient, rtol=0.02, atol=0.01 * largest, msg=lambda m: f"{name}: {m}"
        )
    for name, one in found[0][2].items():
        torch.testing.assert_close(found[1][2][name], one, rtol=1e-4, atol=1e-5)


def test_bfloat16_on_a_cpu_takes_this_form_and_float32_where_it_learns():
    single, double = torch.zeros(1), torch.zeros(1, dtype=torch.float64)
    assert (
        kernels.of(single.to(BFLOAT16)) is kernels.of(single, learning=True) is kernels.of(single, BFLOAT16) is compiled
    )
    assert kernels.of(single) is kernels.of(double) is kernels.of(double, learning=True) is plain


def test_several_threads_may_compute_at_once():
    x, scale, shift, _ = inputs(LARGER["several shares"], 8, "cpu")
    x, found = x.to(BFLOAT16), {}
    expected = plain.fire(x, scale, shift, None, 0.75, 1.0, BFLOAT16, False)[0]

    def compute(number):
        found[number] = [compiled.fire(x, scale, shift, None, 0.75, 1.0, BFLOAT16, False)[0] for _ in range(5)]

    each = [threading.Thread(target=compute, args=(number,)) for number in range(4)]
    for one in each:
        one.start()
    for one in each:
        one.join()
    assert len(found) == 4 and all(torch.equal(one, expected) for ones in found.values() for one in ones)


def test_other_threads_help():
    seen = set()
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    together = threading.Barrier(3, timeout=30)

    def work(begin, end):
        seen.add(threading.get_ident())
        together.wait()

    compiled._shared_out(work, 3, 1, 3)
    torch.set_num_threads(before)
    assert len(seen) == 3


def test_no_rows_are_no_work():
    none = torch.empty(4, 0, 3, dtype=BFLOAT16)
    scale, shift = on_cpu(4, 3), on_cpu(4, 3, seed=1)
    spikes, after, membrane = compiled.fire(none, scale, shift, None, 0.9, 1.0, BFLOAT16, True)
    assert spikes.shape == membrane.shape == none.shape and after.shape == (0, 3)
    norm, wanted = scaling((4, 0, 3), "fixed", "cpu"), (True, True, True)
    dx, *sums, first = compiled.gradients(
        none, None, None, none, None, norm, 0.9, 1.0, Surrogate(), 1, none.shape, BFLOAT16, wanted
    )
    assert dx.shape == none.shape and first.shape == (0, 3) and not any(one.any() for one in sums)
    assert all(one.isnan().all() for one in compiled.moments(none))


def test_tensors_of_any_layout_and_precision_are_taken():
    """A membrane whose rows are not contiguous, and a norm in bfloat16, as `model.bfloat16()` has it."""
    x, scale, shift, carried = inputs((5, 40, 8), 8, "cpu")
    x, scale, shift = (one.to(BFLOAT16) for one in (x, scale, shift))
    for held in (carried.T.contiguous().T, carried.to(BFLOAT16)):
        results = [form.fire(x, scale, shift, held, 0.75, 1.0, BFLOAT16, True) for form in (plain, compiled)]
        assert all(torch.equal(expected, found) for expected, found in zip(*results))


def test_without_numba_bfloat16_is_computed_in_the_plain_form():
    script = "import sys; sys.modules['numba'] = None; import torch; from engine.snn import ModelConfig, build_model, kernels;"
    script += "m = build_model(ModelConfig('vgg-small', 2, 3, (1, 8, 8), layout='C4 P F4')); m.precision = 'bfloat16';"
    script += "m.train()(torch.rand(2, 1, 8, 8)).sum().backward(); print(kernels.of(torch.zeros(1, dtype=torch.bfloat16)).__name__)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "engine.snn.kernels.plain\n", done.stderr


def test_kernels_are_kept_for_the_next_process_and_work_where_they_cannot_be(tmp_path):
    """Compiling takes seconds. Where Numba finds no folder that it can write, it raises on decoration."""
    script = (
        "from engine.snn.kernels import compiled, loops; import torch; x = torch.ones(1, 4, 3, dtype=torch.bfloat16);"
    )
    script += "print(compiled.moments(x)[0].sum().item(), sum(loops.moments.stats.cache_hits.values()))"
    nowhere = "import numba.core.caching as caching; caching.CacheImpl._locator_classes = [];"
    environment, found = os.environ | {"PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(tmp_path)}, []
    for before in ("", "", nowhere):
        command = [sys.executable, "-c", before + script]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        found.append(done.stdout or done.stderr)
    assert found == ["3.0 0\n", "3.0 1\n", "3.0 0\n"]


@pytest.mark.parametrize("form, dtype", [(plain, torch.float32), (plain, BFLOAT16), (compiled, BFLOAT16)], ids=str)
@pytest.mark.parametrize("shape", [(25, 700, 33), (1, 40, 8)], ids=str)
def test_spikes_may_be_written_over_the_currents(form, dtype, shape):
    x, scale, shift, carried = inputs(shape, 8, "cpu")
    x = x.to(dtype)
    expected = form.fire(x, scale, shift, carried, 0.75, 1.0, dtype, False)
    currents = x.clone()
    spikes, after, _ = form.fire(currents, scale, shift, carried, 0.75, 1.0, dtype, False, over=True)
    assert spikes.data_ptr() == currents.data_ptr()
    assert torch.equal(spikes, expected[0]) and torch.equal(after, expected[1])


@pytest.mark.parametrize("form", [plain, compiled], ids=["plain", "compiled"])
def test_currents_that_do_not_fit_are_left_alone(form):
    """One row for every timestep; another number format; rows that are not contiguous."""
    x, scale, shift, _ = inputs((6, 10, 7), 8, "cpu")
    x = x.to(BFLOAT16)
    for given, dtype in ((x[:1], BFLOAT16), (x, torch.float32), (x.movedim(0, 2).contiguous().movedim(2, 0), BFLOAT16)):
        before = given.clone()
        expected = form.fire(before.contiguous(), scale, shift, None, 0.5, 1.0, dtype, False)[0]
        assert torch.equal(form.fire(given, scale, shift, None, 0.5, 1.0, dtype, False, over=True)[0], expected)
        assert torch.equal(given, before)
