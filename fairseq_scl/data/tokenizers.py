"""Turn text into symbols of a fairseq dictionary: WordPiece, GPT-2 BPE, SentencePiece.

Text that looks like a special token (``[SEP]``, ``</s>``, ``<mask>``) is split into
ordinary pieces, so that no input can fake the end of a sentence.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec
import tokenizers
from tokenizers import AddedToken, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.models import WordPiece as WordPieceModel

from fairseq_scl.data.files import write_json, write_then_rename
from fairseq_scl.data.sentencepiece import MODEL_FILE, SentencePiece
from fairseq_scl.data.vocabulary_files import (
    SETTINGS,
    UNKNOWN_PIECE,
    GPT2Settings,
    SentencePieceSettings,
    TokenizerSettings,
    WordPieceSettings,
    check_merges,
    check_unicode,
    read_encoder,
    read_merges,
    read_word_pieces,
)
from fairseq_scl.errors import InputError
from fairseq_scl.typed import read_as

LINES_AT_ONCE = 4096
# The largest share of a dictionary's symbols that its tokenizer need not produce:
# fairseq adds a few symbols that do not stand for text.
FOREIGN_SYMBOLS = 0.05


class Tokenizer(Protocol):
    """The interface of all tokenizers.

    Attributes:
        kind: ``"wordpiece"``, ``"gpt2"`` or ``"sentencepiece"``.
        pair_separator: whether a pair needs an additional ``</s>`` before its second
            sentence: ``<s> a </s> </s> b </s>`` (RoBERTa) or ``<s> a </s> b </s>``
            (BERT).
        file_names: the files that ``save`` writes.
        symbols: all symbols that the tokenizer can produce.
    """

    kind: str
    pair_separator: bool
    file_names: tuple[str, ...]
    symbols: frozenset[str]

    def encode_lines(self, sentences: Sequence[str]) -> list[list[str]]:
        """Return the dictionary symbols of each sentence, without special symbols."""

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer's files into an existing folder."""


class _Subwords:
    """The common part of WordPiece and GPT-2's BPE, computed by tokenizers."""

    def __init__(
        self, library: tokenizers.Tokenizer, settings: WordPieceSettings | GPT2Settings
    ) -> None:
        self.settings = settings
        self.pair_separator = settings.pair_separator
        added = msgspec.to_builtins(settings.added_tokens or [])
        library.add_tokens([AddedToken(**token) for token in added])
        self._library = library
        # For an added token, e.tokens has the normalized text instead.
        self._symbols = {
            number: self.symbol(piece, number)
            for piece, number in library.get_vocab().items()
        }
        self.symbols = frozenset(self._symbols.values())

    def symbol(self, piece: str, number: int) -> str:
        """Return the symbol in fairseq's dictionaries: the piece itself."""
        return piece

    def encode_lines(self, sentences: Sequence[str]) -> list[list[str]]:
        """Return the symbols of each sentence; an empty text has none.

        WordPiece returns ``[UNK]`` for a word without pieces; fairseq's dictionaries
        lack it, so it becomes ``<unk>``.

        Raises:
            InputError: a text has an unpaired surrogate, which is not valid Unicode.
        """
        rows = []
        # In blocks, because an encoding also stores the offsets of each piece.
        for start in range(0, len(sentences), LINES_AT_ONCE):
            block = list(sentences[start : start + LINES_AT_ONCE])
            try:
                found = self._library.encode_batch(block, add_special_tokens=False)
            except TypeError:
                check_unicode(block, start)
                raise
            rows += [[self._symbols[number] for number in e.ids] for e in found]
        return rows


class WordPiece(_Subwords):
    """BERT's tokenizer; its symbols are word pieces, as for fairseq's ``--bpe bert``.

    Agrees with ``transformers.BertTokenizerFast`` except for special tokens in a text.
    ``BertTokenizer``, which fairseq uses, also composes characters (NFC) and differs
    for uppercase Greek words that end in sigma, and for accents and punctuation of
    scripts added to Unicode after 2015.
    """

    kind = "wordpiece"
    file_names: tuple[str, ...] = ("vocab.txt", SETTINGS)

    def __init__(self, vocabulary: Sequence[str], settings: WordPieceSettings) -> None:
        """Build the tokenizer from distinct pieces with ``[UNK]`` among them."""
        self.vocabulary = list(vocabulary)
        ids = {piece: number for number, piece in enumerate(vocabulary)}
        super().__init__(bert_tokenizer(ids, settings), settings)

    def save(self, folder: str | Path) -> None:
        """Write ``vocab.txt`` and ``tokenizer_settings.json`` into ``folder``."""
        with write_then_rename(Path(folder, "vocab.txt")) as file:
            file.writelines(piece + "\n" for piece in self.vocabulary)
        write_json(Path(folder, SETTINGS), msgspec.to_builtins(self.settings))


