"""Running fairseq on today's Python and PyTorch.

Here live: which versions fit together; loading fairseq checkpoints without running the
code that a pickle can carry; ending ``fairseq-train`` with one sentence when the input
is at fault; and what is mended in fairseq itself (``patch_fairseq``). Nothing here
imports fairseq at import time, so that ``fairseq-scl doctor`` works where fairseq does
not.
"""

import argparse
import collections
import functools
import importlib.metadata
import logging
import pickle
import platform
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from fairseq_scl.errors import InputError

# The build of the fork needs the PyTorch that is installed, in isolation it fetches a
# second one; that of 0.12.2 fails where it sees PyTorch, as its archive lacks sources.
INSTALL_FROM_311 = "pip install --no-build-isolation fairseq-fixed==0.12.3.1"
INSTALL_BEFORE_311 = "pip install 'pip<24.1', then pip install fairseq==0.12.2"

# fairseq 0.12.2 keeps second copies of a layer's weights for a fast path of inference.
# They are made anew on loading; other versions of fairseq do not know them.
LAYER_COPY = re.compile(r"\.layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)$")


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, ``None`` if it is absent."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def problems(
    python: tuple[int, int] = sys.version_info[:2],
    version_of: Callable[[str], str | None] = installed_version,
) -> list[str]:
    """Say what keeps fairseq from working here, judging by versions alone.

    Args:
        python: major and minor version of the interpreter.
        version_of: returns the installed version of a distribution or ``None``.

    Returns:
        one sentence a problem, each with its remedy; empty when all fits.
    """
    found = []
    stock, fixed = version_of("fairseq"), version_of("fairseq-fixed")
    install = INSTALL_FROM_311 if python >= (3, 11) else INSTALL_BEFORE_311
    if not (3, 10) <= python < (3, 13):
        found.append(
            f"Python {python[0]}.{python[1]} does not run fairseq: use Python 3.10, "
            "3.11 or 3.12"
        )
    if stock is None and fixed is None:
        found.append(f"fairseq is not installed: {install}")
    elif stock is not None and fixed is not None:
        found.append(
            f"fairseq {stock} and fairseq-fixed {fixed} are both installed and "
            f"overwrite each other: pip uninstall fairseq fairseq-fixed, then {install}"
        )
    elif fixed is None and stock == "0.12.2" and python >= (3, 11):
        found.append(
            f"fairseq {stock} does not import on Python {python[0]}.{python[1]} "
            f"(mutable dataclass defaults): pip uninstall fairseq, then {install}"
        )
    torch_version = version_of("torch")
    if torch_version is None:
        found.append("PyTorch is not installed: pip install torch")
    elif tuple(map(int, re.findall(r"\d+", torch_version)[:2])) < (2, 6):
        found.append(
            f"PyTorch {torch_version} cannot load fairseq's checkpoints safely: "
            "pip install 'torch>=2.6'"
        )
    return found


def import_problems() -> list[str]:
    """Import fairseq and say what it raised; empty when it works."""
    quiet = logging.root.manager.disable
    logging.disable(logging.INFO)  # it recommends packages that nothing here uses
    try:
        importlib.import_module("fairseq")
    except Exception as error:  # whatever it is, it is what the user needs to know
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return [
            f"fairseq is installed but does not import ({reason}): install the "
            "versions of constraints.txt"
        ]
    finally:
        logging.disable(quiet)
    return []


def doctor_report() -> tuple[list[tuple[str, str]], list[str]]:
    """Collect versions and everything that is wrong with this installation.

    Returns:
        pairs of a name and its version, and one sentence a problem (with remedy).
    """
    names = ("torch", "numpy", "fairseq", "fairseq-fixed", "hydra-core", "omegaconf")
    more = ("tokenizers", "safetensors", "scikit-learn", "scipy", "matplotlib")
    versions = [("python", platform.python_version())]
    versions += [(n, installed_version(n) or "not installed") for n in names + more]
    versions.append(("cuda", torch.version.cuda or "not in this PyTorch build"))
    versions.append(("gpus", str(torch.cuda.device_count())))
    found = problems() or import_problems()
    missing = [n for n in more if installed_version(n) is None]
    if missing:
        found.append(f"{', '.join(missing)} missing: pip install {' '.join(missing)}")
    return versions, found


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
        raise InputError(_load_error(path, error)) from error
    if not isinstance(state, dict):
        raise InputError(
            f"{path} is no fairseq checkpoint: it holds a {type(state).__name__}, "
            "not a dictionary with 'model'"
        )
    return state


