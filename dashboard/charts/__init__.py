"""DataFrame (or array) → plotly Figure: pure functions, no Streamlit. Titles and units stand in the figures."""

from . import early_exit, gamma, robustness, spikes, theme

__all__ = ["early_exit", "gamma", "robustness", "spikes", "theme"]
