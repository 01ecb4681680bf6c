"""The device under test: ``GPU_TESTS_DEVICE=cpu`` rehearses without a GPU."""

import os

import pytest
import torch

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
