"""What the tests of the command line, of the store and of bounded memory share."""

import json

import pytest

from engine import store
from engine.__main__ import main
from engine.snn import passing


@pytest.fixture
def answer(capsys):
    """Runs a command that must succeed and gives back its JSON."""

    def run(*arguments):
        assert main([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def kept(tmp_path, monkeypatch) -> store.Store:
    """A store of the test's own, which the environment names."""
    monkeypatch.setenv("BNTT_STORE", str(tmp_path / "store"))
    return store.store()


@pytest.fixture
def cuts(monkeypatch) -> list:
    """An entry for each piece of time that a backward pass computes again."""
    found, cut = [], passing.checkpoint
    monkeypatch.setattr(passing, "checkpoint", lambda *given, **how: found.append(given) or cut(*given, **how))
    return found
