"""What torchrun says in the environment. Needs no torch, which takes seconds to import."""

import os

NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def several() -> bool:
    """Whether this process is one of several that train together."""
    return all(name in os.environ for name in NAMES) and int(os.environ["WORLD_SIZE"]) > 1
