"""What the tests of the command line share."""

import json

import pytest

from engine.__main__ import main


@pytest.fixture
def answer(capsys):
    """Runs a command that must succeed and gives back its JSON."""

    def run(*arguments):
        assert main([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run
