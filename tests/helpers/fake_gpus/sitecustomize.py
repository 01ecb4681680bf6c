"""Fake GPUs: with this folder on PYTHONPATH, every process sees FAKE_GPUS GPUs.

The GPUs cannot compute, so fairseq trains on the CPU regardless of ``--device``. All
decisions about GPUs are made as on a machine that has them.
"""

import os
import sys

COUNT = int(os.environ.get("FAKE_GPUS", "0"))


class NVMLError(Exception):
    pass


class FakeNvml:
    """The part of NVML in use, for cards of compute capability 9.0 or as given."""

    NVMLError = NVMLError

    def __init__(self, count, capabilities=None):
        self.capabilities = capabilities or [(9, 0)] * count

    def nvmlInit(self):
        if not self.capabilities:
            raise NVMLError("there is no driver")

    def nvmlShutdown(self):
        pass

    def nvmlSystemGetDriverVersion(self):
        return "580.65"

    def nvmlDeviceGetCount(self):
        return len(self.capabilities)

    def nvmlDeviceGetHandleByIndex(self, number):
        return number

    def nvmlDeviceGetName(self, number):
        return f"Fake GPU {number}"

    def nvmlDeviceGetUUID(self, number):
        return f"GPU-{number}f00-ba5"

    def nvmlDeviceGetCudaComputeCapability(self, number):
        return list(self.capabilities[number])


def count_visible():
    """Count GPUs as CUDA does for a list of numbers."""
    entries = os.environ.get("CUDA_VISIBLE_DEVICES")
    return COUNT if entries is None else len(entries.split(",")) if entries else 0


# multiprocessing's tracker of semaphores asks for no GPUs.
if COUNT and "resource_tracker" not in sys.orig_argv[-1]:
    import torch

    import fairseq_scl.device

    fairseq_scl.device.check_cuda = lambda: None
    sys.modules["pynvml"] = FakeNvml(COUNT)
    torch.backends.cuda.is_built = lambda: True
    torch.cuda.device_count = count_visible
