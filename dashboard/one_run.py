"""What can be done with one run: open, watch, rename, download, delete."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import streamlit as st

from engine import run_library, run_metrics
from engine.checkpoint.errors import shown
from engine.run_library import Run
from engine.runs import TrainingError

from . import models, navigation, run_choice, run_table, runs_now, show

LARGE = 500e6  # bytes, from which a download is worth a word
LARGEST = 4e9  # bytes, beyond which a browser gets nothing
WATCH = {"failed": "Look why, and resume it", "interrupted": "Resume it"} | dict.fromkeys(
    runs_now.LIVE, "Watch it train"
)
BUSY = "It is being trained, or about to be: stop it first."


def draw(run: Run) -> None:
    """Name, state, and everything that can be done with it."""
    st.subheader(run.name, anchor=False)
    _summary(run)
    if run.state == "failed":
        st.error(f"It stopped: {run.error}.")
    with st.container(horizontal=True, vertical_alignment="center"):
        _open(run)
        navigation.link("training", WATCH.get(run.state, "See its training"), {"run": [run.name]})
        _rename(run)
        _download(run)
        _delete(run)
    told = st.session_state.get("run_told")
    if told and told[0] == run.name:
        st.error(told[1])
    if failed := _failures().pop(run.name, None):
        st.error(failed)
    with st.expander("Settings and command"):
        if run.command:
            st.code(run.command, language="bash", wrap_lines=True)
        st.dataframe(
            {"Setting": list(run_table.settings(run)), "Value": list(run_table.settings(run).values())},
            hide_index=True,
            height="content",
        )


def _summary(run: Run) -> None:
    """A line; of a run that trains it is kept up to date."""

    @st.fragment(run_every=run_choice.LOOK_SECONDS if run.state in runs_now.LIVE else None)
    def body() -> None:
        try:
            now = runs_now.read(run.name)
        except TrainingError:  # it has just been deleted or renamed, which the list will notice
            return
        said = f"{run_table.state(now)} · {now.epochs_done} of {now.recipe.epochs} epochs"
        accuracy = run_table.test_accuracy(now)
        known = accuracy == accuracy
        st.markdown(said + (f" · **{show.share(accuracy)}** of the test samples right at T" if known else ""))

    body()


def _open(run: Run) -> None:
    ready = (run.folder / "model.safetensors").exists()
    said = (
        "Choose its network in the sidebar and go to Overview."
        if ready
        else "It has no network before its first epoch."
    )
    if st.button("Open in the dashboard", type="primary", disabled=not ready, help=said, icon=":material/dashboard:"):
        st.session_state["upload_choice"] = f"runs/{run.name}"
        st.switch_page(navigation.pages()["overview"], query_params={})  # None would raise: this page has bound ones


# ------------------------------------------------------------------------------------------------- another name


def _rename(run: Run) -> None:
    busy = run.state in runs_now.LIVE
    box = st.popover("Rename", icon=":material/edit:", disabled=busy, help=BUSY if busy else None)
    with box, st.form(f"rename {run.name}", border=False):
        st.text_input("New name", Path(run.name).name, max_chars=60, key=f"name {run.name}")
        st.form_submit_button("Rename it", on_click=_renamed, args=[run.name])


def _renamed(name: str) -> None:
    """Give the run the name in the box; what shows the run follows it."""
    st.session_state.pop("run_told", None)
    new = st.session_state[f"name {name}"].strip()
    if new == Path(name).name:
        return
    try:
        _require_idle(name)
        new = run_library.rename_run(models.runs_folder(), name, new)
    except TrainingError as error:
        st.session_state["run_told"] = name, f"{error}."
        return
    chosen = st.session_state.get(run_choice.KEY, [])
    st.session_state[run_choice.KEY] = [new if other == name else other for other in chosen]
    if st.session_state.get("model") == f"runs/{name}":
        st.session_state["upload_choice"] = f"runs/{new}"
    st.session_state["run_done"] = f"{name} is now {new}."


def _require_idle(name: str) -> None:
    """Raises TrainingError for a run whose training has begun since its buttons were drawn, or waits for another."""
    if runs_now.read(name).state in runs_now.LIVE:
        raise TrainingError(f"{name} is being trained, or about to be: stop it first")


# ---------------------------------------------------------------------------------------------------- to take away


def _download(run: Run) -> None:
    size, failures = run_table.size(run), _failures()
    said = "The whole folder as a ZIP file, without what a training leaves half written."
    if size > LARGE:
        said += " It is large: the server packs it, and holds it in memory, when you click."
    refused = _no_download(run, size)
    st.download_button(
        f"Download ({_bytes(size)})",
        lambda: _packed(run, failures),
        f"{Path(run.name).name}.zip",
        "application/zip",
        key=f"download {run.name}",
        icon=":material/download:",
        on_click="ignore",
        disabled=bool(refused),
        help=refused or said,
    )


def _no_download(run: Run, size: int) -> str:
    """Why a run of so many bytes cannot be packed for a browser, in a sentence; "" where it can."""
    if size > LARGEST:
        return f"It is too large for a browser: copy the folder {run.folder.resolve()} on the server."
    if size > shutil.disk_usage(tempfile.gettempdir()).free:
        return f"The server has no room to pack it: copy the folder {run.folder.resolve()} there."
    return ""


def _packed(run: Run, failures: dict[str, str]) -> bytes:
    """The run as a ZIP file, which Streamlit keeps until it has been fetched. Called outside of the page, where an
    error can only be told by the browser, in its own words: the sentence is left in `failures` for when it is drawn next.
    """
    try:
        with tempfile.TemporaryDirectory() as place:
            target = Path(place) / "run.zip"
            run_library.archive_run(run.folder, target)
            return target.read_bytes()
    except (TrainingError, OSError) as error:
        failures[run.name] = f"The download failed: {shown(error, 300)}."
        raise


def _failures() -> dict[str, str]:
    """Why downloads failed, by run."""
    return st.session_state.setdefault("failed_downloads", {})


def _bytes(size: float) -> str:
    """With a fitting unit: "77.8 MB"."""
    unit, factor = next((u, f) for u, f in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if size >= f or u == "kB")
    return f"{size / factor:.3g} {unit}"


# ----------------------------------------------------------------------------------------------------------- gone


def _delete(run: Run) -> None:
    busy = run.state in runs_now.LIVE
    said = BUSY if busy else None
    if st.button("Delete …", key=f"delete {run.name}", icon=":material/delete:", disabled=busy, help=said):
        st.session_state.pop("run_told", None)
        _confirm(run)


@st.dialog("Delete this run?")
def _confirm(run: Run) -> None:
    if run.name not in st.session_state.get(run_choice.KEY, []):  # it has just been deleted
        st.rerun()
    lost = ["its settings", "its network"][: 1 + (run.folder / "model.safetensors").exists()]
    if run.epochs_done:
        history = "the metrics" + (" and γ" if run_metrics.gamma_epochs(run.folder) else "")
        lost.append(f"{history} of {run.epochs_done} epochs")
    size = _bytes(run_table.size(run))
    st.markdown(f"**{run.name}** goes for good: {', '.join(lost)}, {size} in all. It cannot be brought back.")
    told = st.session_state.get("run_told")
    if told and told[0] == run.name:
        st.error(told[1])
    with st.container(horizontal=True):
        st.button("Delete it for good", type="primary", on_click=_deleted, args=[run.name], icon=":material/delete:")
        if st.button("Keep it"):
            st.rerun()


def _deleted(name: str) -> None:
    st.session_state.pop("run_told", None)
    try:
        _require_idle(name)
        run_library.delete_run(models.runs_folder(), name)
    except TrainingError as error:
        st.session_state["run_told"] = name, f"{error}."
        return
    st.session_state[run_choice.KEY] = [other for other in st.session_state.get(run_choice.KEY, []) if other != name]
    if st.session_state.get("model") == f"runs/{name}":
        st.session_state["upload_choice"] = models.DEFAULT
    st.session_state["run_done"] = f"{name} is deleted."
