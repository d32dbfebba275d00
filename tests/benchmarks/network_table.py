"""What tests.benchmarks.network tells of what it measured: ratios, aims, a table."""

from __future__ import annotations

from .contest import LOOP32
from .contestant import BARE, ENGINE, FLOOR, GRAPHED, JELLY, LOOP, SEARCHED

SPEED_AIMS = {  # (device, task): by precision, how many times as fast as the loop; on a CPU as that in float32
    ("cpu", "evaluation"): {"float32": 1.7, "bfloat16": 3.0},
    ("cpu", "training"): {"float32": 1.4, "bfloat16": 2.5},
    ("cuda", "evaluation"): dict.fromkeys(("float32", "tf32", "bfloat16"), 8.0),
    ("cuda", "training"): dict.fromkeys(("float32", "tf32", "bfloat16"), 4.0),
}
JELLY_AIMS = {"cpu": 1.0, "cuda": 1.5}  # how many times as fast as SpikingJelly in these tasks
MEMORY_AIM = 0.4  # of the loop's in training, at most, on a GPU
LEGEND = """× loop: how many times as fast as the plain loop in the same precision; × loop32, × jelly: as that in float32, as SpikingJelly
bare, floor, most, in units of the loop in float32, too: the convolutions and matrix products alone; these with one pass over
  memory for norm, membrane and spike, the least where no kernel joins them; what reaches the device's rates in large
  products or copies. limit: the engine's share of the latter
memory: MiB, and as a share of the loop's"""
HEAD = ("task", "precision", "batch", "engine", "loop", "jelly")
RATIOS = ("× loop", "× loop32", "× jelly", "bare", "floor", "most", "limit")


def ratios(rows: list[dict], kind: str) -> list[dict]:
    """For each setting what the rows of `contest.held` say of the engine beside the others, and of its aims."""
    by = {(row["task"], row["precision"], row["batch"], row["name"]): row for row in rows}
    return [_beside(by, *setting[:3], kind) for setting in by if setting[3] == ENGINE]


def _beside(by: dict, task: str, precision: str, batch: int, kind: str) -> dict:
    def row(name: str) -> dict:
        return by.get((task, precision, batch, name), {})

    own, loop = row(ENGINE), row(LOOP)
    loop32 = loop if precision == "float32" else row(LOOP32)
    found = {"task": task, "precision": precision, "batch": batch, "limit": own["share_of_limit"]}
    for name, other in {"× loop": loop, "× loop32": loop32, "× jelly": row(JELLY)}.items():
        if other:
            found[name] = other["seconds"] / own["seconds"]
    if loop32:
        found |= {n: loop32["seconds"] / row(of)["seconds"] for n, of in (("bare", BARE), ("floor", FLOOR)) if row(of)}
        found["most"] = loop32["seconds"] / own["limit_seconds"]
    if loop.get("peak_bytes") and own["peak_bytes"]:
        found["memory"] = own["peak_bytes"] / loop["peak_bytes"]
    return found | {"aims": _aims(found, kind)}


def _aims(found: dict, kind: str) -> dict[str, dict]:
    """Ratio → what it should be at least, for memory at most, and whether it is."""
    aims = {}
    speed = SPEED_AIMS.get((kind, found["task"]), {}).get(found["precision"])
    if speed:
        aims = {"× loop32" if kind == "cpu" else "× loop": speed, "× jelly": JELLY_AIMS[kind]}
    said = {name: {"aim": aim, "met": found[name] >= aim} for name, aim in aims.items() if name in found}
    if kind == "cuda" and found["task"] == "training" and "memory" in found:
        said["memory"] = {"aim": MEMORY_AIM, "met": found["memory"] <= MEMORY_AIM}
    return said


def table(found: dict) -> str:
    """A line for each setting: times, ratios, memory, and which aims are met."""
    rows = {(row["task"], row["precision"], row["batch"], row["name"]): row for row in found["rows"]}
    about = f"{found['device']}, {found['threads']} threads, torch {found['torch']}, {found['date']}"
    lines = [f"{about}; seconds, medians of {found['rounds']} ± half the distance of their quartiles"]
    lines += [
        f"spikes that differ from the engine's: {name} {share:.1e}" for name, share in found["different_spikes"].items()
    ]
    lines += [
        LEGEND,
        "{:<11}{:<10}{:>5}{:>14}{:>14}{:>14}".format(*HEAD)
        + "".join(f"{r:>10}" for r in RATIOS)
        + "   memory and aims",
    ]
    for one in found["ratios"]:
        setting = one["task"], one["precision"], one["batch"]
        times = (_spread(rows.get((*setting, name))) for name in (ENGINE, LOOP, JELLY))
        line = "{:<11}{:<10}{:>5}".format(*setting) + "".join(f"{said:>14}" for said in times)
        line += "".join(f"{one.get(name, float('nan')):>10.2f}" for name in RATIOS) + "   "
        lines.append(line + _memory(rows, setting, one) + "".join(map(_said, one["aims"].items())))
        for name in (SEARCHED, GRAPHED):
            if other := rows.get((*setting, name)):
                as_fast = rows[*setting, ENGINE]["seconds"] / other["seconds"]
                lines.append(f"    {name}: {_spread(other)}, {as_fast:.2f} × the engine")
    return "\n".join(lines + [f"not measured: {said}" for said in found["errors"]])


def _memory(rows: dict, setting: tuple, one: dict) -> str:
    held = (rows.get((*setting, name), {}).get("peak_bytes") for name in (ENGINE, LOOP, JELLY))
    return " / ".join(f"{size / 2**20:,.0f}" for size in held if size) + f" ({one.get('memory', float('nan')):.2f})"


def _spread(row: dict | None) -> str:
    """Median and half the distance of the quartiles, in seconds."""
    if row is None:
        return "none"
    low, high = row["quartiles"]
    return f"{row['seconds']:.3f}±{(high - low) / 2:.3f}"


def _said(aim: tuple[str, dict]) -> str:
    name, one = aim
    return f"  {'✓' if one['met'] else '✗'} {name} {'≤' if name == 'memory' else '≥'} {one['aim']:g}"
