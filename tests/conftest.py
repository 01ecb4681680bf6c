"""Settings that every test shares; fixtures live beside the tests that use them."""

import os

# Before torch and transformers are imported, and inherited by every subprocess: two
# workers share two cores, nothing is fetched, figures need no screen.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import threading
from types import SimpleNamespace

import hypothesis
import pytest
import torch

from helpers.server import Server

torch.set_num_threads(1)

# No deadline: a shared machine stalls. Derandomized: the same commit tests the same
# examples everywhere. `pytest --hypothesis-profile=search` draws many new ones.
hypothesis.settings.register_profile(
    "repeatable", deadline=None, derandomize=True, max_examples=50
)
hypothesis.settings.register_profile("search", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("repeatable")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU, or PyTorch for one, unless it is rehearsed on the CPU."""
    if item.get_closest_marker("cuda_build") and torch.version.cuda is None:
        pytest.skip("needs PyTorch built for CUDA")
    rehearsed = os.environ.get("GPU_TESTS_DEVICE") == "cpu"
    needs_gpu = item.get_closest_marker("gpu") and not rehearsed
    if needs_gpu and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture
def server(monkeypatch):
    """Yield a local server whose files and faults a test sets."""
    # pooch waits between tries
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda _: None))
    with Server() as running:
        running.daemon_threads = True
        running.block_on_close = False
        serve = threading.Thread(target=running.serve_forever, args=(0.01,))
        serve.start()
        yield running
        running.shutdown()
