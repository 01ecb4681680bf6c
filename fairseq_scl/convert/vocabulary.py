"""From a Hugging Face vocabulary to a tokeniser and the lines of ``dict.txt``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fairseq_scl.convert.encoder_config import EncoderConfig
from fairseq_scl.data.files import read_json
from fairseq_scl.data.tokenizers import GPT2BPE, Tokenizer, WordPiece
from fairseq_scl.errors import InputError

VOCABULARY_FILES = {"bert": ("vocab.txt",), "roberta": ("vocab.json", "merges.txt")}
TOKENIZER_CONFIG = "tokenizer_config.json"
# What fairseq's dictionary begins with, and <mask>, which its tasks put at the end.
RESERVED = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
SPECIAL = {"bert": ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"), "roberta": RESERVED}

# A tokeniser, the row of each piece, and the symbol of each piece.
Pieces = tuple[Tokenizer, dict[str, int], dict[str, str]]


def read_vocabulary(
    files: Sequence[Path],
    tokenizer_config: Path | None,
    config: EncoderConfig,
    lowercase: bool | None,
) -> tuple[Tokenizer, list[str], list[int]]:
    """Read a vocabulary and order it as fairseq does.

    Args:
        files: ``vocab.txt``, or ``vocab.json`` and ``merges.txt``.
        tokenizer_config: ``tokenizer_config.json`` where there is one.
        config: the shape of the encoder.
        lowercase: whether word pieces are uncased; ``None``: as the file above says.

    Returns:
        the tokeniser, the symbols that ``dict.txt`` lists, and for each symbol of the
        loaded dictionary (four special symbols, these, ``<mask>``) its row in the
        source.

    Raises:
        InputError: files are missing, damaged, do not fit together or the encoder.
    """
    expected = VOCABULARY_FILES[config.model_type]
    if len(files) != len(expected):
        raise InputError(
            f"the vocabulary of a {config.model_type} is {' and '.join(expected)}, "
            f"found {', '.join(map(str, files)) or 'no file'}"
        )
    settings = read_json(tokenizer_config) if tokenizer_config else {}
    if config.model_type == "bert":
        pieces = _wordpiece(files[0], settings, lowercase)
    else:
        pieces = _gpt2(files[0], files[1], settings)
    tokenizer, row_of, symbol_of = pieces
    special = SPECIAL[config.model_type]
    if missing := [name for name in special if name not in row_of]:
        raise InputError(f"{files[0]} lacks the special symbol {missing[0]}")
    if len(row_of) > config.vocabulary_rows:
        raise InputError(
            f"{files[0]} has {len(row_of)} pieces, the encoder's configuration "
            f"{config.vocabulary_rows} (vocab_size): they do not belong together"
        )
    ordinary = [piece for piece in row_of if piece not in special]
    rows = [row_of[piece] for piece in (*special[:4], *ordinary, special[4])]
    return tokenizer, [symbol_of[piece] for piece in ordinary], rows


def _wordpiece(
    file: Path, settings: Mapping[str, Any], lowercase: bool | None
) -> Pieces:
    lowercase = settings.get("do_lower_case") if lowercase is None else lowercase
    if not isinstance(lowercase, bool):
        raise InputError(
            f"{file} does not say whether it is cased, and there is no "
            f"{TOKENIZER_CONFIG} with do_lower_case: give --cased or --uncased"
        )
    if settings.get("do_basic_tokenize", True) is not True:
        raise InputError(
            f"{TOKENIZER_CONFIG}: do_basic_tokenize is "
            f"{settings['do_basic_tokenize']!r}, allowed: true"
        )
    tokenizer = WordPiece.from_file(
        file,
        lowercase=lowercase,
        strip_accents=settings.get("strip_accents"),
        split_chinese=settings.get("tokenize_chinese_chars", True),
    )
    row_of = {piece: row for row, piece in enumerate(tokenizer.vocabulary)}
    if taken := [name for name in RESERVED if name in row_of]:
        raise InputError(
            f"{file}, line {row_of[taken[0]] + 1}: the piece {taken[0]} is the name of "
            "a special symbol of fairseq"
        )
    return tokenizer, row_of, {piece: piece for piece in row_of}


def _gpt2(vocabulary: Path, merges: Path, settings: Mapping[str, Any]) -> Pieces:
    if settings.get("add_prefix_space", False):
        raise InputError(
            f"{TOKENIZER_CONFIG}: add_prefix_space is true, but fairseq's GPT-2 BPE "
            "puts no blank before a text; allowed: false"
        )
    row_of = read_json(vocabulary)
    if not isinstance(row_of, dict) or set(row_of.values()) != {*range(len(row_of))}:
        raise InputError(f"{vocabulary} does not number its pieces from 0 on")
    row_of = dict(sorted(row_of.items(), key=lambda item: item[1]))
    # Its ids are not those of GPT-2, by which fairseq's dictionaries name the pieces.
    tokenizer = GPT2BPE.from_merges(merges)
    for piece in tokenizer.encoder:
        if piece not in row_of and piece != "<|endoftext|>":
            raise InputError(
                f"{vocabulary} lacks {piece!r}, which {merges} makes: the two files do "
                "not belong together"
            )
    # No text contains what no merge makes; fairseq has a name for such rows.
    fillers = [p for p in row_of if p not in tokenizer.encoder and p not in RESERVED]
    symbol_of = {piece: f"madeupword{n:04d}" for n, piece in enumerate(fillers)}
    symbol_of |= {piece: str(number) for piece, number in tokenizer.encoder.items()}
    return tokenizer, row_of, symbol_of