class GPT2BPE(_Subwords):
    """GPT-2's byte-level BPE; its symbols are ids as decimal strings.

    Agrees with ``fairseq.data.encoders.gpt2_bpe.GPT2BPE``, except possibly for letters
    and digits added to Unicode since 2025, which not all libraries know yet.
    """

    kind = "gpt2"
    file_names: tuple[str, ...] = ("encoder.json", "vocab.bpe", SETTINGS)

    def __init__(
        self,
        encoder: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        settings: GPT2Settings,
    ) -> None:
        """Build the tokenizer.

        Args:
            encoder: the id of each piece, including the 256 bytes, the result of each
                merge and the added tokens.
            merges: pairs of pieces in the order of their priority.
            settings: how pairs are separated, and the added tokens.
        """
        self.encoder = dict(encoder)
        self.merges = list(merges)
        super().__init__(byte_level_tokenizer(self.encoder, self.merges), settings)

    def symbol(self, piece: str, number: int) -> str:
        """Return the symbol in fairseq's dictionaries: the id."""
        return str(number)

    def save(self, folder: str | Path) -> None:
        """Write ``encoder.json``, ``vocab.bpe`` and ``tokenizer_settings.json``."""
        with write_then_rename(Path(folder, "encoder.json")) as file:
            json.dump(self.encoder, file)  # ASCII: fairseq reads it in any locale
        with write_then_rename(Path(folder, "vocab.bpe")) as file:
            file.write("#version: 0.2\n")
            file.writelines(f"{first} {second}\n" for first, second in self.merges)
        write_json(Path(folder, SETTINGS), msgspec.to_builtins(self.settings))


def bert_tokenizer(
    ids: dict[str, int], settings: WordPieceSettings
) -> tokenizers.Tokenizer:
    """Build BERT's tokenizer from the ids of its pieces, without added tokens."""
    made = tokenizers.Tokenizer(
        WordPieceModel(vocab=ids, unk_token=UNKNOWN_PIECE, max_input_chars_per_word=100)
    )
    made.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.split_chinese,
        strip_accents=settings.strip_accents,
        lowercase=settings.lowercase,
    )
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return made


def byte_level_tokenizer(
    ids: dict[str, int], merges: Sequence[tuple[str, str]]
) -> tokenizers.Tokenizer:
    """Build GPT-2's tokenizer from ids and merges, without added tokens."""
    made = tokenizers.Tokenizer(BPE(vocab=ids, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return made


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Load the tokenizer of an encoder, data or model folder.

    Args:
        folder: a folder with a saved tokenizer, or an encoder published by fairseq:
            XLM-R, CamemBERT, or RoBERTa with GPT-2's ``encoder.json`` and ``vocab.bpe``
            added.

    Raises:
        InputError: the folder or a file is missing or damaged, or the folder's
            dictionary belongs to another tokenizer.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"missing folder: {folder}")
    own, encoder, merges = (
        folder / name for name in (SETTINGS, "encoder.json", "vocab.bpe")
    )
    tokenizer: Tokenizer
    if os.path.lexists(own):
        settings: TokenizerSettings = read_as(own, cast(Any, TokenizerSettings))
    elif (folder / MODEL_FILE).is_file():
        settings = SentencePieceSettings(pair_separator=True)
    elif missing := [path.name for path in (encoder, merges) if not path.is_file()]:
        raise InputError(
            f"{folder} lacks a tokenizer: it has neither {SETTINGS} from 'fairseq-scl "
            f"convert', nor {MODEL_FILE} (XLM-R, CamemBERT), nor "
            f"{' and '.join(missing)}; for fairseq's RoBERTa, download these from "
            "https://dl.fbaipublicfiles.com/fairseq/gpt2_bpe/"
        )
    else:
        settings = GPT2Settings(pair_separator=True)
    if isinstance(settings, SentencePieceSettings):
        tokenizer = SentencePiece(folder / MODEL_FILE, settings)
    elif isinstance(settings, GPT2Settings):
        pieces, pairs = read_encoder(encoder), read_merges(merges)
        check_merges(pairs, pieces, merges)
        tokenizer = GPT2BPE(pieces, pairs, settings)
    else:
        tokenizer = WordPiece(read_word_pieces(folder / "vocab.txt"), settings)
    for path in (folder / "dict.txt", folder / "input0" / "dict.txt"):
        if path.is_file():
            _check_dictionary(path, tokenizer)
    return tokenizer


def _check_dictionary(path: Path, tokenizer: Tokenizer) -> None:
    """Refuse a dictionary of symbols that the tokenizer cannot produce."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    symbols = {
        line.removesuffix(" #fairseq:overwrite").rpartition(" ")[0] for line in lines
    }
    symbols = {one for one in symbols if not re.fullmatch(r"(madeupword\d+)?", one)}
    foreign = sorted(symbols - tokenizer.symbols)
    if len(foreign) > FOREIGN_SYMBOLS * len(symbols):
        raise InputError(
            f"{path} belongs to another tokenizer: {len(foreign)} of its "
            f"{len(symbols)} symbols, such as {foreign[0]!r}, cannot be produced with "
            f"{' and '.join(tokenizer.file_names[:-1])}"
        )
