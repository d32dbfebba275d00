"""The app under AppTest: where it is, waiting until a page is complete, reading what it shows."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from dashboard import work

APP = Path(__file__).resolve().parents[2] / "dashboard" / "app.py"
WAIT = 120


@contextmanager
def serving(folder: Path) -> Iterator[Path]:
    """The app on this folder of runs; its work queue is closed at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BNTT_RUNS", str(folder))
        patch.delenv("BNTT_SCHEDULER", raising=False)
        yield folder
        work.jobs().close()
        work.jobs.clear()


def finished(app):
    """The page once everything it waits for has been computed."""
    for job in work.jobs().all():
        assert job.wait(WAIT)
    return healthy(app.run())


def healthy(app):
    assert [error.value for error in app.exception] == []
    return app


def said(app) -> str:
    """All text of the page."""
    return "\n".join(element.value for kind in ("markdown", "caption") for element in getattr(app.main, kind))


def figure(app, chart) -> dict:
    """A chart as the browser gets it."""
    (found,) = (c for c in app.get("plotly_chart") if c.proto.id.endswith(f"chart_{chart}"))
    return json.loads(found.proto.spec)


def drawn(app, chart) -> list[np.ndarray]:
    """Every array of numbers in a chart, traces in order."""
    arrays = []
    for trace in figure(app, chart)["data"]:
        for value in trace.values():
            if isinstance(value, dict) and "bdata" in value:
                array = np.frombuffer(base64.b64decode(value["bdata"]), np.dtype(value["dtype"]))
                shape = [int(n) for n in value.get("shape", str(array.size)).split(",")]
                arrays.append(array.reshape(shape))
            elif isinstance(value, list) and value and all(isinstance(v, (int, float)) for v in value):
                arrays.append(np.array(value))
    return arrays


def assert_drawn(app, chart, expected):
    expected = np.asarray(expected)
    assert any(a.shape == expected.shape and np.allclose(a, expected, atol=1e-5) for a in drawn(app, chart)), chart
