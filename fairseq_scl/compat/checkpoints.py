"""Loading fairseq checkpoints without running code that they carry.

A pickle can name code to call; an allow-list of classes refuses it. Settings can hold
code in strings; :mod:`fairseq_scl.compat.settings` passes on none of it. Sizes that a
file claims are compared with its own before memory is asked for.
"""

import argparse
import collections
import functools
import importlib
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairseq_scl.compat.settings import safe_settings
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
    """Load a fairseq checkpoint on the CPU without running code that it carries.

    Args:
        path: a ``.pt`` file.
        trusted: load with the full pickle machinery, which runs whatever code the
            file carries, and keep its settings as they are. Only for files whose
            origin you know.

    Returns:
        the dictionary that was saved. Its settings, if it has any, are in ``cfg``,
        reduced by :func:`~fairseq_scl.compat.settings.safe_settings`.

    Raises:
        InputError: the file is missing, is not a checkpoint, is damaged, asks for a
            class that fairseq does not store, has a setting that is not allowed, or
            claims to be larger than it is; the sentence names the file.
    """
    if not Path(path).is_file():
        raise InputError(f"missing checkpoint: {path}")
    allow_fairseq_classes()
    try:
        if not trusted:
            check_archive(Path(path))
        state = torch.load(path, map_location="cpu", weights_only=not trusted)
    except InputError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        # Without PyTorch's own text, which advises to run the file's code.
        raise InputError(load_error(path, error)) from None
    if not isinstance(state, dict):
        raise InputError(
            f"{path} is no fairseq checkpoint: it holds a {type(state).__name__}, "
            "not a dictionary with 'model'"
        )
    if trusted:
        return state
    _check_tensors(state, Path(path))
    if state.get("args") is not None or state.get("cfg") is not None:
        state["cfg"] = safe_settings(state, path)
        state["args"] = None
    return state


def check_archive(path: Path) -> None:
    """Refuse a zip file whose members take more memory than the file has bytes.

    Raises:
        InputError: names the file and both sizes.
        zipfile.BadZipFile: the file is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    packed = any(one.file_size != one.compress_size for one in members)
    size = path.stat().st_size
    claimed = sum(one.file_size for one in members)
    if packed or claimed > size:
        raise InputError(
            f"{path} was not loaded: it unpacks to {claimed:,} bytes, the file has "
            f"{size:,}; torch.save does not compress"
        )


def _check_tensors(state: dict[str, Any], path: Path) -> None:
    """Refuse weights that are not plain tensors, and views larger than the file."""
    weights = state.get("model", {})
    if not isinstance(weights, dict):
        raise InputError(
            f"{path} is no fairseq checkpoint: its 'model' is a "
            f"{type(weights).__name__}, not a dictionary of tensors"
        )
    for name, weight in weights.items():
        plain = isinstance(weight, torch.Tensor) and weight.layout == torch.strided
        if not plain or weight.device.type != "cpu" or weight.is_quantized:
            raise InputError(f"{path} was not loaded: {name!r} is not a plain tensor")
    claimed = sum(one.numel() * one.element_size() for one in _tensors(state))
    # Tied weights are in the file once, under up to three names.
    if claimed > 4 * path.stat().st_size:
        raise InputError(
            f"{path} was not loaded: its tensors take {claimed:,} bytes, the file has "
            f"{path.stat().st_size:,}"
        )


def _tensors(state: dict[str, Any]) -> Iterator[torch.Tensor]:
    """Find the tensors in nested containers, each once: these may hold themselves."""
    seen: set[int] = set()
    rest: list[Any] = [state]
    while rest:
        value = rest.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, dict):
            rest += value.values()
        elif isinstance(value, list | tuple):
            rest += value


def load_model(
    path: str | Path, overrides: dict[str, Any], task: Any = None
) -> tuple[Any, Any]:
    """Build the model of a checkpoint, on the CPU.

    Args:
        path: the checkpoint.
        overrides: settings that replace those of the file, as ``data``.
        task: the fairseq task; by default that of the file.

    Returns:
        the model and the task.

    Raises:
        InputError: as :func:`load_checkpoint` and :func:`check_finite`, or settings,
            weights and the files beside them do not fit together.
    """
    from fairseq import checkpoint_utils

    state = checkpoint_utils.load_checkpoint_to_cpu(str(path), overrides)
    try:
        models, _, task = checkpoint_utils.load_model_ensemble_and_task(
            [str(path)], task=task, state=state
        )
    except InputError:
        raise
    except Exception as error:  # fairseq checks little: what is wrong shows anywhere
        reason = (str(error).strip().splitlines() or [""])[-1].strip()
        raise InputError(
            f"{path} does not fit its settings or the dictionary beside it "
            f"({type(error).__name__}: {reason})"
        ) from error
    check_finite(models[0].state_dict(), path)
    return models[0], task


def check_finite(weights: Mapping[str, Tensor], origin: object) -> None:
    """Refuse weights that are not numbers: what they compute looks like an answer.

    Args:
        weights: tensors by name, of any shape and dtype.
        origin: the file that they are from, for the message.

    Raises:
        InputError: names the first tensor with a NaN or an infinite value.
    """
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            kind = "NaN" if torch.isnan(tensor).any() else "an infinite value"
            raise InputError(f"{origin} has {kind} in {name}: its training diverged")


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
    return f"{path} is damaged or is no fairseq checkpoint ({short_reason(error)})"


def short_reason(error: Exception) -> str:
    """Return an error's kind and first sentence, never PyTorch's advice to run code."""
    if "weights_only" in str(error) or "Weights only" in str(error):
        return "its pickle cannot be read"
    return re.split(r"\.\s|\n", f"{type(error).__name__}: {error}".strip())[0]
