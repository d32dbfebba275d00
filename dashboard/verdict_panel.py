"""Below a sweep: whether the robustness it shows is real, with the evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import streamlit as st

from engine.analysis import evaluation, robustness, transfer, verdict
from engine.analysis.verdict import Check
from engine.attacks import FOLLOWING, Attack, Attacker
from engine.job import OVER, Job
from engine.jobs import AGAIN

from . import family, together, work
from .session import View
from .sweep_settings import Sweep

MOST = 50  # samples that the checks are made on
ENOUGH = 30  # from which on passing them all means something
USUAL = 8 / 255
MARKS = {True: "✓ passed", False: "✗ failed", None: "– cannot tell"}
WHAT = (
    "An attacker whose gradient vanishes finds nothing, and the network looks unbreakable. These checks tell the two apart "
    "(Athalye et al. 2018, Carlini et al. 2019)."
)
NO_TWIN = (
    "There is no ordinary network (ANN) with these layers, trained on these data and taking the same images, among the "
    "runs. `python -m engine compare` trains one, with all baselines."
)


@dataclass(frozen=True)
class Checks:
    """What is to be found out about one network: at which ε, with which gradient, on how many samples. twin: its ordinary
    twin, if there is one."""

    view: View
    eps: float
    attacker: Attacker
    samples: int
    seed: int
    encodings: int
    twin: View | None

    @property
    def passes(self) -> int:
        """Forward passes it costs, but for those of the twin, a backward pass counted as two."""
        random = self.view.checkpoint.config.random_input
        looks = 3 * (self.attacker.draws if random else 1) * self.samples
        return looks + Sweep(self._attacks, self.samples, self.seed, self.encodings).passes(random)

    @property
    def affordable(self) -> bool:
        """Whether it may run unasked."""
        return self.passes <= evaluation.affordable(self.view.checkpoint.config)

    def submit(self) -> dict[str, Callable[[bool | None], Job | None]]:
        """Its jobs, as together.asked starts them."""
        settings = (self.samples, self.seed)
        jobs = {
            "gradients": lambda start: work.gradient_job(self.view, self.attacker, *settings, start),
            "attacks": lambda start: work.sweep_job(
                self.view, self._attacks, *settings, start, self.encodings, "Checking the attacker"
            ),
        }
        if self.twin is not None:
            jobs["twin"] = lambda start: work.transfer_job(
                self.twin, self._on_twin, *settings, [self.view, self.twin], self.encodings, start
            )
        return jobs

    @property
    def _attacks(self) -> list[Attack]:
        return list(verdict.attacks(self.eps, self.attacker).values())

    @property
    def _on_twin(self) -> Attack:
        """The same attack; an ordinary network has no scores but those at its one timestep."""
        return verdict.attacks(self.eps, replace(self.attacker, target="final"))["pgd"]

    def found(self, jobs: Mapping[str, Job | None], swept: Mapping[Attack, np.ndarray] | None = None) -> list[Check]:
        """The checks, as far as these jobs are done. swept: the answers of a sweep, which tell some of it too."""
        known, curves = verdict.of_sweep(swept or {}, self.eps, self.attacker)
        done = {name: job for name, job in jobs.items() if job is not None and job.state == "done"}
        config = self.view.checkpoint.config
        if "attacks" in done:
            attacks = verdict.attacks(self.eps, self.attacker)
            parts = robustness.sweep_parts(config, self._attacks, self.samples, self.encodings)
            results = dict(work.sweep_results(done["attacks"], parts))
            # all on the same samples, which those of the sweep need not be
            known = {name: robustness.answers(results[attack], self.encodings) for name, attack in attacks.items()}
            if "twin" in done:
                table = pd.concat(done["twin"].results)
                known |= {"twin": transfer.answers(table, 0), "twin itself": transfer.answers(table, 1)}
        zeros = pd.concat(done["gradients"].results) if "gradients" in done else None
        possible = family.can_have_twin(config)
        checks = verdict.verdict(known, zeros, self.eps, config.classes, curves=curves, twin=possible)
        if possible and self.twin is None:
            checks[-1] = replace(checks[-1], advice=NO_TWIN)
        return checks


def checks_of(view: View, asked: Sweep) -> Checks:
    """What is to be checked about a sweep with attacks."""
    following = _following(asked)
    eps = max((a.strength for a in following if a.does.norm == "L∞" and a.strength < 0.5), default=USUAL)
    encodings = robustness.encodings_shown(view.checkpoint.config, asked.encodings)
    return Checks(view, eps, following[0].attacker, min(MOST, asked.samples), asked.seed, encodings, family.twin(view))


def _following(asked: Sweep) -> list[Attack]:
    return [attack for attack in asked.attacks if attack.kind in FOLLOWING and attack.strength]


def section(view: View, asked: Sweep, job: Job) -> None:
    """The verdict on a sweep with attacks: at once what its own points tell, the rest unasked where that takes no more
    than a minute, else on a button. job: of the sweep."""
    if not _following(asked):
        return
    st.subheader("Is this robustness real?", anchor=False, help=WHAT)
    if job.state != "done":
        st.caption("The verdict comes with the last point of the sweep.")
        return
    checks = checks_of(view, asked)
    submit = checks.submit()
    jobs = {name: one(None if name == "gradients" or checks.affordable else False) for name, one in submit.items()}
    missing = [name for name, one in jobs.items() if one is None or one.state in AGAIN]
    if missing and st.session_state.get("run_verdict", False):
        jobs |= {name: submit[name](True) for name in missing}
        missing = []
    parts = robustness.sweep_parts(view.checkpoint.config, asked.attacks, asked.samples, asked.encodings)
    swept = {a: robustness.answers(result, asked.encodings) for a, result in work.sweep_results(job, parts)}
    begun = {name: one for name, one in jobs.items() if one is not None}
    running = together.Together("Checking the attacker", begun)
    work.live(running, lambda: _answer(checks.found(jobs, swept), checks, running.state in OVER), retry=False)
    if missing:
        _ask(checks)


def _ask(checks: Checks) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Check the rest", key="run_verdict", icon=":material/fact_check:")
        st.caption(
            f"Attacks of the same ε with more steps, without bounds and without a gradient, on {checks.samples} samples: "
            f"{checks.passes:,} passes through the network.",
            width="stretch",
        )


def _answer(checks: Sequence[Check], of: Checks, over: bool) -> None:
    """The verdict in a box, and its evidence. over: whether nothing is being measured any more."""
    failed = [check for check in checks if check.passed is False]
    measured = [check for check in checks if check.found]
    if not measured:
        return
    if failed:
        st.error(
            f"**This robustness is probably an artefact**: {len(failed)} of {len(measured)} checks failed. "
            f"{failed[0].name}? No: {failed[0].found}. {failed[0].advice}",
            icon=":material/report:",
        )
    elif all(check.passed for check in checks):
        _passed(checks, of)
    elif not over:
        st.caption("Still checking. What is known so far is in the evidence.")
    else:
        unclear = sum(check.passed is None for check in measured)
        said = [f"{len(measured) - unclear} of {len(checks)} checks passed"]
        said += [f"{unclear} could not tell"] * bool(unclear)
        said += [f"{len(checks) - len(measured)} not made"] * (len(measured) < len(checks))
        st.info(f"{', '.join(said)}: see the evidence.", icon=":material/help:")
    with st.expander("The evidence"):
        st.caption(
            f"At ε = {255 * of.eps:.3g}/255 on {of.samples} samples; the curves are those of the sweep. The gradient that was "
            f"followed: {of.attacker.label}. Accuracies are at T, and compared sample by sample: less than two points, or "
            "less than the 95 % interval of the difference, counts for nothing."
        )
        st.table(table(checks).set_index("Check"))


def _passed(checks: Sequence[Check], of: Checks) -> None:
    if of.samples < ENOUGH:
        said = f"All {len(checks)} checks passed, but {of.samples} samples say little: take {ENOUGH} or more."
        st.info(said, icon=":material/help:")
        return
    st.success(
        f"**All {len(checks)} checks passed** on {of.samples} samples: the attacker saw its gradient, and what the sweep shows "
        "is the network's own.",
        icon=":material/verified:",
    )


def table(checks: Sequence[Check]) -> pd.DataFrame:
    """The evidence, for people: Check, Result, Measured and, where there is any, What to try."""
    columns = {
        "Check": [check.name for check in checks],
        "Result": [MARKS[check.passed] if check.found else "– not measured" for check in checks],
        "Measured": [check.found for check in checks],
    }
    advice = ["" if check.passed else check.advice for check in checks]
    return pd.DataFrame(columns | ({"What to try": advice} if any(advice) else {}))
