"""Two processes that train together, for tests: on this machine, over gloo, gone when the test is."""

import multiprocessing
import os
import sys
import time
import traceback
from contextlib import contextmanager
from types import ModuleType

from tests.ports import free_port

SECONDS = 100


@contextmanager
def _no_main_script():
    """The script of a page that ran in this process before would run again in those it spawns."""
    before = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = before


def run_pair(function, folder) -> None:
    """Call function(folder) in two processes whose environment is that of torchrun; both must end well."""
    spawn = multiprocessing.get_context("spawn")
    arguments = (function, folder, free_port())
    pair = [spawn.Process(target=_one, args=(rank, *arguments), daemon=True) for rank in (0, 1)]
    with _no_main_script():
        for process in pair:
            process.start()
    deadline = time.monotonic() + SECONDS
    for process in pair:
        process.join(max(0.0, deadline - time.monotonic()))
    codes = [process.exitcode for process in pair]
    for process in pair:
        process.kill()
        process.join()
    said = "\n".join(file.read_text() for file in sorted(folder.glob("*.error")))
    assert codes == [0, 0], f"exit codes {codes}: {said}"


def _one(rank: int, function, folder, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    try:
        function(folder)
        os._exit(0)  # at once: see engine.parallel.end_with
    except BaseException:
        (folder / f"{rank}.error").write_text(traceback.format_exc())
        raise
