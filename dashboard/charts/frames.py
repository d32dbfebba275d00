"""Long frames → the arrays that traces take."""

import numpy as np
import pandas as pd


def layers_by_step(frame: pd.DataFrame, value: str) -> tuple[list[str], np.ndarray]:
    """(layer names in order of appearance, float32 [layers, T]) with T = the last step; NaN where a row is missing."""
    names = frame["layer"].drop_duplicates().tolist()
    wide = frame.pivot(index="layer", columns="step", values=value)
    wide = wide.reindex(index=names, columns=range(1, int(frame["step"].max()) + 1))
    return [str(name) for name in names], wide.to_numpy(dtype=np.float32)


def column(frame: pd.DataFrame, name: str, scale: float = 1.0) -> np.ndarray:
    """One column as float32, times `scale`; float32 because plotly sends it as a compact binary array."""
    return (frame[name].to_numpy(dtype=np.float64) * scale).astype(np.float32)


def at_step(frame: pd.DataFrame, name: str, step: int | None) -> float:
    """The value of a column at one step; NaN if the step is None or missing."""
    found = frame.loc[frame["step"] == step, name] if step is not None else frame[name][:0]
    return float(found.iloc[0]) if len(found) else float("nan")
