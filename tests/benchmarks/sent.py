"""What an app sends to a browser, for tests.benchmarks.pages: how many elements of each kind."""

from __future__ import annotations

from collections import Counter

KINDS = {  # Streamlit's messages, and what the browser calls the element
    "markdown": "stMarkdown",
    "heading": "stHeading",
    "metric": "stMetric",
    "selectbox": "stSelectbox",
    "multiselect": "stMultiSelect",
    "slider": "stSlider",
    "number_input": "stNumberInput",
    "text_input": "stTextInput",
    "button_group": "stButtonGroup",
    "checkbox": "stCheckbox",
    "radio": "stRadio",
    "button": "stButton",
    "download_button": "stDownloadButton",
    "popover": "stPopover",
    "expandable": "stExpander",
    "file_uploader": "stFileUploader",
    "dataframe": "stDataFrame",
    "table": "stTable",
    "imgs": "stImage",
    "alert": "stAlert",
    "code": "stCode",
    "progress": "stProgress",
    "page_link": "stPageLink",
    "json": "stJson",
    "plotly_chart": "plots",
}


class Sent:
    """Listens to the messages that a page of Playwright's gets from its server."""

    def __init__(self, page):
        self._found: Counter[str] = Counter()
        self._known: dict[str, str | None] = {}
        page.on("websocket", lambda socket: socket.on("framereceived", self._take))

    def counted(self) -> dict[str, int]:
        """Elements by kind since this was last asked."""
        found, self._found = self._found, Counter()
        return dict(found)

    def _take(self, payload: bytes | str) -> None:
        from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

        if isinstance(payload, str):
            return
        message = ForwardMsg.FromString(payload)
        if message.WhichOneof("type") == "ref_hash":  # a message that the browser was sent before
            kind = self._known.get(message.ref_hash)
        else:
            kind = self._known[message.hash] = _kind(message)
        if kind in KINDS:
            self._found[KINDS[kind]] += 1


def _kind(message) -> str | None:
    if message.WhichOneof("type") != "delta":
        return None
    part = message.delta.WhichOneof("type")
    return getattr(message.delta, part).WhichOneof("type") if part in ("new_element", "add_block") else None
