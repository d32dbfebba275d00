"""Results as Parquet: what comes back is what went in, and pandas reads it without the engine."""

import io
import json
import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.analysis.evaluation import Evaluation
from engine.result_codec import KIND, Undecodable, decode, encode


def same(one: Evaluation, other: Evaluation) -> bool:
    """Values, shapes and data types."""
    pairs = [(value, getattr(other, name)) for name, value in vars(one).items()]
    return all(a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)


def example(steps=3, samples=4, layers=2) -> Evaluation:
    draw = np.random.default_rng(0)
    return Evaluation(
        draw.integers(0, 10, (steps, samples), np.int32),
        draw.integers(0, 10, samples),
        draw.integers(0, 1000, (steps, layers + 1, samples)),
        *draw.random((3, steps, samples), np.float32),
    )


@st.composite
def evaluations(draw):
    steps, samples, hidden = draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(st.integers(0, 3))
    spikes = draw(arrays(np.int64, (steps, hidden + 1, samples), elements=st.integers(-(2**63), 2**63 - 1)))
    if draw(st.booleans()):
        spikes[:, 1:] = 0  # as an ANN's
    return Evaluation(
        draw(arrays(np.int32, (steps, samples), elements=st.integers(0, 2**31 - 1))),
        draw(arrays(np.int64, samples, elements=st.integers(0, 2**63 - 1))),
        spikes,
        *draw(arrays(np.float32, (3, steps, samples), elements=st.floats(width=32))),
    )


@given(evaluations())
def test_an_evaluation_comes_back_exactly(result):
    assert same(decode(encode(result)), result)


@pytest.mark.parametrize("steps, samples", [(1, 1), (1, 5), (7, 1), (4, 0)])
def test_the_smallest_come_back_exactly(steps, samples):
    result = example(steps, samples)
    assert same(decode(encode(result)), result)


def test_an_evaluation_is_a_tidy_table_for_pandas():
    """Against the docstring's words, sample by sample and step by step."""
    result = example()
    table = pd.read_parquet(io.BytesIO(encode(result)))
    certainty = ["confidence", "margin", "entropy"]
    assert list(table) == ["sample", "step", "label", "predicted", *certainty, "spikes_0", "spikes_1", "spikes_2"]
    rows = iter(table.to_dict("records"))
    for sample in range(4):
        for t in range(3):
            spikes = {f"spikes_{layer}": result.spikes[t, layer, sample] for layer in range(3)}
            about = {"sample": sample, "step": t + 1, "label": result.labels[sample]}
            sure = {name: getattr(result, name)[t, sample] for name in certainty}
            assert next(rows) == about | {"predicted": result.predictions[t, sample]} | sure | spikes
    assert next(rows, None) is None


@given(
    st.lists(st.floats(width=64), min_size=0, max_size=6).flatmap(
        lambda values: st.tuples(
            st.just(values),
            *(st.lists(of, min_size=len(values), max_size=len(values)) for of in (st.booleans(), st.text())),
        )
    )
)
def test_a_data_frame_comes_back_exactly(columns):
    """The latency table's kind, with text besides."""
    values, measured, text = columns
    frame = pd.DataFrame(
        {
            "step": np.arange(1, len(values) + 1),
            "latency_ms": np.array(values, np.float64),
            "measured": np.array(measured, bool),
            "text": pd.Series([word.encode("utf-8", "replace").decode() for word in text], dtype="str"),
        }
    )
    pd.testing.assert_frame_equal(decode(encode(frame)), frame, check_exact=True)


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="list"):
        encode([1, 2])


def test_damaged_bytes_are_told_or_make_a_result():
    """Never another exception, whichever bit has changed and wherever the bytes end."""
    content, chance = encode(example()), random.Random(0)
    for _ in range(300):
        damaged = bytearray(content[: chance.choice([len(content), chance.randrange(len(content))])])
        if damaged:
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        try:
            assert isinstance(decode(bytes(damaged)), (Evaluation, pd.DataFrame))
        except Undecodable:
            pass


def rewritten(change=lambda table: table, kind=None, pandas=None) -> bytes:
    """Parquet of a changed evaluation with these metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    frame = change(pd.read_parquet(io.BytesIO(encode(example()))))
    table = pa.Table.from_pandas(frame, preserve_index=False)
    said = {"kind": "evaluation", "steps": 3, "samples": 4} if kind is None else kind
    metadata = {KIND: said if isinstance(said, bytes) else json.dumps(said).encode()}
    target = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata | ({b"pandas": pandas} if pandas else {})), target)
    return target.getvalue()


def test_the_rewritten_example_is_read():
    assert same(decode(rewritten()), example()), "or the next test would show nothing"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PAR1" * 100,
        rewritten(kind={"kind": "evaluation", "steps": 4, "samples": 3}),
        rewritten(kind={"kind": "evaluation", "steps": 0, "samples": 0}),
        rewritten(kind={"kind": "evaluation", "steps": -3, "samples": -4}),
        rewritten(kind={"kind": "evaluation", "steps": None, "samples": []}),
        rewritten(kind=[]),
        rewritten(kind=b"[" * 10_000),
        rewritten(kind={"kind": "table"}, pandas=b'{"index_columns":[null],"columns":[null],"column_indexes":[null]}'),
        rewritten(lambda table: table.drop(columns="label")),
        rewritten(lambda table: table[["sample", "step", "label", "predicted"]]),
        rewritten(lambda table: table[["sample", "step", "label", "predicted", "confidence", "margin", "entropy"]]),
        rewritten(lambda table: table.drop(columns=["confidence", "margin", "entropy"])),
        rewritten(lambda table: table.assign(confidence=table["confidence"].astype("float64"))),
        rewritten(lambda table: table.assign(margin="sure")),
        rewritten(lambda table: table.assign(entropy=pd.array([None] * 12, "Float32"))),
        rewritten(lambda table: table.iloc[::-1]),
        rewritten(lambda table: table.assign(label=range(12))),
        rewritten(lambda table: table.assign(predicted=0.5)),
        rewritten(lambda table: table.assign(predicted=pd.array([None] * 12, "Int32"))),
    ],
    ids=range(20),
)
def test_a_table_that_is_no_result_is_told(content):
    with pytest.raises(Undecodable):
        decode(content)