def _load_error(path: str | Path, error: Exception) -> str:
    """Turn PyTorch's page-long message into one sentence."""
    wanted = re.search(r"GLOBAL (\S+)|global[^`']*[`']([\w.]+)[`']", str(error))
    if isinstance(error, pickle.UnpicklingError) and wanted:
        name = wanted.group(1) or wanted.group(2)
        return (
            f"{path} was not loaded: its pickle asks for {name}, which no fairseq "
            "checkpoint needs and which could run code; if you made the file yourself, "
            "load it once with fairseq_scl.compat.load_checkpoint(path, trusted=True) "
            "and save its 'model' again"
        )
    if isinstance(error, OSError):
        return f"cannot read {path}: {error.strerror}"
    reason = f"{type(error).__name__}: {error}"
    if "Weights only load failed" in reason:  # its advice is to run the file's code
        reason = "its pickle cannot be read"
    reason = re.split(r"\.\s|\n", reason)[0]
    return f"{path} is damaged or is no fairseq checkpoint ({reason})"


def patch_fairseq() -> None:
    """Make fairseq's own loaders use the allow-list and name the file when they refuse.

    Covers ``--restore-file``, ``--finetune-from-model``, resuming and
    ``from_pretrained``, which all go through ``checkpoint_utils``. ``--help`` shows the
    flags of the task, criterion and architecture that were chosen. And fairseq 0.12.2's
    fast path for encoders that this process did not train is off: it calls a kernel of
    PyTorch that wants other arguments by now, and its states between layers are of
    another layout.
    """
    from fairseq import checkpoint_utils, options
    from fairseq.modules.transformer_layer import TransformerEncoderLayerBase

    original = checkpoint_utils.load_checkpoint_to_cpu
    if getattr(original, "explains", False):
        return
    allow_fairseq_classes()

    @functools.wraps(original)
    def load_checkpoint_to_cpu(path: str, *args: Any, **kwargs: Any) -> Any:
        with exit_on_input_error():
            try:
                state = original(path, *args, **kwargs)
            except Exception as error:  # a damaged pickle can raise nearly anything
                raise InputError(_load_error(path, error)) from error
        # Published checkpoints lack the key, and a criterion that learns asks for it.
        state.setdefault("criterion", None)
        return state

    load_checkpoint_to_cpu.explains = True  # type: ignore[attr-defined]
    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu
    checkpoint_utils.load_checkpoint = _refuse_missing(checkpoint_utils.load_checkpoint)
    options.parse_args_and_arch = _with_whole_help(options.parse_args_and_arch)
    always = property(lambda layer: True, lambda layer, value: None)
    TransformerEncoderLayerBase.ever_training = always


def _refuse_missing(original: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse a ``--restore-file`` that is missing.

    fairseq would go on from random weights and say so in one line of its log.
    """
    from fairseq.file_io import PathManager

    @functools.wraps(original)
    def load_checkpoint(cfg: Any, trainer: Any, **kwargs: Any) -> Any:
        path = cfg.restore_file
        with exit_on_input_error():
            if path != "checkpoint_last.pt" and not (
                trainer.checkpoint_suffix or PathManager.exists(path)
            ):
                raise InputError(f"--restore-file is {path}: there is no such file")
        return original(cfg, trainer, **kwargs)

    return load_checkpoint


def _with_whole_help(original: Callable[..., Any]) -> Callable[..., Any]:
    """Show help after the flags of the chosen task and criterion are known.

    fairseq parses twice, the second time with these flags; stock fairseq shows its help
    in the first pass, where ``--scl-lambda`` and the like are missing.
    """

    @functools.wraps(original)
    def parse_args_and_arch(
        parser: argparse.ArgumentParser, input_args: Any = None, **kwargs: Any
    ) -> Any:
        words = sys.argv[1:] if input_args is None else input_args
        first = [word for word in words if word not in ("-h", "--help")]
        if len(first) == len(words):
            return original(parser, input_args, **kwargs)
        if not {"-a", "--arch"} & set(first):  # fairseq does not go on without one
            first += ["--arch", "roberta_base"]
        parse = parser.parse_known_args

        def parse_first(_: Any = None, namespace: Any = None) -> Any:
            vars(parser).pop("parse_known_args")
            return parse(first, namespace)

        vars(parser)["parse_known_args"] = parse_first
        return original(parser, input_args, **kwargs)

    return parse_args_and_arch


@contextmanager
def exit_on_input_error() -> Iterator[None]:
    """Inside ``fairseq-train``, turn an InputError into one sentence and status 2.

    For code that fairseq calls, where nobody else would catch it. Where none of
    fairseq's commands has called (a notebook, a test) the error passes through.
    """
    try:
        yield
    except InputError as error:
        if not _called_by_a_command():
            raise
        sys.stderr.write(f"fairseq-scl: error: {error}\n")
        raise SystemExit(2) from error


def _called_by_a_command() -> bool:
    """Tell whether code of ``fairseq_cli`` is on the stack of calls."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        names = frame.f_globals
        spec = names.get("__spec__")  # python -m fairseq_cli.train is __main__
        for name in (names.get("__name__"), getattr(spec, "name", None)):
            if str(name).startswith("fairseq_cli."):
                return True
        frame = frame.f_back
    return False
