"""What all tests share: seeds, threads, fixtures, and the reasons to skip."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

SHARED = Path(__file__).resolve().parents[1].parent / "shared"

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anybody imports triton, which looks once

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers themselves fill the cores
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if item.get_closest_marker("browser") and "CHROMIUM" not in os.environ:
        pytest.skip("needs a Chromium named by CHROMIUM, which `python3 -m tests` finds or installs")


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random numbers, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def own_store(tmp_path_factory):
    """Results that tests keep are not the developer's, and the other way round."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BNTT_STORE", str(tmp_path_factory.mktemp("store")))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material beside the repository."""
    if not SHARED.is_dir():
        pytest.skip("needs the reference material in ../shared")
    return SHARED
