"""Images made to fool one network, tried on the others; and whether each network's robustness is real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from engine.analysis import robustness, transfer, verdict
from engine.attacks import CLEAN, FOLLOWING, KINDS, Attack, Attacker
from engine.job import Job

from . import compare_measured, family, show, together, verdict_panel, work
from .baseline_panels import Settings
from .charts import baselines as charts
from .session import View
from .sweep_settings import Sweep
from .verdict_panel import Checks

OFFERED = [kind for kind in FOLLOWING if KINDS[kind].norm == "L∞" and kind != "autoattack"]
MARKS = {True: "✓", False: "✗", None: "?"}


def section(found: Mapping[str, View], how: Settings) -> float:
    """The transfer matrix on a button; the ε that was chosen for it, 0 … 1."""
    st.subheader(
        "Do attacks carry over?",
        anchor=False,
        help="Adversarial images are made to fool one network and shown to every other (Papernot et al., arXiv "
        "1605.07277).",
    )
    alike, told = _alike(found)
    for sentence in told:
        st.caption(sentence)
    one, two, _ = st.columns([2, 2, 5])
    kind = one.selectbox(
        "Attack",
        OFFERED,
        OFFERED.index("pgd"),
        format_func=lambda k: KINDS[k].label,
        key="transfer",
        bind="query-params",
    )
    eps = two.number_input(
        *("ε in 1/255", 0.1, 255.0, 16.0, 1.0),
        format="%g",
        key="transfer_eps",
        bind="query-params",
        help="Largest change of any pixel, in steps of 1/255.",
    )
    if len(alike) < 2:
        st.markdown("It takes two networks that see the same images.")
        return eps / 255
    attack, views = Attack(kind, eps / 255), list(alike.values())
    submit = {f"made on {name}": _made_on(view, attack, how, views) for name, view in alike.items()}
    clean = Sweep([CLEAN], how.samples, how.seed, how.encodings)
    submit |= {f"clean, {name}": one for name, one in compare_measured.sweeps(alike, clean).items()}
    said = f"{attack.label}: made on each of {len(alike)} networks, {how.samples} images each, and shown to all."
    jobs = together.asked("measure_transfer", "Measure", "Making and trying images", submit, said, named=False)
    if jobs:
        work.live(
            together.Together("Making and trying images", jobs), lambda: _draw(alike, jobs, attack, clean), retry=False
        )
    return eps / 255


def _alike(found: Mapping[str, View]) -> tuple[dict[str, View], list[str]]:
    """Those that see the same images as the first, and a sentence about the others."""
    if not found:
        return {}, []
    first = next(iter(found.values()))
    alike = {
        name: view
        for name, view in found.items()
        if view.data.name == first.data.name and transfer.same_images(view.checkpoint.model, first.checkpoint.model)
    }
    others = [name for name in found if name not in alike]
    return alike, [f"Left out here, because they see other images than {first.name}: {', '.join(others)}."] * bool(
        others
    )


def _made_on(view: View, attack: Attack, how: Settings, targets: Sequence[View]):
    return lambda start: work.transfer_job(view, attack, how.samples, how.seed, targets, how.encodings, start)


def _draw(found: Mapping[str, View], jobs: Mapping[str, Job], attack: Attack, clean: Sweep) -> None:
    done = {name: job for name, job in jobs.items() if job.state == "done"}
    answers = {
        name: pd.concat(done[f"made on {name}"].results, ignore_index=True)
        for name in found
        if f"made on {name}" in done
    }
    untouched = {name: done[f"clean, {name}"] for name in found if f"clean, {name}" in done}
    right = compare_measured.swept(found, untouched, clean)
    table = transfer.matrix(answers, dict(zip(right["run"], right["accuracy"])), list(found))
    if table.empty:
        return
    show.chart(charts.transfer(table), table, "baseline_transfer", "Accuracy of each network on images made on each.")
    st.caption(
        f"Right answers (%) on the first {clean.samples} test samples under {attack.label}; the diagonal is the direct attack. A "
        f"number is known to ± {50 * float((table['high'] - table['low']).max()):.0f} points or better (95 %). "
        + fooled_by_others(table)
    )


def fooled_by_others(table: pd.DataFrame) -> str:
    """Whom another network's images fool more than its own."""
    by = table.set_index(["made_on", "tried_on"])["accuracy"]
    worse = []
    for name in dict.fromkeys(table["tried_on"]):
        column = by[by.index.get_level_values("tried_on") == name]
        best = column.idxmin()[0]
        if (name, name) in by.index and by[best, name] < by[name, name] - verdict.TOLERANCE:
            worse.append(
                f"{name} (images made on {best}: {show.share(by[best, name])}, own: {show.share(by[name, name])})"
            )
    if not worse:
        return "No network is fooled better, by more than two points, by another's images than by its own."
    return (
        "Fooled better by another's images than by their own, so that the direct attack flatters them: "
        + "; ".join(worse)
        + "."
    )


# ------------------------------------------------------------------------------------------------- can it be trusted


def trusted(found: Mapping[str, View], how: Settings, eps: float) -> None:
    """The checks of the attacker on every network at ε, 0 … 1, on one button."""
    st.subheader("Is this robustness real?", anchor=False, help=verdict_panel.WHAT)
    samples = min(verdict_panel.MOST, how.samples)
    checks = {
        name: Checks(
            view,
            eps,
            Attacker(),
            samples,
            how.seed,
            robustness.encodings_shown(view.checkpoint.config, how.encodings),
            family.twin(view),
        )
        for name, view in found.items()
    }
    submit = {f"{name} {part}": one for name, of in checks.items() for part, one in of.submit().items()}
    passes = sum(of.passes for of in checks.values())
    said = (
        f"Eight checks of the attacker (of an ANN seven) on {samples} samples at ε = {255 * eps:.3g}/255, {passes:,} passes "
        "through the networks."
    )
    jobs = together.asked("measure_trust", "Check", "Checking the attacker", submit, said, named=False)
    if not jobs:
        return

    def draw() -> None:
        results = {
            name: of.found({part: jobs.get(f"{name} {part}") for part in of.submit()}) for name, of in checks.items()
        }
        _verdicts(results)

    work.live(together.Together("Checking the attacker", jobs), draw, retry=False)


def _verdicts(results: Mapping[str, list[verdict.Check]]) -> None:
    """A row a check, a column a network; the evidence below."""
    names = list(dict.fromkeys(check.name for checks in results.values() for check in checks))
    marks = {}
    for network, checks in results.items():
        by_name = {check.name: check for check in checks}
        marks[network] = [_mark(by_name.get(name)) for name in names]
    st.table(pd.DataFrame(marks, index=pd.Index(names, name="Check")))
    st.caption("✓ passed · ✗ failed · ? cannot tell · – not measured, or not for this network")
    failed = [network for network, checks in results.items() if verdict.artefact(checks)]
    if failed:
        st.error(
            f"**Probably an artefact**: what the attacks left of {', '.join(failed)}. The evidence says which check failed "
            "and what to try.",
            icon=":material/report:",
        )
    evidence = [
        {"Network": network} | row
        for network, checks in results.items()
        for row in verdict_panel.table(checks).to_dict("records")
        if row["Measured"] or row.get("What to try")
    ]
    if not evidence:  # nothing is known yet
        return
    with st.expander("The evidence"):
        st.table(pd.DataFrame(evidence).fillna("").set_index("Network"))


def _mark(check: verdict.Check | None) -> str:
    return "–" if check is None or not check.found else MARKS[check.passed]
