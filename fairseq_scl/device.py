"""The one check of a ``--device``."""

import torch

from fairseq_scl.errors import InputError


def check_device(device: str) -> None:
    """Refuse a CUDA device where there is none.

    PyTorch finds it out late, and fairseq not at all: it would train on the CPU.

    Args:
        device: a PyTorch device, for example ``cpu`` or ``cuda``.

    Raises:
        InputError: names the device.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(
            f"the device is {device!r}, but PyTorch finds no CUDA device here: use cpu"
        )
