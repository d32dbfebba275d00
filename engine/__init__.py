"""BNTT networks: load, run, measure, train. `engine.snn` alone needs nothing but torch."""

import os
from importlib import import_module

# OpenMP's threads look for more work for a while before they sleep, and meanwhile hold the cores that the kernels of
# engine.snn need. A fifteenth of the usual while is enough for torch. Heard where torch is not loaded yet, as on the
# command line; not where somebody has said how threads should wait, as for the workers of the app.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")

_HOME = {
    "load_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
    "Checkpoint": "checkpoint",
    "CheckpointError": "checkpoint",
    "ModelConfig": "snn",
    "build_model": "snn",
    "spike_counts": "snn",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    # Looked up on first use, so that `import engine` costs nothing and engine.snn drags nothing in.
    if name not in _HOME:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
