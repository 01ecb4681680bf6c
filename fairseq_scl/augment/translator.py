"""Load translation models: one checkpoint, or several as an ensemble."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils, tasks
from fairseq.data import Dictionary
from fairseq.models import FairseqEncoderDecoderModel, FairseqIncrementalDecoder

from fairseq_scl.compat.checkpoints import check_finite
from fairseq_scl.data.files import files_in
from fairseq_scl.device import DTYPES, allow_tf32, check_device
from fairseq_scl.errors import InputError
from fairseq_scl.rows import load_dictionary

SIDES = ("source", "target")


@dataclass
class Translator:
    """An ensemble of one or more translation models.

    Attributes:
        models: in evaluation mode, on the device, in the requested precision.
        exact: the same models in float32, for decisions that are too close to call.
        source: dictionary of the source language.
        target: dictionary of the target language.
        left_pad: whether sources are padded on the left, as in training.
        max_source: maximum number of pieces in a source, including ``</s>``.
        max_target: maximum number of pieces in an output, excluding ``</s>``.
        folder: folder of the first checkpoint, with dictionaries and BPE codes.
        precision: precision of ``models``, see ``fairseq_scl.device``.
    """

    models: list[FairseqEncoderDecoderModel]
    exact: list[FairseqEncoderDecoderModel]
    source: Dictionary
    target: Dictionary
    left_pad: bool
    max_source: int
    max_target: int
    folder: Path
    precision: str

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return torch.device(next(self.models[0].parameters()).device)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the models."""
        dtype: torch.dtype = next(self.models[0].parameters()).dtype
        return dtype


def checkpoints_of(names: Sequence[str | Path]) -> list[Path]:
    """Return the given checkpoint files, and all ``*.pt`` of the given folders.

    Raises:
        InputError: a file or folder does not exist, or a folder has no checkpoint.
    """
    found: list[Path] = []
    for name in map(Path, names):
        if name.is_dir():
            files = files_in(name, "*.pt")
            if not files:
                raise InputError(f"{name} has no checkpoint: it needs a *.pt file")
            found += files
        elif name.is_file():
            found.append(name)
        else:
            raise InputError(f"missing translation model: {name}")
    return found


def load_translator(
    names: Sequence[str | Path],
    source: str,
    target: str,
    device: str = "cpu",
    precision: str = "fp32",
) -> Translator:
    """Load fairseq translation models.

    ``names`` are checkpoint files, or folders whose ``*.pt`` files form an ensemble.
    Languages are spelled as in the names of the dictionaries.

    Raises:
        InputError: a file is missing or is not a translation model with an encoder and
            an incremental decoder, languages or dictionaries do not match, or the
            device does not exist.
    """
    check_device(device, precision)
    allow_tf32(precision)
    paths = checkpoints_of(names)
    loaded = [_load(path, source, target, device) for path in paths]
    task, exact = loaded[0][0], [model for _, model in loaded]
    for path, (other, _) in zip(paths, loaded, strict=True):
        for side in SIDES:
            ours, theirs = (getattr(t, f"{side}_dictionary") for t in (task, other))
            if ours.symbols != theirs.symbols:
                raise InputError(
                    f"{path} and {paths[0]} have different {side} dictionaries: the "
                    "models of an ensemble must share one"
                )
    models = exact
    if precision in ("fp16", "bf16"):
        models = [copy.deepcopy(model).to(DTYPES[precision]) for model in exact]
    return Translator(
        models=models,
        exact=exact,
        source=task.source_dictionary,
        target=task.target_dictionary,
        # Some checkpoints store this flag as a string.
        left_pad=str(getattr(task.cfg, "left_pad_source", True)) == "True",
        max_source=min(int(model.encoder.max_positions()) for model in exact),
        max_target=min(int(model.decoder.max_positions()) for model in exact) - 1,
        folder=paths[0].parent,
        precision=precision,
    )


def _load(path: Path, source: str, target: str, device: str) -> tuple[Any, Any]:
    """Return task and model of a checkpoint, with the dictionaries in its folder."""
    state = checkpoint_utils.load_checkpoint_to_cpu(
        str(path), {"data": str(path.parent)}
    )
    cfg = state.get("cfg")
    names = [getattr(cfg and cfg.task, f"{side}_lang", None) for side in SIDES]
    if None in names or "model" not in state:
        raise InputError(
            f"{path} is not a translation model: use a checkpoint of fairseq-train "
            "with --task translation and both languages"
        )
    if names != [source, target]:
        raise InputError(
            f"{path} translates {names[0]} to {names[1]}, but a model from {source} to "
            f"{target} is needed"
        )
    for language in names:
        load_dictionary(path.parent / f"dict.{language}.txt")
    task = tasks.setup_task(cfg.task)
    try:
        models, _ = checkpoint_utils.load_model_ensemble(
            [str(path)], task=task, state=state
        )
    except RuntimeError as error:  # fairseq's for weights of another shape
        raise InputError(
            f"{path} does not match the dictionaries in {path.parent}, which have "
            f"{len(task.source_dictionary)} and {len(task.target_dictionary)} pieces: "
            f"{str(error).splitlines()[-1].strip()}"
        ) from error
    model = models[0]
    check_finite(model.state_dict(), path)
    if not isinstance(model, FairseqEncoderDecoderModel) or not isinstance(
        model.decoder, FairseqIncrementalDecoder
    ):
        raise InputError(
            f"{path} is a {type(model).__name__}: a model with an encoder and an "
            "incremental decoder is needed"
        )
    return task, model.requires_grad_(False).eval().to(device)
