"""One GPU, one job: the lock, tried with made-up GPUs, and on real ones where there are any; memory that is kept."""

import os
import platform
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from engine import bundled, device
from engine.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1], mode=0o666):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def two_gpus(monkeypatch, tmp_path):
    """Two GPUs that are not there; the numbers of those chosen."""
    chosen = []
    monkeypatch.setattr(device, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(device.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda n: SimpleNamespace(uuid=f"uuid-{n}"))
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


def test_a_cpu_is_shared():
    with device.exclusive(), device.exclusive():
        pass


def test_jobs_get_different_gpus_and_the_third_waits(two_gpus):
    entered = threading.Event()

    def third():
        with device.exclusive():
            entered.set()

    with device.exclusive():
        with device.exclusive():
            assert two_gpus == [0, 1]
            waiting = threading.Thread(target=third)
            waiting.start()
            assert not entered.wait(0.5), "both are taken"
        waiting.join(10)
    assert entered.is_set() and two_gpus == [0, 1, 1]


def test_a_killed_process_gives_its_gpu_back(two_gpus, tmp_path):
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLDER, str(device._lock_file(n))], stdout=subprocess.PIPE, text=True)
        for n in range(2)
    ]
    assert [holder.stdout.readline() for holder in holders] == ["held\n"] * 2
    timer = threading.Timer(0.5, holders[1].kill)
    timer.start()
    started = time.monotonic()
    with device.exclusive():
        assert time.monotonic() - started > 0.4, "it waited for the other processes"
        assert two_gpus == [1]
    for holder in holders:
        holder.kill()
        holder.wait()


def test_an_error_inside_gives_the_gpu_back(two_gpus):
    with pytest.raises(ZeroDivisionError), device.exclusive():
        1 / 0
    with device.exclusive():
        assert two_gpus == [0, 0]


def test_under_torchrun_each_process_takes_the_gpu_of_its_rank(two_gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with device.exclusive():
        assert two_gpus == [1]


@pytest.mark.parametrize(
    "command, taken",
    [
        ("evaluate {bundled} --samples 2 --no-store", 1),
        ("robustness {bundled} --attack gaussian --eps 0.1 --samples 2 --no-store", 1),
        ("train --layout F4 --steps 1 --epochs 1 --out {out}", 1),
        ("inspect {bundled}", 0),
        ("train --preset list", 0),
        ("data list", 0),
    ],
)
def test_commands_that_compute_take_a_gpu_and_others_do_not(command, taken, monkeypatch, tmp_path, capsys):
    entered = []

    @contextmanager
    def recorded(waiting):
        entered.append(waiting)
        yield

    monkeypatch.setattr(device, "exclusive", recorded)
    named = {"bundled": bundled.path("digits"), "out": tmp_path / "run"}
    assert main([word.format(**named) for word in command.split()]) == 0
    assert len(entered) == taken
    for waiting in entered * 2:
        waiting()
    assert capsys.readouterr().err.count("waiting until another job is done with the GPU") == taken


def test_a_wait_ends_when_nobody_wants_the_result_any_more(two_gpus):
    """What `waiting` raises comes out, and the GPUs stay with those who have them."""

    def cancelled():
        raise RuntimeError("Cancelled.")

    with device.exclusive(), device.exclusive():
        with pytest.raises(RuntimeError, match="Cancelled"), device.exclusive(cancelled):
            pass
    assert two_gpus == [0, 1]


@pytest.mark.gpu
def test_a_real_gpu_is_taken_and_given_back():
    for _ in range(2):
        with device.exclusive():
            assert torch.ones(2, device=device.device()).sum().item() == 2


FAULTS = """
import resource, threading, torch
from engine.device import keep_freed_memory

def faults(megabytes=8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(megabytes * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def in_a_thread():
    faults(80)
    print(faults(80))

print(faults())
keep_freed_memory()
faults()
print(faults())
thread = threading.Thread(target=in_a_thread)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library can be told to keep memory")
def test_freed_memory_is_used_again():
    """Twenty tensors of 8 MB, each 2,048 pages: as Dask sets its workers up, each page is fetched anew every time. In a
    thread, as Dask runs its tasks in one, of more than the 64 MB that the heap of a thread can hold."""
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run([sys.executable, "-c", FAULTS], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, after, in_a_thread = map(int, done.stdout.split())
    assert before > 20 * 1000 and after < 2048 and in_a_thread < 2048
