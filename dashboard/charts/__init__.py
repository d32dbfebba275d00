"""DataFrame (or array) → plotly Figure: pure functions, no Streamlit. Titles and units stand in the figures."""

from . import (
    comparison,
    early_exit,
    exit_rules,
    gamma,
    robustness,
    run_looks,
    spikes,
    theme,
    training,
)

__all__ = ["comparison", "early_exit", "exit_rules", "gamma", "robustness", "run_looks", "spikes", "theme", "training"]
