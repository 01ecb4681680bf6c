"""Devices: the available GPUs and the precisions that they support.

Once a process has initialized CUDA, its forks cannot use it. So nothing here except
``check_cuda`` touches CUDA: GPUs are queried through NVML or, if it is missing, in
another process.
"""

import contextlib
import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from fairseq_scl.errors import InputError

# The dtype of each precision; tf32 is float32 with less precise products.
DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
PRECISIONS = tuple(DTYPES)
# The first compute capability with TF32 and bfloat16 (Ampere).
AMPERE = (8, 0)
_ASK = """
import json, torch
gpus = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
print(json.dumps([[gpu.name, gpu.major, gpu.minor] for gpu in gpus]))
"""


@dataclass(frozen=True)
class Gpu:
    """A GPU that this process may use.

    Attributes:
        entry: its name in ``CUDA_VISIBLE_DEVICES``.
        name: name of the card.
        capability: compute capability of the card.
        uuid: UUID of the card, if known.
    """

    entry: str
    name: str
    capability: tuple[int, int]
    uuid: str = ""


def visible_gpus() -> list[Gpu]:
    """Return the GPUs that CUDA would show to this process, without touching CUDA."""
    entries = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.backends.cuda.is_built() or entries == "":
        return []
    if entries is None or "MIG-" not in entries:
        with contextlib.suppress(ImportError, _NvmlError), _nvml() as nvml:
            return chosen_gpus(_all_gpus(nvml), entries)
    return list(_ask_a_process(entries))


def chosen_gpus(gpus: Sequence[Gpu], entries: str | None) -> list[Gpu]:
    """Select from all GPUs of the machine as CUDA does.

    ``entries`` is the value of ``CUDA_VISIBLE_DEVICES``, or ``None`` if it is unset.

    Returns:
        the GPUs in the order of the entries, up to the first that is unknown.
    """
    if entries is None:
        return list(gpus)
    chosen: list[Gpu] = []
    for entry in (text.strip() for text in entries.split(",")):
        for gpu in gpus:
            is_uuid = entry.startswith("GPU-")
            if entry == gpu.entry or (is_uuid and gpu.uuid.startswith(entry)):
                chosen.append(replace(gpu, entry=entry))
                break
        else:
            break
    return chosen


def available_device() -> str:
    """Return ``cuda`` if there is a GPU, else ``cpu``."""
    return "cuda" if visible_gpus() else "cpu"


def check_device(device: str, precision: str = "fp32") -> None:
    """Refuse a missing device, or a precision that the device does not support.

    PyTorch would notice late, and fairseq not at all: it would train on the CPU.

    Raises:
        InputError: names the device or the precision, and what is allowed.
    """
    if precision not in PRECISIONS:
        raise InputError(
            f"the precision is {precision!r}: allowed are {', '.join(PRECISIONS)}"
        )
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise InputError(f"the device is {device!r}: allowed are cpu, cuda and cuda:N")
    if device == "cpu":
        if precision != "fp32":
            raise InputError(
                f"the precision is {precision!r}, which needs a GPU, but the device is "
                f"{device!r}: use fp32"
            )
        return
    gpus = visible_gpus()
    if not gpus:
        raise InputError(
            f"the device is {device!r}, but PyTorch finds no CUDA device here: use cpu"
        )
    if int(device.partition(":")[2] or 0) >= len(gpus):
        raise InputError(
            f"the device is {device!r}, but there are {len(gpus)} GPUs, counted from 0"
        )
    older = [gpu.name for gpu in gpus if gpu.capability < AMPERE]
    if older and precision in ("tf32", "bf16"):
        raise InputError(
            f"the precision is {precision!r}, which {older[0]} does not support: use "
            "fp32 or fp16"
        )


def check_cuda() -> None:
    """Refuse a GPU that PyTorch cannot use; only for a process that computes on it.

    NVML lists a GPU also where its driver is too old for this PyTorch.

    Raises:
        InputError: gives PyTorch's reason.
    """
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            "the device is 'cuda', but PyTorch cannot use the GPU "
            f"({str(error).splitlines()[0]}): use cpu, or see 'fairseq-scl doctor'"
        ) from error


def describe_device(device: str) -> dict[str, Any]:
    """Return the GPU name and driver, CUDA and cuDNN versions; ``None`` on the CPU."""
    found: dict[str, Any] = dict.fromkeys(("gpu", "driver", "cuda", "cudnn"))
    if not device.startswith("cuda"):
        return found
    if torch.cuda.is_initialized():
        found["gpu"] = torch.cuda.get_device_name()
    else:
        found["gpu"] = next((gpu.name for gpu in visible_gpus()), None)
    with contextlib.suppress(ImportError, _NvmlError), _nvml() as nvml:
        found["driver"] = nvml.nvmlSystemGetDriverVersion()
    found["cuda"] = torch.version.cuda
    found["cudnn"] = torch.backends.cudnn.version()
    return found


def allow_tf32(precision: str) -> None:
    """Let this process multiply float32 matrices in TF32 only for ``tf32``."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Within the block, multiply float32 matrices in full precision."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class _NvmlError(Exception):
    """NVML is missing or does not answer."""


@contextlib.contextmanager
def _nvml() -> Iterator[Any]:
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            yield pynvml
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise _NvmlError from error


def _all_gpus(nvml: Any) -> list[Gpu]:
    gpus = []
    for number in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(number)
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
        name, uuid = nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetUUID(handle)
        gpus.append(Gpu(str(number), name, (major, minor), uuid))
    return gpus


@functools.cache
def _ask_a_process(entries: str | None) -> tuple[Gpu, ...]:
    """Query CUDA in another process; return no GPUs if that fails."""
    asked = [sys.executable, "-c", _ASK]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode:
        return ()
    rows = json.loads(done.stdout)
    names = map(str, range(len(rows))) if entries is None else entries.split(",")
    return tuple(
        Gpu(entry.strip(), name, (major, minor))
        for entry, (name, major, minor) in zip(names, rows, strict=False)
    )
