"""Read the files of tokenizers: settings, word pieces, byte pieces, merges."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType
from tokenizers.pre_tokenizers import ByteLevel

from fairseq_scl.data.texts import decoded_lines
from fairseq_scl.errors import InputError
from fairseq_scl.typed import Name, read_as

SETTINGS = "tokenizer_settings.json"
UNKNOWN_PIECE = "[UNK]"


class AddedTokenSettings(msgspec.Struct, forbid_unknown_fields=True):
    """Arguments of ``tokenizers.AddedToken``, a text that is always one token."""

    content: Name
    single_word: bool | UnsetType = UNSET
    lstrip: bool | UnsetType = UNSET
    rstrip: bool | UnsetType = UNSET
    normalized: bool | UnsetType = UNSET
    special: bool | UnsetType = UNSET


class WordPieceSettings(msgspec.Struct, tag_field="kind", tag="wordpiece"):
    """``tokenizer_settings.json`` for BERT's tokenizer.

    Attributes:
        lowercase: whether to lowercase text.
        strip_accents: whether to remove accents; ``None`` means as ``lowercase``.
        split_chinese: whether each Chinese character is a separate word.
        pair_separator: see :class:`fairseq_scl.data.tokenizers.Tokenizer`.
        added_tokens: texts that always become one token.
    """

    lowercase: bool
    strip_accents: bool | None
    split_chinese: bool
    pair_separator: bool
    added_tokens: list[AddedTokenSettings] | UnsetType = UNSET


class GPT2Settings(msgspec.Struct, tag_field="kind", tag="gpt2"):
    """``tokenizer_settings.json`` for GPT-2's tokenizer, which is cased."""

    pair_separator: bool
    lowercase: bool = False
    added_tokens: list[AddedTokenSettings] | UnsetType = UNSET


class SentencePieceSettings(msgspec.Struct, tag_field="kind", tag="sentencepiece"):
    """``tokenizer_settings.json`` for a SentencePiece model."""

    pair_separator: bool


PieceId = Annotated[int, Meta(ge=0, lt=2**32)]  # as in tokenizers
SURROGATE = re.compile("[\ud800-\udfff]")
TokenizerSettings = WordPieceSettings | GPT2Settings | SentencePieceSettings


def check_unicode(sentences: Sequence[str], start: int = 0) -> None:
    """Refuse an unpaired surrogate; the first sentence has the number ``start + 1``.

    Raises:
        InputError: names the number of the sentence.
    """
    for number, text in enumerate(sentences, start=start + 1):
        if SURROGATE.search(text):
            raise InputError(
                f"sentence {number} has an unpaired surrogate, which is not valid "
                "Unicode: decode it with errors='replace'"
            ) from None


def read_word_pieces(path: str | Path) -> list[str]:
    """Read BERT's ``vocab.txt``, one piece per line.

    Raises:
        InputError: the file is missing, empty or not UTF-8, repeats a piece or lacks
            ``[UNK]``.
    """
    pieces = _lines(path)
    first: dict[str, int] = {}
    for number, piece in enumerate(pieces, start=1):
        if first.setdefault(piece, number) != number:
            raise InputError(
                f"{path}, line {number}: the piece {piece!r} is already in line "
                f"{first[piece]}, but each may occur only once"
            )
    if UNKNOWN_PIECE not in first:
        raise InputError(
            f"{path} lacks the line {UNKNOWN_PIECE}: it is not a BERT vocabulary"
        )
    return pieces


def read_encoder(path: str | Path) -> dict[str, int]:
    """Read ``encoder.json`` or ``vocab.json``: the ids of a byte-level BPE's pieces.

    Raises:
        InputError: the file is missing or damaged, or a byte has no piece.
    """
    pieces = read_as(path, dict[str, PieceId])
    # A byte without a piece would silently be dropped from the text.
    if missing := [b for b in byte_symbols() if b not in pieces]:
        raise InputError(
            f"{path} lacks an id for the byte symbol {missing[0]!r}: GPT-2's BPE has "
            "one for each of the 256 bytes"
        )
    return pieces


def read_merges(path: str | Path) -> list[tuple[str, str]]:
    """Read ``vocab.bpe`` or ``merges.txt``, one pair of pieces per line.

    Raises:
        InputError: the file is missing, empty or not UTF-8, or a line is not two
            pieces.
    """
    lines = _lines(path)
    header = lines[0].startswith("#version")
    merges = []
    for number, line in enumerate(lines[header:], start=1 + header):
        pair = line.split()
        if len(pair) != 2:
            raise InputError(
                f"{path}, line {number} is {line!r}: expected two pieces separated by "
                "a space"
            )
        merges.append((pair[0], pair[1]))
    return merges


def check_merges(
    merges: Sequence[tuple[str, str]], encoder: Mapping[str, int], path: str | Path
) -> None:
    """Refuse merges whose pieces or results lack an id.

    Raises:
        InputError: names the file of the merges and the pair.
    """
    for first, second in merges:
        if not {first, second, first + second} <= encoder.keys():
            raise InputError(
                f"{path} merges {first!r} and {second!r}, but one of these or the "
                "result lacks an id: merges and pieces do not match"
            )


def number_pieces(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Number the pieces of a byte-level BPE as GPT-2 does.

    The bytes come first, then the result of each merge, then ``<|endoftext|>``. With
    GPT-2's own merges these are the ids of its ``encoder.json``.
    """
    encoder: dict[str, int] = {}
    for piece in [*byte_symbols(), *(a + b for a, b in merges), "<|endoftext|>"]:
        encoder.setdefault(piece, len(encoder))
    return encoder


def byte_symbols() -> list[str]:
    """Return the characters that represent the 256 bytes, in the order of GPT-2's ids.

    Printable bytes represent themselves; the others are characters from U+0100.
    """
    return sorted(ByteLevel.alphabet())


def _lines(path: str | Path) -> list[str]:
    # Not str.splitlines: a piece may be a character that Unicode calls a line break.
    return [line.removesuffix("\r") for _, line in decoded_lines(path)]
