"""The app under AppTest: where it is, and waiting until a page is complete."""

from pathlib import Path

from dashboard import work

APP = Path(__file__).resolve().parents[2] / "dashboard" / "app.py"
WAIT = 120


def finished(app):
    """The page once everything it waits for has been computed."""
    for job in work.jobs().all():
        assert job.wait(WAIT)
    return healthy(app.run())


def healthy(app):
    assert [error.value for error in app.exception] == []
    return app
