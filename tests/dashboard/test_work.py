"""The sidebar's list of long work: what runs, what a dead server left, and the ways to open, cancel and forget it."""

import time

import pytest
from streamlit.testing.v1 import AppTest

from dashboard import work
from engine import job_record
from engine.job import Job
from engine.store import store
from tests.dashboard.apps import APP, WAIT, healthy

WHERE = ("robustness", {"samples": ["7"], "attacks": ["fgsm", "pgd"]})


@pytest.fixture
def app():
    app = AppTest.from_file(APP, default_timeout=WAIT)
    app.switch_page("../pages/gamma.py")
    yield app
    for job in work.jobs().all():
        job.cancel()


def sidebar(app):
    return " ".join(element.value for element in [*app.sidebar.markdown, *app.sidebar.caption])


def test_nothing_is_listed_when_nothing_runs(app):
    healthy(app.run())
    assert "Running now" not in sidebar(app) and "Interrupted" not in sidebar(app)


def test_what_runs_is_listed_on_every_page_and_can_be_cancelled(app):
    job = work.jobs().submit("a long one", "A long one", time.sleep, [(60,)], where=WHERE)
    healthy(app.run())
    assert "Running now" in sidebar(app)
    app.sidebar.button(key=f"cancel here {job.key}").click().run()
    assert job.state == "cancelled"
    healthy(app.run())
    assert "Running now" not in sidebar(app)


def test_what_a_page_computes_by_itself_is_not_listed_twice(app):
    """Only work with a page of its own to look at; a sweep's close-up has none."""
    job = work.jobs().submit("hidden", "Hidden", time.sleep, [(60,)])
    healthy(app.run())
    assert "Running now" not in sidebar(app)
    job.cancel()


def test_what_a_dead_server_left_is_listed_until_forgotten(app, monkeypatch):
    left = Job("left", "A sweep of yesterday", 4, where=WHERE)
    left._begin()
    left._recall({0: "known"})
    monkeypatch.setattr("engine.store.owner", lambda: "another machine:1:1")
    store().record(left)
    monkeypatch.setattr(job_record, "AWAY_SECONDS", 0)
    healthy(app.run())
    assert "Interrupted" in sidebar(app) and "A sweep of yesterday: 25 % done" in sidebar(app)
    app.sidebar.button(key="forget left").click().run()
    assert "A sweep of yesterday" not in sidebar(healthy(app.run()))
    assert "left" not in {record.key for record in store().jobs()}


def test_a_record_that_cannot_be_read_does_no_harm(app):
    """A page that is no longer there: the record is not listed, and nothing breaks."""
    odd = Job("odd", "Odd", 4, where=("no such page", {"x": ["1"]}))
    odd._end("interrupted")
    store().record(odd)
    healthy(app.run())
    assert "Odd" not in sidebar(app)
    store().forget("odd")


@pytest.mark.parametrize(
    "seconds, said",
    [
        (0.4, "nearly done"),
        (59.6, "about 60 s left"),
        (150, "about 2 min left"),
        (5400, "about 90 min left"),
        (9000, "about 2.5 h left"),
    ],
)
def test_time_left_is_said_as_people_do(seconds, said):
    assert work.duration(seconds) == said
