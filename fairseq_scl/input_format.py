"""How a text becomes what a classifier reads: one record, from training to prediction.

``prepare`` notes in a data folder what the encoder wants, the task settles its flags by
that and puts an :class:`InputFormat` into its state, which fairseq saves in every
checkpoint; ``export`` takes it from there, and prediction uses nothing else.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from fairseq_scl.errors import InputError

KEY = "input_format"  # in the task's state, and in the settings of a model folder
MANIFEST = "manifest.json"
HEAD = "sentence_classification_head"
BOS, EOS = 0, 2  # of every fairseq dictionary
# Files at the top of a data folder that are not the tokenizer's.
NOT_THE_TOKENIZER = ("label_map.json", "draw.json", MANIFEST)


@dataclass(frozen=True)
class InputFormat:
    """How texts were read in training.

    Attributes:
        init_token: id before the first sentence, ``None`` for none.
        separator_token: id before the second sentence, beside the ``</s>`` that ends
            the first; ``None`` for none and for single sentences.
        pair: whether an example is two sentences.
        max_positions: longest input in tokens; prediction cuts the rest off.
        head: name of the classification head.
        labels: label of each class id.
        dictionary: checksum of the symbols, see :func:`dictionary_checksum`.
        tokenizer: SHA-256 of each of its files; empty where the text was tokenized
            elsewhere (``fairseq-preprocess``).
        white_space: the rule for it; there is one, ``single``: none at the ends, one
            blank for each run.
    """

    init_token: int | None
    separator_token: int | None
    pair: bool
    max_positions: int
    head: str
    labels: list[str]
    dictionary: str
    tokenizer: dict[str, str]
    white_space: str = "single"

    def plain(self) -> dict[str, Any]:
        """Return the record as plain values, for a checkpoint or for JSON."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Any, origin: object) -> "InputFormat":
        """Read a record back.

        Args:
            plain: what :meth:`plain` returned.
            origin: the file that it was in, for the message.

        Raises:
            InputError: a field is missing, unknown or of another type.
        """
        kinds = {
            **dict.fromkeys(("init_token", "separator_token"), (int, type(None))),
            **dict.fromkeys(("head", "dictionary", "white_space"), (str,)),
            **{"pair": (bool,), "max_positions": (int,)},
            **{"labels": (list,), "tokenizer": (dict,)},
        }
        found = dict(plain) if isinstance(plain, Mapping) else {}
        wanted = {one.name for one in fields(cls)}
        wrong = sorted(found.keys() ^ wanted) or [
            name for name, value in found.items() if type(value) not in kinds[name]
        ]
        if wrong:
            raise InputError(
                f"{origin} has a damaged {KEY}: {wrong[0]} is "
                f"{found.get(wrong[0], 'missing')!r}"
            )
        return cls(**found)


def label_names(label_symbols: Iterable[str]) -> list[str]:
    """Return the labels of a dictionary in the order of their class ids.

    Args:
        label_symbols: the dictionary's symbols. What fairseq adds itself is left out:
            special symbols, padding words and ``<mask>``.
    """
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    return [
        symbol
        for symbol in label_symbols
        if symbol not in special and not symbol.startswith("madeupword")
    ]


def dictionary_checksum(symbols: Iterable[str]) -> str:
    """Return the SHA-256 of a dictionary's symbols in order, whatever their counts."""
    text = "\n".join(symbols).encode("utf-8", "backslashreplace")
    return hashlib.sha256(text).hexdigest()


def read_manifest(folder: str | Path) -> dict[str, Any] | None:
    """Read what ``fairseq-scl prepare`` noted of a data folder; ``None`` if it did not.

    Raises:
        InputError: the file is damaged.
    """
    path = Path(folder, MANIFEST)
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        tokens_wanted(manifest), tokenizer_files(manifest)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path} is damaged ({error}): prepare the data again"
        ) from error
    return dict(manifest)


def tokens_wanted(manifest: Mapping[str, Any]) -> dict[str, int | None]:
    """Return the init and separator tokens that a prepared data folder asks for."""
    separated = manifest["pair"] and manifest["pair_separator"]
    return {"init_token": BOS, "separator_token": EOS if separated else None}


def tokenizer_files(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the tokenizer's files of a prepared data folder and their SHA-256."""
    return {
        name: checksum
        for name, checksum in manifest["sha256"].items()
        if "/" not in name and name not in NOT_THE_TOKENIZER
    }


def check_tokens(
    given: Mapping[str, int | None], manifest: Mapping[str, Any], what: str
) -> dict[str, int | None]:
    """Settle the special tokens of a prepared data folder.

    Args:
        given: ``init_token`` and ``separator_token``, ``None`` where left out.
        manifest: of the data folder.
        what: names where a token was given, as ``--{flag}``; ``{flag}`` is filled in.

    Returns:
        the tokens that the folder asks for.

    Raises:
        InputError: another token was given; a separator of single sentences, which
            changes nothing, is not refused.
    """
    wanted = tokens_wanted(manifest)
    for name, token in wanted.items():
        if name == "separator_token" and not manifest["pair"]:
            continue
        if given[name] is not None and given[name] != token:
            flag = name.replace("_", "-")
            raise InputError(
                f"{what.format(flag=flag)} is {given[name]}, but the data was prepared "
                f"for an encoder that takes {'none' if token is None else token}: "
                "leave the flag out"
            )
    return wanted


def check_shortening(method: object, splits: object, what: str) -> None:
    """Refuse validation texts that are cropped at random places.

    Prediction cuts off the end.

    Args:
        method: the value of ``--shorten-method``.
        splits: that of ``--shorten-data-split-list``, empty for all splits.
        what: names the first of them in the message.

    Raises:
        InputError: random cropping is not limited to splits for training.
    """
    names = str(splits or "").split(",")
    if str(method) == "random_crop" and not all(n.startswith("train") for n in names):
        raise InputError(
            f"{what} is random_crop, which also crops validation at random places, "
            "where prediction cuts off the end: train with --shorten-method truncate, "
            "or with --shorten-data-split-list train"
        )
