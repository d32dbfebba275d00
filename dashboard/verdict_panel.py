"""Below a sweep: whether the robustness it shows is real, with the evidence."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from engine.analysis import robustness, verdict
from engine.attacks import FOLLOWING, Attack
from engine.job import OVER, Job
from engine.jobs import AGAIN

from . import work
from .session import View
from .sweep_settings import Sweep

MOST = 50  # samples that the checks are made on
USUAL = 8 / 255
MARKS = {True: "✓ passed", False: "✗ failed", None: "– cannot tell"}


def section(view: View, asked: Sweep) -> None:
    """The verdict on a sweep with attacks, computed on a button."""
    following = [attack for attack in asked.attacks if attack.kind in FOLLOWING and attack.strength]
    if not following:
        return
    st.subheader(
        "Is this robustness real?",
        anchor=False,
        help="An attacker whose gradient vanishes finds nothing, and the network looks unbreakable. These checks tell the "
        "two apart (Athalye et al. 2018, Carlini et al. 2019).",
    )
    eps, samples = _strength(following), min(MOST, asked.samples)
    attacker = following[0].attacker
    clicked = st.session_state.get("run_verdict", False)
    jobs = work.verdict_jobs(view, eps, attacker, samples, asked.seed, asked.encodings, start=clicked)
    missing = any(job is None or job.state in AGAIN for job in jobs)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Check it", key="run_verdict", icon=":material/fact_check:", disabled=not missing)
        passes = Sweep(list(verdict.attacks(eps, attacker).values()), samples, asked.seed, asked.encodings).passes
        st.caption(
            f"Seven checks of the attacker on {samples} samples at ε = {255 * eps:.3g}/255, with the gradient chosen above: "
            f"{passes:,} passes through the network.",
            width="stretch",
        )
    if None not in jobs:
        work.live(jobs[0], lambda: _answer(view, jobs, asked, eps, samples), also=jobs[1:], retry=False)


def _strength(following: Sequence[Attack]) -> float:
    """The largest ε of the sweep that bounds pixels, below 1/2, or the usual one."""
    return max((a.strength for a in following if a.does.norm == "L∞" and a.strength < 0.5), default=USUAL)


def _answer(view: View, jobs: Sequence[Job], asked: Sweep, eps: float, samples: int) -> None:
    sweep, gradients = jobs
    if any(job.state != "done" for job in jobs):
        if all(job.state in OVER for job in jobs):
            st.markdown("The checks were not finished.")
        return
    attacks = verdict.attacks(eps, next(a.attacker for a in asked.attacks if a.kind in FOLLOWING))
    config = view.checkpoint.config
    parts = robustness.sweep_parts(config, list(attacks.values()), samples, asked.encodings)
    found = dict(work.sweep_results(sweep, parts))
    accuracy = {name: float(found[attack].accuracy()["accuracy"].iloc[-1]) for name, attack in attacks.items()}
    checks = verdict.verdict(accuracy, pd.concat(gradients.results), eps, config.classes)
    if verdict.artefact(checks):
        failed = [check for check in checks if check.passed is False]
        st.error(
            f"**This robustness is probably an artefact**: {len(failed)} of {len(checks)} checks failed. "
            f"{failed[0].name}? No: {failed[0].found}. {failed[0].advice}",
            icon=":material/report:",
        )
    elif any(check.passed is None for check in checks):
        st.info("No check failed, and one could not tell: see the evidence.", icon=":material/help:")
    else:
        st.success(
            "**All checks passed**: the attacker saw its gradient, and what the sweep shows is the network's own.",
            icon=":material/verified:",
        )
    with st.expander("The evidence"):
        st.dataframe(_table(checks), hide_index=True, height="content")


def _table(checks: Sequence[verdict.Check]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Check": [check.name for check in checks],
            "Result": [MARKS[check.passed] for check in checks],
            "Measured": [check.found for check in checks],
            "What to try": ["" if check.passed else check.advice for check in checks],
        }
    )
