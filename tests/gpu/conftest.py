"""The device under test: ``GPU_TESTS_DEVICE=cpu`` rehearses without a GPU."""

import os

import pytest
import torch

from helpers.training import make_data

DEVICE = os.environ.get("GPU_TESTS_DEVICE", "cuda")


@pytest.fixture(scope="session")
def device():
    """Return the device; the workers start before PyTorch first uses it here."""
    return torch.device(DEVICE)


@pytest.fixture
def cuda(device):
    """Return the device; skip in a rehearsal on a CPU."""
    if device.type != "cuda":
        pytest.skip("only on a CUDA device")
    return device


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Return a data folder whose batches cannot be split evenly between two workers."""
    folder = tmp_path_factory.mktemp("it's data") / "bin"
    return make_data(folder, {"train": 27, "valid": 10, "test": 10}, words=30)
