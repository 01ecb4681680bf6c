"""Loading fairseq checkpoints without running the code that a pickle can carry."""

import argparse
import collections
import functools
import importlib
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from fairseq_scl.errors import InputError

# fairseq 0.12.2 keeps second copies of a layer's weights for a fast path of inference.
# They are made anew on loading; other versions of fairseq do not know them.
LAYER_COPY = re.compile(r"\.layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)$")


@functools.cache
def allow_fairseq_classes() -> None:
    """Let ``torch.load(weights_only=True)`` read what fairseq stores, and no more.

    The list: ``argparse.Namespace`` (model arguments), plain containers, fairseq's
    meters (old checkpoints) and NumPy scalars (best metric, learning rate). None of
    them runs code when it is restored.
    """
    import numpy
    from fairseq.logging import meters

    core = "numpy._core" if numpy.__version__ >= "2" else "numpy.core"
    scalar = importlib.import_module(f"{core}.multiarray").scalar
    allowed: list[Any] = [
        argparse.Namespace,
        collections.OrderedDict,
        collections.defaultdict,
        (scalar, "numpy._core.multiarray.scalar"),
        (scalar, "numpy.core.multiarray.scalar"),
        numpy.dtype,
    ]
    kinds = ("float16", "float32", "float64", "int32", "int64", "bool")
    allowed += [type(numpy.dtype(kind)) for kind in kinds]
    for name in ("AverageMeter", "SumMeter", "TimeMeter", "StopwatchMeter"):
        meter = getattr(meters, name)
        allowed += [meter, (meter, f"fairseq.meters.{name}")]
    torch.serialization.add_safe_globals(allowed)


def load_checkpoint(path: str | Path, trusted: bool = False) -> dict[str, Any]:
    """Load a fairseq checkpoint on the CPU without running code from its pickle.

    Args:
        path: a ``.pt`` file.
        trusted: load with the full pickle machinery, which runs whatever code the
            file carries. Only for files whose origin you know.

    Returns:
        the dictionary that was saved.

    Raises:
        InputError: the file is missing, is no checkpoint, is damaged, or asks for a
            class that fairseq does not store; the sentence names file and class.
    """
    if not Path(path).is_file():
        raise InputError(f"missing checkpoint: {path}")
    allow_fairseq_classes()
    try:
        state = torch.load(path, map_location="cpu", weights_only=not trusted)
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise InputError(load_error(path, error)) from error
    if not isinstance(state, dict):
        raise InputError(
            f"{path} is no fairseq checkpoint: it holds a {type(state).__name__}, "
            "not a dictionary with 'model'"
        )
    return state


def load_error(path: str | Path, error: Exception) -> str:
    """Turn PyTorch's page-long message into one sentence."""
    wanted = re.search(r"GLOBAL (\S+)|global[^`']*[`']([\w.]+)[`']", str(error))
    if isinstance(error, pickle.UnpicklingError) and wanted:
        name = wanted.group(1) or wanted.group(2)
        return (
            f"{path} was not loaded: its pickle asks for {name}, which no fairseq "
            "checkpoint needs and which could run code; if you made the file yourself, "
            "load it once with "
            "fairseq_scl.compat.checkpoints.load_checkpoint(path, trusted=True) "
            "and save its 'model' again"
        )
    if isinstance(error, OSError):
        return f"cannot read {path}: {error.strerror}"
    reason = f"{type(error).__name__}: {error}"
    if "Weights only load failed" in reason:  # its advice is to run the file's code
        reason = "its pickle cannot be read"
    reason = re.split(r"\.\s|\n", reason)[0]
    return f"{path} is damaged or is no fairseq checkpoint ({reason})"
