"""Fake GPUs, in this process and in processes started by a test."""

import importlib.util
import os
import sys
from pathlib import Path

import torch

FOLDER = Path(__file__).parent / "fake_gpus"


def pretend(monkeypatch, count=0, capabilities=None, visible=None):
    """Let this process see GPUs through NVML, and fail as soon as it touches CUDA.

    Args:
        monkeypatch: the fixture.
        count: number of GPUs; with 0, NVML does not answer.
        capabilities: compute capability of each GPU, such as ``(9, 0)``.
        visible: value of ``CUDA_VISIBLE_DEVICES``; ``None`` unsets it.
    """
    spec = importlib.util.spec_from_file_location(
        "toy_gpus_fake", FOLDER / "sitecustomize.py"
    )
    fake = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fake)
    monkeypatch.setitem(sys.modules, "pynvml", fake.FakeNvml(count, capabilities))
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    bar_cuda(monkeypatch)


def bar_cuda(monkeypatch):
    """Let this process fail as soon as it touches CUDA."""

    def touched(*_args, **_kwargs):
        raise AssertionError("this process asked CUDA")

    for name in ("is_available", "device_count", "current_device", "_lazy_init"):
        monkeypatch.setattr(torch.cuda, name, touched)


def environment(count, **more):
    """Return the environment of a process that sees ``count`` GPUs."""
    found = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    places = [str(FOLDER), found.get("PYTHONPATH", "")]
    found |= {"FAKE_GPUS": str(count), "PYTHONPATH": os.pathsep.join(places)}
    return found | more
