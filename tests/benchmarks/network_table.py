"""What tests.benchmarks.network prints."""

from __future__ import annotations

import math

from .contest import BARE, ENGINE, JELLY, LOOP


def table(found: dict, aims: dict) -> str:
    """Every setting in a line: times, ratios to the engine, share of the limit, memory, and the aims."""
    lines = [
        f"{found['device']}, {found['threads']} threads, torch {found['torch']}; seconds, medians of {found['rounds']} ± "
        "half the distance of their quartiles; memory in MiB"
    ]
    lines += [
        f"spikes that differ from the engine's: {name} {share:.1e}" for name, share in found["different_spikes"].items()
    ]
    head = (
        "task",
        "precision",
        "batch",
        "engine",
        "loop",
        "jelly",
        "bare",
        "×loop",
        "×loop32",
        "×jelly",
        "limit",
        "most",
        "memory",
    )
    lines.append("{:<11}{:<10}{:>5}{:>13}{:>13}{:>13}{:>13}{:>7}{:>9}{:>8}{:>7}{:>7}  {}".format(*head))
    lines.append("limit: share of what the device can do. most: ×loop32 of something that reaches the limit.")
    by = {(r["task"], r["precision"], r["batch"], r["name"]): r for r in found["rows"]}
    for task, precision, batch, name in by:
        if name == ENGINE:
            lines.append(_line(by, task, precision, batch, found["kind"], aims))
    return "\n".join(lines)


def _line(by: dict, task: str, precision: str, batch: int, kind: str, aims: dict) -> str:
    def row(name: str, at: str = precision) -> dict:
        return by.get((task, at, batch, name), {})

    def times(seconds: float | None) -> str:
        return "" if seconds is None else f"{seconds / row(ENGINE)['seconds']:.2f}"

    loop32 = row(LOOP, "float32").get("seconds")
    shown = [_spread(row(name)) for name in (ENGINE, LOOP, JELLY, BARE)]
    memory = [f"{(row(name)['peak_bytes'] or math.nan) / 2**20:,.0f}" for name in (ENGINE, LOOP, JELLY) if row(name)]
    aim, base = aims.get((kind, task, precision)), loop32 if kind == "cpu" else row(LOOP).get("seconds")
    reached = "" if aim is None or base is None else f"  aim {aim}: " + _said(base / row(ENGINE)["seconds"], aim)
    most = "" if loop32 is None else f"{loop32 / row(ENGINE)['limit_seconds']:.2f}"
    ratios = times(row(LOOP).get("seconds")), times(loop32), times(row(JELLY).get("seconds"))
    start = f"{task:<11}{precision:<10}{batch:>5}" + "".join(f"{one:>13}" for one in shown)
    ends = f"{ratios[0]:>7}{ratios[1]:>9}{ratios[2]:>8}{row(ENGINE)['share_of_limit']:>7.0%}{most:>7}"
    return f"{start}{ends}  {' / '.join(memory)}{reached}"


def _spread(row: dict) -> str:
    """Median and half the distance of the quartiles, in seconds."""
    if not row:
        return ""
    low, high = row["quartiles"]
    return f"{row['seconds']:.3f}±{(high - low) / 2:.3f}"


def _said(ratio: float, aim: float) -> str:
    return f"{ratio:.2f}, {'reached' if ratio >= aim else 'missed'}"
