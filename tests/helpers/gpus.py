"""Fake GPUs, in this process and in processes started by a test."""

import importlib.util
import os
import sys
from pathlib import Path

import torch

from fairseq_scl.cli import main
from helpers.training import start_fast

FOLDER = Path(__file__).parent / "fake_gpus"


def pretend(monkeypatch, count=0, capabilities=None, visible=None):
    """Let this process see GPUs through NVML, and fail as soon as it touches CUDA.

    Args:
        monkeypatch: the fixture.
        count: number of GPUs; with 0, NVML does not answer.
        capabilities: compute capability of each GPU, such as ``(9, 0)``.
        visible: value of ``CUDA_VISIBLE_DEVICES``; ``None`` unsets it.
    """
    fake = _load_fake()
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


def run_with_gpus(count, argv, **environment):
    """Run ``fairseq-scl`` in a new process that sees ``count`` GPUs.

    Args:
        count: number of GPUs.
        argv: the arguments.
        environment: further variables.
    """
    path = os.pathsep.join([str(FOLDER), os.environ.get("PYTHONPATH", "")])
    variables = {"FAKE_GPUS": str(count), "PYTHONPATH": path, **environment}
    return start_fast(_main_with_gpus, variables, argv).wait()


def _main_with_gpus(variables, argv):
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    os.environ.update(variables)
    _load_fake()
    sys.exit(main(argv))


def _load_fake():
    place = FOLDER / "sitecustomize.py"
    spec = importlib.util.spec_from_file_location("toy_gpus_fake", place)
    fake = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fake)
    return fake
