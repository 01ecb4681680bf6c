"""The files that tokenizers are made of: settings, word pieces, byte pieces, merges."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import UNSET, UnsetType
from tokenizers.pre_tokenizers import ByteLevel

from fairseq_scl.errors import InputError
from fairseq_scl.typed import Name, read_as

SETTINGS = "tokenizer_settings.json"
UNKNOWN_PIECE = "[UNK]"


class AddedTokenSettings(msgspec.Struct, forbid_unknown_fields=True):
    """Arguments of ``tokenizers.AddedToken``: a text that is always one token."""

    content: Name
    single_word: bool | UnsetType = UNSET
    lstrip: bool | UnsetType = UNSET
    rstrip: bool | UnsetType = UNSET
    normalized: bool | UnsetType = UNSET
    special: bool | UnsetType = UNSET


class WordPieceSettings(msgspec.Struct, tag_field="kind", tag="wordpiece"):
    """What ``tokenizer_settings.json`` says of BERT's tokenizer.

    Attributes:
        lowercase: whether text is turned to lower case.
        strip_accents: whether accents are removed; ``None`` means: with ``lowercase``.
        split_chinese: whether each Chinese character is a word of its own.
        pair_separator: see :class:`fairseq_scl.data.tokenizers.Tokenizer`.
        added_tokens: texts that are one token each, whatever the vocabulary says.
    """

    lowercase: bool
    strip_accents: bool | None
    split_chinese: bool
    pair_separator: bool
    added_tokens: list[AddedTokenSettings] | UnsetType = UNSET


class GPT2Settings(msgspec.Struct, tag_field="kind", tag="gpt2"):
    """What ``tokenizer_settings.json`` says of GPT-2's tokenizer, which is cased."""

    pair_separator: bool
    lowercase: bool = False
    added_tokens: list[AddedTokenSettings] | UnsetType = UNSET


class SentencePieceSettings(msgspec.Struct, tag_field="kind", tag="sentencepiece"):
    """What ``tokenizer_settings.json`` says of a sentencepiece model."""

    pair_separator: bool


TokenizerSettings = WordPieceSettings | GPT2Settings | SentencePieceSettings


def check_unicode(sentences: Sequence[str], start: int = 0) -> None:
    """Refuse half a surrogate pair; the first sentence has the number ``start + 1``.

    Raises:
        InputError: names the number of the sentence.
    """
    for number, text in enumerate(sentences, start=start + 1):
        if re.search("[\ud800-\udfff]", text):
            raise InputError(
                f"sentence {number} holds half a surrogate pair, which is not Unicode "
                "text: decode it with errors='replace'"
            ) from None


def read_word_pieces(path: str | Path) -> list[str]:
    """Read BERT's ``vocab.txt``, one piece a line.

    Raises:
        InputError: the file is missing, not UTF-8, has a piece twice or no ``[UNK]``.
    """
    pieces = _lines(path)
    first: dict[str, int] = {}
    for number, piece in enumerate(pieces, start=1):
        if first.setdefault(piece, number) != number:
            raise InputError(
                f"{path}, line {number}: the piece {piece!r} stands in line "
                f"{first[piece]} already, but each may occur once"
            )
    if UNKNOWN_PIECE not in first:
        raise InputError(f"{path} has no line {UNKNOWN_PIECE}: no BERT vocabulary")
    return pieces


def read_encoder(path: str | Path) -> dict[str, int]:
    """Read ``encoder.json`` or ``vocab.json``: the ids of a byte-level BPE's pieces.

    Raises:
        InputError: the file is missing or damaged, or a byte has no piece.
    """
    pieces = read_as(path, dict[str, int])
    # Without its piece a byte would vanish from the text without a word.
    if missing := [b for b in byte_symbols() if b not in pieces]:
        raise InputError(
            f"{path} has no id for the byte symbol {missing[0]!r}: GPT-2's BPE has one "
            "for each of the 256 bytes"
        )
    return pieces


def read_merges(path: str | Path) -> list[tuple[str, str]]:
    """Read ``vocab.bpe`` or ``merges.txt``, one pair of pieces a line.

    Raises:
        InputError: the file is missing, not UTF-8, or a line has not two pieces.
    """
    lines = _lines(path)
    header = lines[0].startswith("#version")
    merges = []
    for number, line in enumerate(lines[header:], start=1 + header):
        pair = line.split()
        if len(pair) != 2:
            raise InputError(
                f"{path}, line {number} is {line!r}: expected two pieces with a blank "
                "between them"
            )
        merges.append((pair[0], pair[1]))
    return merges


def check_merges(
    merges: Sequence[tuple[str, str]], encoder: Mapping[str, int], path: str | Path
) -> None:
    """Refuse merges of pieces, or into pieces, that have no id.

    Raises:
        InputError: names the file of the merges and the pair.
    """
    for first, second in merges:
        if not {first, second, first + second} <= encoder.keys():
            raise InputError(
                f"{path} joins {first!r} and {second!r}, but one of them or the result "
                "has no id: merges and pieces do not belong together"
            )


def number_pieces(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Number the pieces of a byte-level BPE as GPT-2 does.

    Bytes first, then what each merge makes, then ``<|endoftext|>``: with GPT-2's own
    merges these are the ids of its ``encoder.json``.
    """
    encoder: dict[str, int] = {}
    for piece in [*byte_symbols(), *(a + b for a, b in merges), "<|endoftext|>"]:
        encoder.setdefault(piece, len(encoder))
    return encoder


def byte_symbols() -> list[str]:
    """Return the characters that stand for the 256 bytes, in the order of GPT-2's ids.

    Printable bytes stand for themselves; the others follow as characters from U+0100.
    """
    return sorted(ByteLevel.alphabet())


def _lines(path: str | Path) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"missing file: {path}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start + 1})") from None
    # Not splitlines(): pieces may be characters that Unicode calls line breaks.
    return text.removesuffix("\n").split("\n")
