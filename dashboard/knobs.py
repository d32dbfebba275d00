"""Settings in the address bar that are filled in by what was chosen before them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import streamlit as st


@dataclass(frozen=True)
class Number:
    """A number to set. label, help: for people. step: of the arrows. empty: what no number means, where that is allowed."""

    label: str
    low: float
    high: float
    step: float
    help: str
    empty: str | None = None


class Knobs:
    """Widgets whose values sit in the address bar.

    What first stands in one depends on `scope`, which therefore is part of its name there: when that is chosen anew,
    everything is filled in anew, and no change made for one choice is applied to another. `also`, wherever it is asked
    for, is what this one setting depends on besides.
    """

    def __init__(self, *scope: str):
        self._scope = scope
        self._first: dict[str, object] = {}
        self.wrong: list[str] = []  # a sentence for each number that is out of its bounds

    def number(self, place, name: str, about: Number, first: float | None, *, also: Iterable[str] = (), off=False):
        """A number as set, of the kind of its step; None where it is left empty and may be.

        The box itself has no bounds: beyond those a browser keeps what was typed to itself, and the last good number
        would count. What is out of `about`'s bounds is told in `wrong`.
        """
        found = place.number_input(
            about.label,
            value=first,
            step=about.step,
            format="%d" if isinstance(about.low, int) else "%.6g",
            key=self._key(name, first, also),
            bind="query-params",
            help=about.help,
            placeholder=about.empty,
            disabled=off,
        )
        if found is None and about.empty is None:
            self.wrong.append(f"{about.label} is empty")
        if found is not None and not about.low <= found <= about.high:
            self.wrong.append(f"{about.label} must be from {about.low:,g} to {about.high:,g}")
        return first if found is None and about.empty is None else found

    def select(
        self, place, name: str, label: str, options: Iterable[str], first: str, help: str, *,
        titles: Mapping[str, str] | None = None, also: Iterable[str] = ()
    ) -> str:  # fmt: skip
        """One of the options; titles: what people read for each."""
        options = list(options)
        return place.selectbox(
            label,
            options,
            options.index(first) if first in options else 0,
            titles.get if titles else str,
            key=self._key(name, first, also),
            bind="query-params",
            help=help,
        )

    def text(self, place, name: str, label: str, first: str, help: str, *, also: Iterable[str] = (), off=False) -> str:
        """A text as written."""
        return place.text_input(
            label, first, key=self._key(name, first, also), bind="query-params", help=help, disabled=off
        )

    def toggle(self, place, name: str, label: str, first: bool, help: str) -> bool:
        """On or off."""
        return place.toggle(label, first, key=self._key(name, first, ()), bind="query-params", help=help)

    @property
    def changed(self) -> bool:
        """Whether anything stands in them that was not filled in."""
        return any(st.session_state.get(key, first) != first for key, first in self._first.items())

    def refill(self) -> None:
        """Put back what first stood in each that has been drawn."""
        st.session_state.update(self._first)

    def _key(self, name: str, first: object, also: Iterable[str]) -> str:
        key = "_".join([name, *self._scope, *also])
        self._first[key] = first
        return key
