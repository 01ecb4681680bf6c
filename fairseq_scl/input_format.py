"""How text becomes the input of a classifier: one record, from training to prediction.

``prepare`` records in the data folder what the encoder expects. The task sets its flags
accordingly and puts an :class:`InputFormat` into its state, which fairseq saves in
every checkpoint. ``export`` reads it from there, and prediction uses nothing else.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from fairseq_scl.errors import InputError
from fairseq_scl.typed import Checksum, Count, Name, Positive, read_as

KEY = "input_format"  # in the task's state and in the settings of a model folder
MANIFEST = "manifest.json"
HEAD = "sentence_classification_head"
BOS, EOS = 0, 2  # in every fairseq dictionary
# Files at the top level of a data folder that do not belong to the tokenizer.
NOT_THE_TOKENIZER = ("label_map.json", "draw.json", MANIFEST)


class InputFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How texts were tokenized in training.

    Attributes:
        init_token: id before the first sentence, or ``None``.
        separator_token: id before the second sentence, in addition to the ``</s>`` that
            ends the first; ``None`` for none and for single sentences.
        pair: whether an example consists of two sentences.
        max_positions: maximum length in tokens; prediction truncates longer inputs.
        head: name of the classification head.
        labels: label of each class id.
        dictionary: checksum of the symbols, see :func:`dictionary_checksum`.
        tokenizer: SHA-256 of each of its files; empty if the text was tokenized
            elsewhere (``fairseq-preprocess``).
        white_space: the whitespace rule. The only one is ``single``: strip both ends
            and replace each run by one space.
    """

    init_token: Count | None
    separator_token: Count | None
    pair: bool
    max_positions: Positive
    head: Name
    labels: Annotated[list[Name], Meta(min_length=1)]
    dictionary: str
    tokenizer: dict[str, Checksum]
    white_space: Literal["single"] = "single"


def label_names(label_symbols: Iterable[str]) -> list[str]:
    """Return the labels among a dictionary's symbols, in the order of their class ids.

    Special symbols, padding words and ``<mask>``, which fairseq adds, are left out.
    """
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    return [
        symbol
        for symbol in label_symbols
        if symbol not in special and not symbol.startswith("madeupword")
    ]


def dictionary_checksum(symbols: Iterable[str]) -> str:
    """Return the SHA-256 of a dictionary's symbols in order, ignoring their counts."""
    text = "\n".join(symbols).encode("utf-8", "backslashreplace")
    return hashlib.sha256(text).hexdigest()


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``fairseq-scl prepare`` recorded about a data folder.

    Attributes:
        sha256: SHA-256 of each file.
        examples: number of examples in each split.
        pair: whether an example consists of two sentences.
        pair_separator: whether the encoder expects a second ``</s>`` between these.
        unknown: unknown tokens in each split; missing in older folders.
        kind: kind of the folder, see :mod:`fairseq_scl.data.folders`; missing in older
            folders.
    """

    SCHEMA: ClassVar[int] = 1

    sha256: dict[str, Checksum]
    examples: dict[str, Positive]
    pair: bool
    pair_separator: bool
    unknown: dict[str, dict[str, Count]] = {}
    kind: Literal["data folder"] = "data folder"


def read_manifest(folder: str | Path) -> Manifest | None:
    """Read the manifest of a data folder; ``None`` if ``prepare`` did not write it.

    Raises:
        InputError: the file is damaged; the message names it and the field.
    """
    path = Path(folder, MANIFEST)
    return read_as(path, Manifest) if os.path.lexists(path) else None


def tokens_wanted(manifest: Manifest) -> dict[str, int | None]:
    """Return the init and separator tokens that a prepared data folder requires."""
    separated = manifest.pair and manifest.pair_separator
    return {"init_token": BOS, "separator_token": EOS if separated else None}


def tokenizer_files(manifest: Manifest) -> dict[str, str]:
    """Return the tokenizer's files of a prepared data folder and their SHA-256."""
    return {
        name: checksum
        for name, checksum in manifest.sha256.items()
        if "/" not in name and name not in NOT_THE_TOKENIZER
    }


def check_tokens(
    given: Mapping[str, int | None], manifest: Manifest, what: str
) -> dict[str, int | None]:
    """Return the special tokens that a prepared data folder requires.

    Args:
        given: ``init_token`` and ``separator_token``; ``None`` if not given.
        manifest: the data folder's manifest.
        what: the source of a token for messages, such as ``--{flag}``; ``{flag}`` is
            filled in.

    Raises:
        InputError: another token was given. A separator for single sentences has no
            effect and is not refused.
    """
    wanted = tokens_wanted(manifest)
    for name, token in wanted.items():
        if name == "separator_token" and not manifest.pair:
            continue
        if given[name] is not None and given[name] != token:
            flag = name.replace("_", "-")
            raise InputError(
                f"{what.format(flag=flag)} is {given[name]}, but the data was prepared "
                f"for an encoder that takes {'none' if token is None else token}: "
                "omit the flag"
            )
    return wanted


def check_shortening(method: object, splits: object, what: str) -> None:
    """Refuse random cropping of validation texts, since prediction truncates the end.

    Raises:
        InputError: the ``--shorten-method``, named ``what`` in the message, crops at
            random, and ``--shorten-data-split-list`` is not limited to training splits.
    """
    names = str(splits or "").split(",")
    if str(method) == "random_crop" and not all(n.startswith("train") for n in names):
        raise InputError(
            f"{what} is random_crop, which also crops validation texts at random, "
            "while prediction cuts off the end: train with --shorten-method truncate "
            "or with --shorten-data-split-list train"
        )


def note_input_format(task: Any) -> None:
    """Put a task's :class:`InputFormat` into its state, and so into checkpoints."""
    cfg = task.cfg
    pair = Path(cfg.data, "input1").is_dir()
    manifest = read_manifest(cfg.data)
    record = InputFormat(
        init_token=cfg.init_token,
        separator_token=cfg.separator_token if pair else None,
        pair=pair,
        max_positions=int(cfg.max_positions),
        head=str(cfg.classification_head_name),
        labels=label_names(task.label_dictionary.symbols),
        dictionary=dictionary_checksum(task.source_dictionary.symbols),
        tokenizer=tokenizer_files(manifest) if manifest else {},
    )
    task.state.merge_state_dict({KEY: msgspec.to_builtins(record)})
