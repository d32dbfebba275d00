"""Data sets in the app: which are here, and fetching one that is not."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import streamlit as st

from engine import datasets
from engine.datasets import DataError, DataSet
from engine.datasets.download import download


@dataclass
class Download:
    """One transfer, in a thread of its own. done, total: bytes; total is 0 while unknown."""

    done: int = 0
    total: int = 0
    error: str = ""
    over: bool = False
    cancel: threading.Event = field(default_factory=threading.Event)

    def run(self, data: DataSet) -> None:
        """Fetch all files; how it ends stands in `error`."""

        def progress(done: int, total: int) -> None:
            self.done, self.total = done, total

        try:
            download(data, progress=progress, cancelled=self.cancel.is_set)
        except DataError as error:
            self.error = "" if self.cancel.is_set() else str(error)
        finally:
            self.over = True


@st.cache_resource(show_spinner=False)
def _downloads() -> dict[str, Download]:
    return {}


def known() -> dict[str, tuple[DataSet, str]]:
    """Name → data set and what is missing of it ("" when it is here), those that are here first."""
    return _known(str(datasets.folder()))


@st.cache_resource(ttl=5, show_spinner=False)
def _known(_folder: str) -> dict[str, tuple[DataSet, str]]:
    found = [(data, data.missing()) for data in datasets.entries().values()]
    return {data.name: (data, missing) for data, missing in sorted(found, key=lambda entry: bool(entry[1]))}


def offer(data: DataSet, missing: str) -> None:
    """Say what is missing, with a button that fetches it where it can be had."""
    running = _downloads().get(data.name)
    if running and not running.over:
        _follow(data, running)
        return
    st.info(f"{data.title} is not here. {missing}." if data.missing() else f"{data.title} cannot be read. {missing}.")
    if running and running.error:
        st.error(running.error)
    if not data.remote:
        return
    size = sum(remote.size for remote in data.remote)
    hosts = ", ".join(sorted({urlsplit(remote.url).hostname for remote in data.remote}))
    st.button(
        f"Download {data.title}" + (f" ({size / 1e6:,.0f} MB)" if size else ""),
        key=f"download {data.name}",
        type="primary",
        icon=":material/download:",
        help=f"From {hosts} into {datasets.folder()}; a broken transfer goes on where it stopped.",
        on_click=_start,
        args=(data,),
    )


def _start(data: DataSet) -> None:
    if data.name in _downloads() and not _downloads()[data.name].over:
        return  # another visitor was quicker
    _downloads()[data.name] = transfer = Download()
    threading.Thread(target=transfer.run, args=[data], name=f"download {data.name}", daemon=True).start()


@st.fragment(run_every=1.0)
def _follow(data: DataSet, transfer: Download) -> None:
    if transfer.over:
        _known.clear()
        st.rerun()
    done = f"{transfer.done / 1e6:,.0f}" + (f" of {transfer.total / 1e6:,.0f}" if transfer.total else "") + " MB"
    bar, button = st.columns([6, 1], vertical_alignment="center")
    bar.progress(transfer.done / transfer.total if transfer.total else 0.0, f"Fetching {data.title}: {done}")
    button.button("Cancel", key=f"cancel download {data.name}", on_click=transfer.cancel.set, width="stretch")
