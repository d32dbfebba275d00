"""Who is looking: a random name in a cookie, so that uploads outlive a reload and stay their owner's."""

from __future__ import annotations

import re
import threading
import uuid
from collections import OrderedDict

import streamlit as st

from engine.checkpoint import Checkpoint

COOKIE = "bntt_visitor"
KEPT_BYTES = 4 * 2**30
_SET_COOKIE = """
export default function({ data }) {
  const secure = location.protocol === "https:" ? "; Secure" : "";
  document.cookie = `${data.name}=${data.value}; path=/; SameSite=Strict; max-age=2592000${secure}`;
}
"""


def visitor() -> str:
    """The visitor's name: 32 random hexadecimal digits, the same after a reload of the browser."""
    if "visitor" not in st.session_state:
        known = str(st.context.cookies.get(COOKIE))
        st.session_state["visitor"] = known if re.fullmatch(r"[0-9a-f]{32}", known) else uuid.uuid4().hex
    return st.session_state["visitor"]


def remember() -> None:
    """Hand the name to the browser (invisible; once in each run of the script)."""
    _cookie()(data={"name": COOKIE, "value": visitor()}, key="remember_visitor")


@st.cache_resource(show_spinner=False)
def _cookie():
    return st.components.v2.component("bntt_cookie", js=_SET_COOKIE)


class Uploads:
    """Checkpoints by (visitor, name); the least recently used go when all of them exceed `limit` bytes."""

    def __init__(self, limit: int = KEPT_BYTES):
        self._limit = limit
        self._kept: OrderedDict[tuple[str, str], tuple[Checkpoint, int]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, owner: str, name: str, checkpoint: Checkpoint, size: int) -> None:
        """Keep one; the same owner's file of the same name is replaced. size: bytes of the file."""
        with self._lock:
            self._kept[owner, name] = checkpoint, size
            self._kept.move_to_end((owner, name))
            while sum(kept for _, kept in self._kept.values()) > self._limit and len(self._kept) > 1:
                self._kept.popitem(last=False)

    def get(self, owner: str, name: str) -> Checkpoint | None:
        """This owner's checkpoint of that name, or None."""
        with self._lock:
            if (owner, name) not in self._kept:
                return None
            self._kept.move_to_end((owner, name))
            return self._kept[owner, name][0]

    def names(self, owner: str) -> list[str]:
        """What this owner has here, in alphabetical order, so that a menu keeps its places."""
        with self._lock:
            return sorted(name for who, name in self._kept if who == owner)


@st.cache_resource(show_spinner=False)
def uploads() -> Uploads:
    """The one store of the server."""
    return Uploads()
