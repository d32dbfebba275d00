"""Figures that are drawn once: the same data in, the same figure out, at once."""

from __future__ import annotations

import hashlib
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import wraps

import plotly.graph_objects as go

from . import theme

KEPT_BYTES = 64 * 2**20  # of all figures that are kept, about
_SHELL_BYTES, _COPIES = 128 * 2**10, 3  # of a figure without its data, and how often it holds these

_kept: OrderedDict[str, tuple[go.Figure, int]] = OrderedDict()
_lock = threading.Lock()


def drawn(chart: Callable[..., go.Figure]) -> Callable[..., go.Figure]:
    """Keep what a chart function returns for the same arguments, and give its axes the room their labels need.

    Putting a figure together takes Plotly longer than all else that a page does. A figure is one for all who ask:
    whoever wants to change it takes a copy, `theme.Figure(figure)`. The least recently used go when all together exceed
    KEPT_BYTES.
    """

    @wraps(chart)
    def kept(*args, **settings) -> go.Figure:
        said = pickle.dumps((chart.__module__, chart.__qualname__, args, settings), protocol=5)
        key = hashlib.sha256(said).hexdigest()
        with _lock:
            if key in _kept:
                _kept.move_to_end(key)
                return _kept[key][0]
        figure = chart(*args, **settings)
        theme.give_room(figure)
        figure.freeze()
        with _lock:
            _kept[key] = figure, _SHELL_BYTES + _COPIES * len(said)
            while sum(size for _, size in _kept.values()) > KEPT_BYTES and len(_kept) > 1:
                _kept.popitem(last=False)
        return figure

    return kept
