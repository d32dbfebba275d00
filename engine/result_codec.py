"""Results as Parquet and back: tables that pandas reads, from which every value and data type comes back as it was.

An Evaluation is a row for each sample × step: sample (position, from 0), step (from 1), label, predicted, confidence,
margin, entropy, and spikes_0 (fired by the input at that step), spikes_1 … of the layers. A data frame of numbers, booleans and text is as it is.
"""

from __future__ import annotations

import io
import json
from functools import cache
from importlib.util import find_spec

import numpy as np
import pandas as pd

from .analysis.evaluation import Evaluation

KIND = b"bntt"  # in the schema's metadata: what was made into this table
COLUMNS = ["sample", "step", "label", "predicted"]
CERTAINTY = ["confidence", "margin", "entropy"]
# What Python and pandas make of metadata that are JSON of another shape; pyarrow's errors come on top.
DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


class Undecodable(ValueError):
    """These bytes are no result."""


@cache
def available() -> bool:
    """Whether Parquet can be written and read here: the engine's core is also installed without."""
    return find_spec("pyarrow") is not None


def encode(result: Evaluation | pd.DataFrame) -> bytes:
    """Parquet, compressed. Raises TypeError for anything else."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if isinstance(result, Evaluation):
        steps, samples = result.predictions.shape
        table, kind = pa.table(_columns(result)), {"kind": "evaluation", "steps": steps, "samples": samples}
    elif isinstance(result, pd.DataFrame):
        table, kind = pa.Table.from_pandas(result), {"kind": "table"}
    else:
        raise TypeError(f"a result of type {type(result).__name__} cannot be kept")
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), KIND: json.dumps(kind)})
    target = io.BytesIO()
    pq.write_table(table, target, compression="zstd")
    return target.getvalue()


def decode(content: bytes) -> Evaluation | pd.DataFrame:
    """What `encode` was given. Raises Undecodable."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(content))
        kind = json.loads((table.schema.metadata or {})[KIND])
        if kind["kind"] == "evaluation":
            return _evaluation(table, int(kind["steps"]), int(kind["samples"]))
        return table.to_pandas()
    except (pa.ArrowException, *DAMAGED) as error:
        raise Undecodable(str(error)) from error


def _columns(result: Evaluation) -> dict[str, np.ndarray]:
    steps, samples = result.predictions.shape
    columns = {
        "sample": np.repeat(np.arange(samples), steps),
        "step": np.tile(np.arange(1, steps + 1), samples),
        "label": np.repeat(result.labels, steps),
        "predicted": result.predictions.T.ravel(),
    }
    columns |= {name: getattr(result, name).T.ravel() for name in CERTAINTY}
    return columns | {f"spikes_{layer}": result.spikes[:, layer].T.ravel() for layer in range(result.spikes.shape[1])}


def _evaluation(table, steps: int, samples: int) -> Evaluation:
    about = COLUMNS + CERTAINTY
    layers = table.num_columns - len(about)
    if table.column_names != about + [f"spikes_{layer}" for layer in range(layers)] or layers < 1:
        raise Undecodable("other columns than those of an evaluation")
    if table.num_rows != steps * samples:
        raise Undecodable(f"{table.num_rows} rows of {steps} steps × {samples} samples")
    values = {
        name: (_floats if name in CERTAINTY else _integers)(table[name]).reshape(samples, steps).T
        for name in table.column_names
    }
    found = Evaluation(
        np.ascontiguousarray(values["predicted"]),
        _integers(table["label"])[::steps].copy(),
        np.stack([values[f"spikes_{layer}"] for layer in range(layers)], 1),
        *(np.ascontiguousarray(values[name]) for name in CERTAINTY),
    )
    expected = _columns(found)
    if not all(np.array_equal(expected[name], values[name].T.ravel()) for name in COLUMNS):
        raise Undecodable("samples, steps or labels out of order")
    return found


def _integers(column) -> np.ndarray:
    array = _complete(column)
    if array.dtype.kind not in "iu":
        raise Undecodable("a value is no whole number")
    return array


def _floats(column) -> np.ndarray:
    array = _complete(column)
    if array.dtype != np.float32:
        raise Undecodable("a value is no float32")
    return array


def _complete(column) -> np.ndarray:
    if column.null_count:
        raise Undecodable("a value is missing")
    return column.to_numpy()
