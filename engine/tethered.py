"""python -m engine.tethered ARGUMENTS: `python -m engine ARGUMENTS`, ending when its standard input does.

Whoever starts it holds the other end: when that process ends, however that happens, so does this one. It lets shorter
work come first.
"""

from __future__ import annotations

import os
import sys
import threading

NICE = 5


def _end_with_the_starter() -> None:
    while os.read(sys.stdin.fileno(), 1024):  # not sys.stdin.read: its lock would be held when Python ends
        pass
    os._exit(1)  # at once, whatever is being computed: a run's folder is whole at any moment


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(NICE)
    threading.Thread(target=_end_with_the_starter, name="tether", daemon=True).start()
    from engine.__main__ import main

    sys.exit(main())
