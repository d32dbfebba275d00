"""How far a run is, as a share: counted by hand."""

import json

import pytest

from engine.run_library import progress_share


@pytest.mark.parametrize(
    "stage, epoch, epochs, batch, batches, share",
    [
        ("training", 1, 4, 0, 10, 0.0),
        ("training", 1, 4, 5, 10, 0.125),
        ("training", 4, 4, 10, 10, 1.0),
        ("validating", 2, 4, 0, 3, 0.5),
        ("testing", 4, 4, 1, 3, 1.0),
        ("training", 3, 4, 50, 10, 0.75),  # more than there are, in a file that somebody wrote
        ("training", 9, 4, 0, 0, 1.0),
        ("training", 0, 0, 0, 0, 0.0),
    ],
)
def test_share(stage, epoch, epochs, batch, batches, share, tmp_path):
    told = {"stage": stage, "epoch": epoch, "epochs": epochs, "batch": batch, "batches": batches, "seconds_left": 12.5}
    (tmp_path / "progress.json").write_text(json.dumps(told))
    assert progress_share(tmp_path) == (pytest.approx(share), 12.5)


@pytest.mark.parametrize("content", ["", "[]", '{"stage": "x"}'])
def test_nothing_is_told(content, tmp_path):
    assert progress_share(tmp_path) is None
    (tmp_path / "progress.json").write_text(content)
    assert progress_share(tmp_path) is None
