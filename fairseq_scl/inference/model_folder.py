"""A model folder: written from a training checkpoint, loaded to label sentences.

It holds ``model.pt`` (weights and settings, no optimizer state, only plain values and
tensors), ``input0/dict.txt``, ``label/dict.txt``, ``label_map.json``, the tokenizer's
files and ``classifier.json``. ``RobertaModel.from_pretrained`` of a plain fairseq loads
it as well, unless it is a ``roberta_bert``.
"""

import shutil
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import msgspec
import torch
from fairseq.data import Dictionary
from msgspec import Meta
from torch import Tensor, nn

from fairseq_scl.compat.checkpoints import check_finite, load_checkpoint, load_model
from fairseq_scl.convert.huggingface import encoder_task
from fairseq_scl.data.binarize import LABEL_MAP, read_labels
from fairseq_scl.data.files import write_json, write_then_rename
from fairseq_scl.data.folders import ENCODER, MODEL, folder_then_rename, verify
from fairseq_scl.data.tokenizers import Tokenizer, load_tokenizer
from fairseq_scl.device import DTYPES, allow_tf32, check_device
from fairseq_scl.errors import InputError
from fairseq_scl.inference.model_card import Training, training_notes
from fairseq_scl.inference.stock_checkpoint import plain_values, stock_checkpoint
from fairseq_scl.inference.trained_format import (
    TrainingData,
    check_head,
    check_model,
    check_sizes,
    learned_nothing,
    read_source,
    trained_format,
    unrecorded,
)
from fairseq_scl.input_format import (
    BOS,
    EOS,
    HEAD,
    InputFormat,
    dictionary_checksum,
    label_names,
)
from fairseq_scl.models.exits import exits_of
from fairseq_scl.rows import load_dictionary
from fairseq_scl.typed import Positive, read_as

SETTINGS = "classifier.json"


class _Older(msgspec.Struct, tag_field="schema", tag=1):
    """``classifier.json`` before checkpoints recorded how their texts were read."""

    pair: bool
    pair_separator: bool
    max_positions: Positive


class ModelSettings(msgspec.Struct, tag_field="schema", tag=2, omit_defaults=True):
    """``classifier.json``.

    Attributes:
        input_format: how text is read.
        exit_pooling: what the heads below the top read, ``cls`` or ``mean``.
        training: what is known about the training.
        temperature: probabilities are softmax(logits / temperature).
    """

    input_format: InputFormat
    exit_pooling: Literal["cls", "mean"] = "cls"
    training: Training = Training()
    temperature: Annotated[float, Meta(gt=0, lt=1e6)] = 1.0


@dataclass
class LoadedModel:
    """A loaded model folder.

    Attributes:
        model: the encoder with its classification head, in evaluation mode.
        labels: label of each class id.
        tokenizer: text to dictionary symbols.
        dictionary: symbols to ids.
        pair: whether an example is two sentences.
        separator_token: id before the second sentence, ``None`` for none.
        max_positions: longest input in tokens, special tokens included.
        exits: name of the classification head after each layer that has one, layers
            counted from 1; the last is the top, of most models the only one.
        init_token: id before the first sentence, ``None`` for none.
        head: name of the classification head.
        folder: the model folder, for messages; ``None`` if it was not loaded from one.

    The other attributes are those of :class:`ModelSettings`.
    """

    model: nn.Module
    labels: list[str]
    tokenizer: Tokenizer
    dictionary: Dictionary
    pair: bool
    separator_token: int | None
    max_positions: int
    exits: dict[int, str]
    exit_pooling: str = "cls"
    init_token: int | None = BOS
    head: str = HEAD
    training: Training = field(default_factory=Training)
    temperature: float = 1.0
    folder: Path | None = None


