"""Text to symbols of a fairseq dictionary: WordPiece, GPT-2 BPE and SentencePiece.

Text is text: what looks like a special token (``[SEP]``, ``</s>``, ``<mask>``) is split
into ordinary pieces, so that no input can forge the end of a sentence.
"""

import json
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
# The share of a dictionary's symbols that its tokenizer may be unable to make: fairseq
# itself puts a few into a dictionary that stand for no text.
FOREIGN_SYMBOLS = 0.05


class Tokenizer(Protocol):
    """What the rest of the package knows of a tokenizer.

    Attributes:
        kind: ``"wordpiece"``, ``"gpt2"`` or ``"sentencepiece"``.
        pair_separator: whether a pair needs an additional ``</s>`` before its second
            sentence: ``<s> a </s> </s> b </s>`` (RoBERTa) or ``<s> a </s> b </s>``
            (BERT).
        file_names: the files that ``save`` writes.
        symbols: every symbol that a text can become.
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
    """What WordPiece and GPT-2's BPE share: the library tokenizers computes both."""

    def __init__(
        self, library: tokenizers.Tokenizer, settings: WordPieceSettings | GPT2Settings
    ) -> None:
        self.settings = settings
        self.pair_separator = settings.pair_separator
        added = msgspec.to_builtins(settings.added_tokens or [])
        library.add_tokens([AddedToken(**token) for token in added])
        self._library = library
        # Not e.tokens: of an added token that is the text, as the normalizer left it.
        self._symbols = {
            number: self.symbol(piece, number)
            for piece, number in library.get_vocab().items()
        }
        self.symbols = frozenset(self._symbols.values())

    def symbol(self, piece: str, number: int) -> str:
        """Return the name in fairseq's dictionaries: the piece itself."""
        return piece

    def encode_lines(self, sentences: Sequence[str]) -> list[list[str]]:
        """Return the symbols of each sentence.

        Args:
            sentences: any texts, the empty one included.

        Returns:
            one list of symbols per sentence. WordPiece has ``[UNK]``, which no fairseq
            dictionary holds and which therefore becomes ``<unk>``, for a word without
            pieces.

        Raises:
            InputError: a text with half a surrogate pair, which is not Unicode.
        """
        rows = []
        # In blocks: an encoding keeps the offsets of each piece, more than its text.
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
    """BERT's tokenizer; its symbols are word pieces, as of fairseq's ``--bpe bert``.

    Agrees with ``transformers.BertTokenizerFast`` except for special tokens in a text.
    ``BertTokenizer``, which fairseq uses, also composes characters (NFC) and differs at
    a Greek word in capitals that ends in sigma, and at accents and punctuation of
    scripts that came to Unicode after 2015.
    """

    kind = "wordpiece"
    file_names: tuple[str, ...] = ("vocab.txt", SETTINGS)

    def __init__(self, vocabulary: Sequence[str], settings: WordPieceSettings) -> None:
        """Build the tokenizer from distinct pieces with ``[UNK]`` among them."""
        self.vocabulary = list(vocabulary)
        library = tokenizers.Tokenizer(
            WordPieceModel(
                vocab={piece: number for number, piece in enumerate(vocabulary)},
                unk_token=UNKNOWN_PIECE,
                max_input_chars_per_word=100,
            )
        )
        library.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=settings.split_chinese,
            strip_accents=settings.strip_accents,
            lowercase=settings.lowercase,
        )
        library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        super().__init__(library, settings)

    def save(self, folder: str | Path) -> None:
        """Write ``vocab.txt`` and ``tokenizer_settings.json`` into ``folder``."""
        with write_then_rename(Path(folder, "vocab.txt")) as file:
            file.writelines(piece + "\n" for piece in self.vocabulary)
        write_json(Path(folder, SETTINGS), msgspec.to_builtins(self.settings))


class GPT2BPE(_Subwords):
    """GPT-2's byte-level BPE; its symbols are ids as decimal strings.

    The same as ``fairseq.data.encoders.gpt2_bpe.GPT2BPE`` gives; the two may differ at
    letters and digits added to Unicode since 2025, which libraries learn one by one.
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
            encoder: the id of each piece; the 256 bytes, what each merge makes and the
                added tokens must be there.
            merges: pairs of pieces, the first to be joined first.
            settings: whether pairs are separated, and the added tokens.
        """
        self.encoder = dict(encoder)
        self.merges = list(merges)
        library = tokenizers.Tokenizer(BPE(vocab=self.encoder, merges=self.merges))
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        super().__init__(library, settings)

    def symbol(self, piece: str, number: int) -> str:
        """Return the name in fairseq's dictionaries: the id."""
        return str(number)

    def save(self, folder: str | Path) -> None:
        """Write ``encoder.json``, ``vocab.bpe`` and ``tokenizer_settings.json``."""
        with write_then_rename(Path(folder, "encoder.json")) as file:
            json.dump(self.encoder, file)  # ASCII: fairseq reads it in any locale
        with write_then_rename(Path(folder, "vocab.bpe")) as file:
            file.write("#version: 0.2\n")
            file.writelines(f"{first} {second}\n" for first, second in self.merges)
        write_json(Path(folder, SETTINGS), msgspec.to_builtins(self.settings))


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Load the tokenizer of an encoder, data or model folder.

    Args:
        folder: one that a tokenizer was saved to, or an encoder as published by
            fairseq: an XLM-R or CamemBERT, or a RoBERTa to which GPT-2's
            ``encoder.json`` and ``vocab.bpe`` were added.

    Raises:
        InputError: files are missing or are not what a tokenizer saves, or the folder's
            dictionary belongs to another tokenizer.
    """
    folder = Path(folder)
    own, encoder, merges = (
        folder / name for name in (SETTINGS, "encoder.json", "vocab.bpe")
    )
    tokenizer: Tokenizer
    if own.is_file():
        settings: TokenizerSettings = read_as(own, cast(Any, TokenizerSettings))
    elif (folder / MODEL_FILE).is_file():
        settings = SentencePieceSettings(pair_separator=True)
    elif missing := [path.name for path in (encoder, merges) if not path.is_file()]:
        raise InputError(
            f"{folder} has no tokenizer: neither {SETTINGS}, which 'fairseq-scl "
            f"convert' writes, nor {MODEL_FILE} (XLM-R, CamemBERT), nor "
            f"{' and '.join(missing)}, which belong into a RoBERTa folder of fairseq "
            "(from https://dl.fbaipublicfiles.com/fairseq/gpt2_bpe/)"
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
    """Refuse a dictionary of symbols that the tokenizer does not make."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    symbols = {
        line.removesuffix(" #fairseq:overwrite").rpartition(" ")[0] for line in lines
    }
    symbols = {one for one in symbols if not re.fullmatch(r"(madeupword\d+)?", one)}
    foreign = sorted(symbols - tokenizer.symbols)
    if len(foreign) > FOREIGN_SYMBOLS * len(symbols):
        raise InputError(
            f"{path} belongs to another tokenizer: {foreign[0]!r} and other symbols, "
            f"{len(foreign)} of {len(symbols)}, are not made by "
            f"{' and '.join(tokenizer.file_names[:-1])}"
        )
