"""What the tests of the command line and of the store share."""

import json

import pytest

from engine import store
from engine.__main__ import main


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
