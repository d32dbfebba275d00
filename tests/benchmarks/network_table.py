"""What tests.benchmarks.network prints."""

from __future__ import annotations

import math

from .contest import BARE, ENGINE, FLOOR, JELLY, LOOP, LOOP32

HEAD = (
    "task",
    "precision",
    "batch",
    "engine",
    "loop",
    "jelly",
    "×loop",
    "×loop32",
    "×jelly",
    "bare",
    "floor",
    "most",
    "limit",
    "memory",
)
LEGEND = """×loop32: against the loop in float32, and how many times as fast as that are
bare: the convolutions and matrix products alone
floor: with one pass over memory for norm, membrane and spike, the least where no kernel joins these to the convolution
most: what reaches the rates that the device shows in large products or copies; limit: the engine's share of those"""


def table(found: dict, aims: dict) -> str:
    """Every setting in a line: times, ratios to the engine, share of the limit, memory, and the aims."""
    lines = [
        f"{found['device']}, {found['threads']} threads, torch {found['torch']}; seconds, medians of {found['rounds']} ± "
        "half the distance of their quartiles; memory in MiB"
    ]
    lines += [
        f"spikes that differ from the engine's: {name} {share:.1e}" for name, share in found["different_spikes"].items()
    ]
    lines.append(LEGEND)
    lines.append("{:<11}{:<10}{:>5}{:>13}{:>13}{:>13}{:>7}{:>9}{:>8}{:>7}{:>7}{:>7}{:>7}  {}".format(*HEAD))
    by = {(r["task"], r["precision"], r["batch"], r["name"]): r for r in found["rows"]}
    for task, precision, batch, name in by:
        if name == ENGINE:
            lines.append(_line(by, task, precision, batch, found["kind"], aims))
    return "\n".join(lines)


def _line(by: dict, task: str, precision: str, batch: int, kind: str, aims: dict) -> str:
    def row(name: str) -> dict:
        return by.get((task, precision, batch, name), {})

    def times(seconds: float | None) -> str:
        return "" if seconds is None else f"{seconds / own['seconds']:.2f}"

    own = row(ENGINE)
    loop32 = row(LOOP32 if row(LOOP32) else LOOP)["seconds"]
    shown = "".join(f"{_spread(row(name)):>13}" for name in (ENGINE, LOOP, JELLY))
    ratios = times(row(LOOP)["seconds"]), times(loop32), times(row(JELLY).get("seconds"))
    bounds = "".join(
        f"{loop32 / one:>7.2f}" for one in (*(row(n)["seconds"] for n in (BARE, FLOOR)), own["limit_seconds"])
    )
    memory = [f"{(row(name)['peak_bytes'] or math.nan) / 2**20:,.0f}" for name in (ENGINE, LOOP, JELLY) if row(name)]
    aim, base = aims.get((kind, task, precision)), loop32 if kind == "cpu" else row(LOOP)["seconds"]
    reached = "" if aim is None else f"  aim {aim}: " + _said(base / own["seconds"], aim)
    start = f"{task:<11}{precision:<10}{batch:>5}{shown}{ratios[0]:>7}{ratios[1]:>9}{ratios[2]:>8}{bounds}"
    return f"{start}{own['share_of_limit']:>7.0%}  {' / '.join(memory)}{reached}"


def _spread(row: dict) -> str:
    """Median and half the distance of the quartiles, in seconds."""
    if not row:
        return ""
    low, high = row["quartiles"]
    return f"{row['seconds']:.3f}±{(high - low) / 2:.3f}"


def _said(ratio: float, aim: float) -> str:
    return f"{ratio:.2f}, {'reached' if ratio >= aim else 'missed'}"
