"""Load fairseq checkpoints without running code that they contain.

A pickle can call code, which an allow-list of classes prevents. Settings can contain
code in strings, which :mod:`fairseq_scl.compat.settings` filters out. The sizes that a
file claims are compared with its actual size before memory is allocated.
"""

import argparse
import collections
import errno
import functools
import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fairseq_scl.compat.settings import safe_settings
from fairseq_scl.errors import InputError

# Checkpoints of fairseq 0.12.2 hold a second copy of each layer's weights, which the
# fork does not know.
LAYER_COPY = re.compile(r"\.layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)$")

EMBEDDING = "encoder.sentence_encoder.embed_tokens.weight"


@functools.cache
def allow_fairseq_classes() -> None:
    """Allow ``torch.load(weights_only=True)`` to read the classes that fairseq stores.

    These are ``argparse.Namespace`` (model arguments), plain containers, fairseq's
    meters (old checkpoints) and NumPy scalars (best metric, learning rate). None of
    them runs code when it is restored.
    """
    import numpy
    from fairseq.logging import meters
    from numpy._core.multiarray import scalar

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
    """Load a fairseq checkpoint on the CPU without running code that it contains.

    Args:
        path: a ``.pt`` file.
        trusted: use full unpickling, which runs any code in the file, and keep its
            settings as they are. Only for files whose origin you know.

    Returns:
        the saved dictionary. Its settings, if any, are in ``cfg``, filtered by
        :func:`~fairseq_scl.compat.settings.safe_settings`.

    Raises:
        InputError: the file is missing, damaged or not a checkpoint, asks for a class
            that fairseq does not store, has a setting that is not allowed, or claims
            to be larger than it is; the message names the file.
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
    except Exception as error:  # a damaged pickle can raise almost anything
        # PyTorch's own message advises running the file's code.
        raise InputError(load_error(path, error)) from None
    if not isinstance(state, dict):
        raise InputError(
            f"{path} is not a fairseq checkpoint: it has a {type(state).__name__}, "
            "not a dictionary with 'model'"
        )
    if trusted:
        return state
    check_tensors(state, Path(path))
    weights = state.get("model", {})
    for name in [name for name in weights if LAYER_COPY.search(name)]:
        del weights[name]
    if state.get("args") is not None or state.get("cfg") is not None:
        state["cfg"] = safe_settings(state, path)
        state["args"] = None
    return state


def check_archive(path: Path) -> None:
    """Refuse a zip file whose members take more memory than the file has bytes.

    Raises:
        InputError: the sizes do not match; the message names the file and both.
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
            f"{path} was not loaded: it unpacks to {claimed:,} bytes, but the file has "
            f"{size:,}; torch.save does not compress"
        )


def check_tensors(state: dict[str, Any], path: Path) -> None:
    """Refuse weights that are not plain tensors, and views larger than the file.

    Raises:
        InputError: names the file and the weight, or both sizes.
    """
    weights = state.get("model", {})
    if not isinstance(weights, dict):
        raise InputError(
            f"{path} is not a fairseq checkpoint: its 'model' is a "
            f"{type(weights).__name__}, not a dictionary of tensors"
        )
    for name, weight in weights.items():
        plain = isinstance(weight, torch.Tensor) and weight.layout == torch.strided
        if not plain or weight.device.type != "cpu" or weight.is_quantized:
            raise InputError(f"{path} was not loaded: {name!r} is not a plain tensor")
    claimed = sum(one.numel() * one.element_size() for one in _tensors(state))
    # Tied weights are stored once, under up to three names.
    if claimed > 4 * path.stat().st_size:
        raise InputError(
            f"{path} was not loaded: its tensors take {claimed:,} bytes, but it has "
            f"{path.stat().st_size:,}"
        )


def _tensors(state: dict[str, Any]) -> Iterator[torch.Tensor]:
    """Yield each tensor in nested containers once; containers may hold themselves."""
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


