"""What tests.benchmarks.network says of figures that were written down by hand."""

import pytest

from tests.benchmarks import network_table

SECONDS = {"engine": 2.0, "loop": 5.0, "SpikingJelly": 3.0, "bare layers": 1.0, "bare layers and one pass": 1.25}


def rows(precision="float32", without=(), **seconds):
    """A training of batch 8; others' memory is 100 bytes, the engine's 30."""
    setting = {"task": "training", "precision": precision, "batch": 8}
    return [
        setting
        | {"name": name, "seconds": taken, "quartiles": [taken, taken], "share_of_limit": 0.5, "limit_seconds": 0.8}
        | {"peak_bytes": 30 if name == "engine" else 100}
        for name, taken in (SECONDS | seconds).items()
        if name not in without
    ]


def said(kind="cpu", **choices):
    return network_table.ratios(rows(**choices), kind)[0]


def test_ratios_are_times_as_fast():
    found = said()
    assert found["× loop"] == found["× loop32"] == 2.5 and found["× jelly"] == 1.5
    assert (found["bare"], found["floor"], found["most"], found["memory"]) == (5.0, 4.0, 6.25, 0.3)
    assert found["aims"] == {"× loop32": {"aim": 1.4, "met": True}, "× jelly": {"aim": 1.0, "met": True}}


def test_other_precisions_are_beside_the_loop_in_float32():
    found = said(precision="bfloat16", **{"loop in float32": 4.0})
    assert found["× loop"] == 2.5 and found["× loop32"] == 2.0 and found["bare"] == 4.0
    assert found["aims"]["× loop32"] == {"aim": 2.5, "met": False}


def test_a_gpu_has_aims_of_its_own():
    aims = said(kind="cuda")["aims"]
    assert aims["× loop"] == {"aim": 4.0, "met": False} and aims["× jelly"] == {"aim": 1.5, "met": True}
    assert aims["memory"] == {"aim": 0.4, "met": True}


@pytest.mark.parametrize("missing, precision", [("loop", "float32"), ("loop in float32", "bfloat16")])
def test_who_could_not_be_measured_leaves_the_rest(missing, precision):
    """In particular, the loop in bfloat16 does not stand for the one in float32."""
    found = said(precision=precision, without=(missing,))
    assert "× loop32" not in found and "bare" not in found and found["× jelly"] == 1.5
    assert set(found["aims"]) == {"× jelly"}


def test_the_table_names_what_is_missing():
    about = {"device": "a CPU", "kind": "cpu", "threads": 2, "torch": "2", "date": "today", "rounds": 3}
    found = about | {"different_spikes": {"loop": 0.0}, "rows": rows(without=("loop",)), "errors": ["loop: killed"]}
    table = network_table.table(found | {"ratios": network_table.ratios(found["rows"], "cpu")})
    *_, line, error = table.splitlines()
    assert "none" in line and "✓ × jelly ≥ 1" in line and error == "not measured: loop: killed"
