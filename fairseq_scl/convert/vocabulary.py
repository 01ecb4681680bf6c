"""Convert a Hugging Face vocabulary to a tokenizer and the lines of ``dict.txt``."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import UNSET

from fairseq_scl.convert.encoder_config import EncoderConfig
from fairseq_scl.convert.source_tokenizer import (
    RESERVED,
    SPECIAL,
    TOKENIZER,
    SourceTokenizer,
    read_settings,
    read_tokenizer_json,
    refuse_other_tokens,
)
from fairseq_scl.data.tokenizers import GPT2BPE, WordPiece
from fairseq_scl.data.vocabulary_files import (
    AddedTokenSettings,
    GPT2Settings,
    WordPieceSettings,
    check_merges,
    number_pieces,
    read_merges,
    read_word_pieces,
)
from fairseq_scl.errors import InputError
from fairseq_scl.typed import read_as

VOCABULARY_FILES = {"bert": ("vocab.txt",), "roberta": ("vocab.json", "merges.txt")}

# A tokenizer, and the symbol of each piece.
Pieces = tuple[WordPiece | GPT2BPE, dict[str, str]]


def read_vocabulary(
    files: Sequence[Path], config: EncoderConfig, lowercase: bool | None
) -> tuple[WordPiece | GPT2BPE, list[str], list[int]]:
    """Read a vocabulary and order it as fairseq does.

    ``tokenizer.json`` and files with settings are read from the same folder.

    Args:
        files: ``vocab.txt``, or ``vocab.json`` and ``merges.txt``, or
            ``tokenizer.json``.
        config: the shape of the encoder.
        lowercase: whether word pieces are uncased; ``None``: as in the folder's files.

    Returns:
        the tokenizer; the symbols of ``dict.txt``; and for each symbol of the loaded
        dictionary (four special symbols, these, ``<mask>``), its row in the source.

    Raises:
        InputError: files are missing, damaged, or do not match each other or the
            encoder, or the tokenizer is not supported.
    """
    kind = config.model_type
    expected = VOCABULARY_FILES[kind]
    alone = len(files) == 1 and files[0].name == TOKENIZER
    if len(files) != len(expected) and not alone:
        raise InputError(
            f"the vocabulary of a {kind} is {' and '.join(expected)} or {TOKENIZER}, "
            f"found {', '.join(map(str, files)) or 'no file'}"
        )
    path = files[0].parent / TOKENIZER
    there = alone or os.path.lexists(path)
    source = read_tokenizer_json(path, kind) if there else None
    settings = read_settings(files[0].parent, kind, source)
    row_of = _rows(files, kind, alone, source)
    _check_rows(row_of, files[0], config)
    row_of = dict(sorted(row_of.items(), key=lambda item: item[1]))
    added = source.added_tokens if source else []
    if kind == "bert":
        tokenizer, symbol_of = _wordpiece(row_of, files[0], settings, lowercase, source)
    else:
        if lowercase:
            raise InputError("--uncased is for WordPiece, but this encoder's is a BPE")
        merges = source.merges if alone and source else read_merges(files[1])
        tokenizer, symbol_of = _gpt2(row_of, files[0], merges, files[-1], added)
    if source:
        piece_of = {symbol: piece for piece, symbol in symbol_of.items()}
        refuse_other_tokens(
            source,
            lambda lines: [
                [piece_of[symbol] for symbol in row]
                for row in tokenizer.encode_lines(lines)
            ],
        )
    special = SPECIAL[kind]
    ordinary = [piece for piece in row_of if piece not in special]
    rows = [row_of[piece] for piece in (*special[:4], *ordinary, special[4])]
    return tokenizer, [symbol_of[piece] for piece in ordinary], rows


def _rows(
    files: Sequence[Path], kind: str, alone: bool, source: SourceTokenizer | None
) -> dict[str, int]:
    """Return the source's row of each piece and added token."""
    if alone and source:
        return source.rows
    if kind == "bert":
        rows = {piece: row for row, piece in enumerate(read_word_pieces(files[0]))}
    else:
        rows = read_as(files[0], dict[str, int])
    if source is None:
        return rows
    added = {token.content for token in source.added_tokens} | {*SPECIAL[kind]}
    for piece in {**rows, **source.rows}:
        if rows.get(piece) != source.rows.get(piece) and (
            piece in rows or piece not in added
        ):
            raise InputError(
                f"{files[0]} has {piece!r} in row {rows.get(piece)!r}, {source.path} "
                f"in row {source.rows.get(piece)!r}: they do not belong together"
            )
    return source.rows