def load_model(path: str | Path, overrides: dict[str, Any]) -> tuple[Any, Any]:
    """Build the model of a checkpoint on the CPU.

    Args:
        path: the checkpoint.
        overrides: settings that replace those in the file, such as ``data``.

    Returns:
        the model and the task.

    Raises:
        InputError: as in :func:`load_checkpoint` and :func:`check_finite`, or settings,
            weights and the files next to them do not match.
    """
    from fairseq import checkpoint_utils

    state = checkpoint_utils.load_checkpoint_to_cpu(str(path), overrides)
    try:
        with _ZerosForRandomNumbers():
            models, _, task = checkpoint_utils.load_model_ensemble_and_task(
                [str(path)], state=state
            )
    except InputError:
        raise
    except Exception as error:  # fairseq checks little, so errors surface anywhere
        if "data" in overrides:
            check_dictionary_size(state["model"], Path(overrides["data"]), path)
        reason = (str(error).strip().splitlines() or [""])[-1].strip()
        raise InputError(
            f"{path} does not match its settings or the dictionary next to it "
            f"({type(error).__name__}: {reason})"
        ) from error
    check_finite(models[0].state_dict(), path)
    return models[0], task


class _ZerosForRandomNumbers(TorchFunctionMode):
    """Within the block, this thread initializes weights that are replaced with zeros.

    Random numbers would take half of the time to load a model, and change the state of
    the generator.
    """

    RANDOM = (
        *(Tensor.normal_, Tensor.uniform_),
        *(nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_),
    )

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.RANDOM:
            tensor = args[0] if args else kwargs["tensor"]
            return tensor.detach().zero_()
        return func(*args, **kwargs)


def check_dictionary_size(
    weights: Mapping[str, Tensor], folder: Path, origin: object
) -> None:
    """Refuse a RoBERTa whose embedding has another size than its dictionary.

    The dictionary is in ``folder`` or, for a data or model folder, in its ``input0``.

    Raises:
        InputError: the sizes differ; the message names both files and sizes.
    """
    from fairseq_scl.rows import load_dictionary  # imports fairseq

    for path in (folder / "dict.txt", folder / "input0" / "dict.txt"):
        if not path.is_file() or EMBEDDING not in weights:
            continue
        found, wanted = len(weights[EMBEDDING]), len(load_dictionary(path))
        if found != wanted:
            raise InputError(
                f"{origin} has {found} symbols, {path} has {wanted}: use the "
                "dictionary, or the data folder, of its training"
            )


def check_finite(weights: Mapping[str, Tensor], origin: object) -> None:
    """Refuse weights that are NaN or infinite, whose output would look like an answer.

    Raises:
        InputError: names ``origin`` and the first tensor with such a value.
    """
    for name, tensor in weights.items():
        if torch.isfinite(tensor.sum()):  # which is much faster, but may overflow
            continue
        if not torch.isfinite(tensor).all():
            kind = "NaN" if torch.isnan(tensor).any() else "an infinite value"
            raise InputError(f"{origin} has {kind} in {name}: its training diverged")


def load_error(path: str | Path, error: Exception) -> str:
    """Shorten PyTorch's page-long message to one sentence."""
    wanted = re.search(r"GLOBAL (\S+)|global[^`']*[`']([\w.]+)[`']", str(error))
    name = (wanted.group(1) or wanted.group(2)) if wanted else ""
    # A truncated pickle may end within a name, which PyTorch reports without its end.
    part = name.rpartition(".")[2].encode()
    is_cut = part in _last_bytes(path, len(part) + 1)
    if isinstance(error, pickle.UnpicklingError) and wanted and not is_cut:
        return (
            f"{path} was not loaded: its pickle asks for {name}, which no fairseq "
            "checkpoint needs and which could run code; if you made the file yourself, "
            "load it once with "
            "fairseq_scl.compat.checkpoints.load_checkpoint(path, trusted=True) "
            "and save its 'model' again"
        )
    # PyTorch reads a truncated file beyond its end, which is an EINVAL.
    if isinstance(error, OSError) and error.errno != errno.EINVAL:
        return f"cannot read {path}: {error.strerror}"
    return f"{path} is damaged or is not a fairseq checkpoint ({short_reason(error)})"


def _last_bytes(path: str | Path, count: int) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(-min(count, Path(path).stat().st_size), os.SEEK_END)
            return file.read()
    except OSError:
        return b""


def short_reason(error: Exception) -> str:
    """Return an error's type and first sentence, without advice to run code."""
    if "weights_only" in str(error) or "Weights only" in str(error):
        return "its pickle cannot be read"
    return re.split(r"\.\s|\n", f"{type(error).__name__}: {error}")[0].rstrip(": ")