def export_classifier(
    checkpoint: str | Path,
    data: str | Path,
    target: str | Path,
    encoder: str | Path | None = None,
    noted: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write a model folder from a training checkpoint and its data folder.

    The checkpoint says how text is read. The data folder, which must be that of the
    training, gives the dictionaries and the tokenizer. The heads of a multi-exit
    encoder are kept; the stock model uses that of the deepest exit.

    Args:
        checkpoint: a checkpoint of ``fairseq-train`` with a classification head.
        data: the data folder that it was trained on.
        target: the model folder to write.
        encoder: if ``data`` is from ``fairseq-preprocess``, the encoder folder with the
            tokenizer that was used.
        noted: settings and results for model cards, see
            :func:`fairseq_scl.inference.model_card.training_notes`.

    Returns:
        warnings: the checkpoint predicted one label for a whole validation set, or does
        not record how its texts were read.

    Raises:
        InputError: the checkpoint lacks a classification head, has weights that are not
            finite, or has another dictionary, labels or tokenizer than the data; a file
            is missing, or the disk is full.
    """
    state, weights, trained, source = _read(checkpoint, data, encoder)
    plain = stock_checkpoint(state, weights, trained.head)
    plain["cfg"]["task"] |= {
        "init_token": trained.init_token,
        "separator_token": trained.separator_token,
    }
    inputs = [checkpoint, source.data, source.tokenizer_folder]
    with folder_then_rename(target, MODEL, inputs) as folder:
        for part in ("input0", "label"):
            (folder / part).mkdir()
            shutil.copyfile(Path(data, part, "dict.txt"), folder / part / "dict.txt")
        source.tokenizer.save(folder)
        model = plain_values(state["cfg"]["model"])
        settings = ModelSettings(
            trained, training=training_notes(state, source.data, noted or {})
        )
        if len(exits_of(weights, trained.head)) > 1:
            settings.exit_pooling = model.get("exit_pooling", "cls")
        write_model_files(folder, plain, settings)
    remarks = (unrecorded(state, source), learned_nothing(state, trained.labels))
    return [remark for remark in remarks if remark]


def is_exported(folder: Path, noted: Mapping[str, Any], complete: bool = True) -> bool:
    """Return whether a model folder has these notes of its training and is complete.

    The folder may be missing; without ``complete``, its weights may be as well.
    ``noted`` is as for :func:`export_classifier`.
    """
    try:
        if complete:
            verify(folder)
        there = msgspec.to_builtins(_read_settings(folder).training)
    except InputError:
        return False
    wanted = {**noted}
    wanted.pop("updates", None)  # that of the checkpoint in earlier versions
    return all(there.get(name) == value for name, value in wanted.items())


def write_model_files(
    folder: Path, checkpoint: Mapping[str, Any], settings: ModelSettings
) -> None:
    """Write a model folder except for its dictionaries and tokenizer.

    ``checkpoint`` is from :func:`stock_checkpoint`.
    """
    with write_then_rename(folder / "model.pt", "wb") as file:
        torch.save(checkpoint, file)
    write_json(folder / LABEL_MAP, {"labels": settings.input_format.labels})
    write_json(folder / SETTINGS, msgspec.to_builtins(settings))


def export_encoder(
    checkpoint: str | Path,
    data: str | Path,
    target: str | Path,
    encoder: str | Path | None = None,
) -> None:
    """Write an encoder folder, as ``fairseq-scl convert`` does, without the head.

    Arguments and errors are those of :func:`export_classifier`.
    """
    state, weights, trained, source = _read(checkpoint, data, encoder, headless=True)
    for name in [n for n in weights if n.startswith("classification_heads.")]:
        del weights[name]
    plain = stock_checkpoint(state, weights, trained.head)
    plain["cfg"]["task"] = encoder_task(trained.max_positions)
    inputs = [checkpoint, source.data, source.tokenizer_folder]
    with folder_then_rename(target, ENCODER, inputs) as folder:
        shutil.copyfile(Path(data, "input0", "dict.txt"), folder / "dict.txt")
        source.tokenizer.save(folder)
        with write_then_rename(folder / "model.pt", "wb") as file:
            torch.save(plain, file)


def _read(
    checkpoint: str | Path,
    data: str | Path,
    encoder: str | Path | None,
    headless: bool = False,
) -> tuple[dict[str, Any], "OrderedDict[str, Tensor]", InputFormat, TrainingData]:
    """Return a checkpoint, its float32 weights, how it reads text, and its data."""
    verify(data)
    state = load_checkpoint(checkpoint)
    settings = state.get("cfg") or {}
    if not settings.get("task") or not state.get("model"):
        raise InputError(
            f"{checkpoint} is not a checkpoint of fairseq-train: it lacks the settings "
            "of a task"
        )
    task = plain_values(settings["task"])
    check_head(state["model"], task.get("classification_head_name", HEAD), checkpoint)
    source = read_source(data, encoder)
    if task.get("regression_target") and not headless:
        raise InputError(f"{checkpoint} was trained for regression: it has no classes")
    trained = trained_format(state, task, checkpoint, source)
    weights = OrderedDict(
        (name, tensor.float()) for name, tensor in state["model"].items()
    )
    rows = weights.get("encoder.sentence_encoder.embed_positions.weight")
    if rows is not None:  # the first two are not positions
        longest = min(trained.max_positions, len(rows) - 2)
        trained = msgspec.structs.replace(trained, max_positions=longest)
    check_sizes(weights, trained, checkpoint, source.data)
    check_finite(weights, checkpoint)
    return state, weights, trained, source


def load_classifier(
    folder: str | Path, device: str = "cpu", precision: str = "fp32"
) -> LoadedModel:
    """Load a model folder.

    Args:
        folder: written by :func:`export_classifier`.
        device: a PyTorch device, for example ``cpu`` or ``cuda``.
        precision: one of :data:`~fairseq_scl.device.PRECISIONS`; ``tf32`` is set for
            the whole process.

    Raises:
        InputError: a file is missing, or is not what the folder needs; there is no such
            device or precision.
    """
    check_device(device, precision)
    folder = Path(folder)
    if not folder.exists():
        raise InputError(
            f"the model folder {folder} does not exist: 'fairseq-scl train' makes one "
            "from a table, and 'fairseq-scl export' from a checkpoint"
        )
    for name in (SETTINGS, LABEL_MAP, "model.pt", "input0/dict.txt", "label/dict.txt"):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} is not a model folder: {name} is missing; 'fairseq-scl "
                "export' makes one from a checkpoint"
            )
    settings = _read_settings(folder)
    trained = settings.input_format
    model, task = load_model(folder / "model.pt", {"data": str(folder)})
    found = dictionary_checksum(task.source_dictionary.symbols)
    if trained.dictionary not in ("", found):
        raise InputError(
            f"{folder / 'input0' / 'dict.txt'} is not the dictionary of {SETTINGS}"
        )
    check_model(trained, model, len(task.source_dictionary), folder / SETTINGS)
    if precision == "tf32":
        allow_tf32(precision)
    return LoadedModel(
        model=model.to(device, DTYPES[precision]).eval(),
        labels=trained.labels,
        tokenizer=load_tokenizer(folder),
        dictionary=task.source_dictionary,
        pair=trained.pair,
        separator_token=trained.separator_token,
        max_positions=trained.max_positions,
        exits=exits_of(model.state_dict(), trained.head),
        exit_pooling=settings.exit_pooling,
        init_token=trained.init_token,
        head=trained.head,
        training=settings.training,
        temperature=settings.temperature,
        folder=folder,
    )


def _read_settings(folder: Path) -> ModelSettings:
    """Read the settings of a model folder, and check that its labels are the same."""
    labels, of_labels = read_labels(folder), folder / "label" / "dict.txt"
    if label_names(load_dictionary(of_labels).symbols) != labels:
        raise InputError(f"{of_labels} has other labels than {LABEL_MAP}")
    settings: _Older | ModelSettings
    settings = read_as(folder / SETTINGS, cast(Any, _Older | ModelSettings))
    if isinstance(settings, _Older):
        older = InputFormat(
            init_token=BOS,
            separator_token=EOS if settings.pair_separator else None,
            pair=settings.pair,
            max_positions=settings.max_positions,
            head=HEAD,
            labels=labels,
            dictionary="",
            tokenizer={},
        )
        return ModelSettings(older)
    if settings.input_format.labels != labels:
        raise InputError(f"{folder / LABEL_MAP} has other labels than {SETTINGS}")
    return settings