def _check_rows(row_of: Mapping[str, Any], file: Path, config: EncoderConfig) -> None:
    special = SPECIAL[config.model_type]
    taken: dict[Any, str] = {}
    for piece, row in row_of.items():
        if piece in RESERVED and piece not in special:
            raise InputError(
                f"{file}, row {row}: the piece {piece} is the name of a special symbol "
                "of fairseq"
            )
        if type(row) is not int or not 0 <= row < config.vocabulary_rows:
            raise InputError(
                f"{file} has {len(row_of)} pieces, the encoder's configuration "
                f"{config.vocabulary_rows} (vocab_size), and {piece!r} is in row "
                f"{row!r}: they do not belong together"
            )
        if taken.setdefault(row, piece) != piece:
            raise InputError(f"{file} has {taken[row]!r} and {piece!r} in row {row}")
        if "\n" in piece or "\r" in piece:
            raise InputError(
                f"{file}: the token {piece!r} has a line break, which cannot be in "
                "dict.txt"
            )
    if missing := [name for name in special if name not in row_of]:
        raise InputError(f"{file} lacks the special symbol {missing[0]}")


def _wordpiece(
    row_of: Mapping[str, int],
    file: Path,
    settings: Mapping[str, Any],
    lowercase: bool | None,
    source: SourceTokenizer | None,
) -> Pieces:
    normalizer = source.normalizer if source else {}
    if lowercase is None:
        lowercase = settings.get("do_lower_case")
    if lowercase is None:
        lowercase = normalizer.get("lowercase")
    if not isinstance(lowercase, bool):
        raise InputError(
            f"{file} does not say whether it is cased, and there is no "
            "tokenizer_config.json with do_lower_case: use --cased or --uncased"
        )
    pieces = [p for p in row_of if not source or p in source.pieces]
    if not any(p.startswith("##") for p in pieces) and any("▁" in p for p in pieces):
        raise InputError(
            f"{file} marks words with ▁, as sentencepiece does; allowed: WordPiece, "
            "which marks the continuation of a word with ##"
        )
    chinese = normalizer.get("handle_chinese_chars", True)
    found = WordPieceSettings(
        lowercase=lowercase,
        strip_accents=settings.get("strip_accents", normalizer.get("strip_accents")),
        split_chinese=settings.get("tokenize_chinese_chars", chinese),
        pair_separator=False,
        added_tokens=(source and source.added_tokens) or UNSET,
    )
    return WordPiece(pieces, found), {piece: piece for piece in row_of}


def _gpt2(
    row_of: Mapping[str, int],
    file: Path,
    merges: Sequence[tuple[str, str]],
    merges_file: Path,
    added: list[AddedTokenSettings],
) -> Pieces:
    # fairseq's dictionaries name the pieces by GPT-2's ids, not by the source's.
    encoder = number_pieces(merges)
    check_merges(merges, encoder, merges_file)
    for piece in encoder:
        if piece not in row_of and piece != "<|endoftext|>":
            raise InputError(
                f"{file} lacks {piece!r}, which {merges_file} produces: the two files "
                "do not belong together"
            )
    for token in added:
        encoder.setdefault(token.content, len(encoder))
    settings = GPT2Settings(pair_separator=True, added_tokens=added or UNSET)
    tokenizer = GPT2BPE(encoder, merges, settings)
    # Pieces without a merge do not occur in text; this is fairseq's name for such rows.
    fillers = [piece for piece in row_of if piece not in encoder]
    fillers = [piece for piece in fillers if piece not in RESERVED]
    symbol_of = {piece: f"madeupword{n:04d}" for n, piece in enumerate(fillers)}
    symbol_of |= {piece: str(number) for piece, number in encoder.items()}
    return tokenizer, symbol_of
