"""Uploads: each visitor's own, and bounded."""

import pytest

from dashboard.visitor import Uploads

ALICE, BOB = "a" * 32, "b" * 32


@pytest.fixture
def uploads():
    return Uploads(limit=100)


def test_visitors_do_not_see_each_other(uploads):
    uploads.put(ALICE, "net.pth", "alice's", 10)
    uploads.put(BOB, "net.pth", "bob's", 10)
    uploads.put(BOB, "other.pth", "bob's other", 10)
    assert (uploads.get(ALICE, "net.pth"), uploads.get(BOB, "net.pth")) == ("alice's", "bob's")
    assert uploads.get(ALICE, "other.pth") is None
    assert (set(uploads.names(ALICE)), set(uploads.names(BOB))) == ({"net.pth"}, {"net.pth", "other.pth"})


def test_looking_at_one_does_not_reorder_the_list(uploads):
    """The list is a menu: its entries keep their places."""
    for name in ("one", "two"):
        uploads.put(ALICE, name, name, 1)
    uploads.get(ALICE, "one")
    assert uploads.names(ALICE) == ["one", "two"]


def test_same_name_is_replaced_and_counted_once(uploads):
    for content in ("old", "new"):
        uploads.put(ALICE, "net.pth", content, 60)
    uploads.put(ALICE, "more.pth", "more", 40)
    assert uploads.get(ALICE, "net.pth") == "new" and uploads.get(ALICE, "more.pth") == "more"


def test_least_recently_used_go_beyond_the_limit(uploads):
    for name in ("one", "two"):
        uploads.put(ALICE, name, name, 50)
    assert uploads.get(ALICE, "one") == "one"  # used again: "two" is the oldest now
    uploads.put(BOB, "three", "three", 50)
    assert (uploads.names(ALICE), uploads.names(BOB)) == (["one"], ["three"])
    assert uploads.get(ALICE, "two") is None


def test_exactly_the_limit_is_kept(uploads):
    uploads.put(ALICE, "one", "one", 50)
    uploads.put(ALICE, "two", "two", 50)
    assert uploads.names(ALICE) == ["one", "two"]


def test_newest_stays_even_if_it_alone_exceeds_the_limit(uploads):
    uploads.put(ALICE, "small", "small", 1)
    uploads.put(ALICE, "giant", "giant", 1000)
    assert uploads.names(ALICE) == ["giant"]
