"""From text to the symbols of a fairseq dictionary: WordPiece and GPT-2's BPE.

Both stand on the ``tokenizers`` library. Text is text: what looks like a special token
(``[SEP]``, ``</s>``, ``<mask>``) is cut into ordinary pieces, so that no input can
forge the end of a sentence.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import tokenizers
from tokenizers import normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.models import WordPiece as WordPieceModel

from fairseq_scl.data.files import read_json, write_json, write_then_rename
from fairseq_scl.data.vocabulary_files import (
    UNKNOWN_PIECE,
    check_merges,
    number_pieces,
    read_encoder,
    read_merges,
    read_word_pieces,
)
from fairseq_scl.errors import InputError

SETTINGS = "tokenizer_settings.json"
LINES_AT_ONCE = 4096


class Tokenizer(Protocol):
    """What the rest of the package knows of a tokeniser.

    Attributes:
        kind: ``"wordpiece"`` or ``"gpt2"``.
        pair_separator: whether a pair needs an additional ``</s>`` before its second
            sentence: ``<s> a </s> </s> b </s>`` (RoBERTa) or ``<s> a </s> b </s>``
            (BERT).
        file_names: the files that ``save`` writes.
    """

    kind: str
    pair_separator: bool
    file_names: tuple[str, ...]

    def encode_lines(self, sentences: Sequence[str]) -> list[list[str]]:
        """Return the dictionary symbols of each sentence, without special symbols."""

    def save(self, folder: str | Path) -> None:
        """Write the tokeniser's files into a folder that is there."""


class WordPiece:
    """BERT's tokeniser; its symbols are word pieces, as of fairseq's ``--bpe bert``.

    Agrees with ``transformers.BertTokenizer`` but for three rarities: special tokens in
    the text, a Greek word in capitals that ends in sigma, and accents and punctuation
    of scripts that came to Unicode after 2015.
    """

    kind = "wordpiece"
    file_names: tuple[str, ...] = ("vocab.txt", SETTINGS)

    def __init__(
        self,
        vocabulary: Sequence[str],
        lowercase: bool,
        strip_accents: bool | None = None,
        split_chinese: bool = True,
        pair_separator: bool = False,
    ) -> None:
        """Build the tokeniser.

        Args:
            vocabulary: distinct word pieces with ``[UNK]`` among them.
            lowercase: whether text is turned to lower case.
            strip_accents: whether accents go; ``None`` means: with ``lowercase``.
            split_chinese: whether each Chinese character is a word of its own.
            pair_separator: see :class:`Tokenizer`.
        """
        self.vocabulary = list(vocabulary)
        self.lowercase = lowercase
        self.strip_accents = strip_accents
        self.split_chinese = split_chinese
        self.pair_separator = pair_separator
        self._tokenizer = tokenizers.Tokenizer(
            WordPieceModel(
                vocab={piece: number for number, piece in enumerate(vocabulary)},
                unk_token=UNKNOWN_PIECE,
                max_input_chars_per_word=100,
            )
        )
        # BertTokenizer composes characters between cleaning and lower-casing.
        self._tokenizer.normalizer = normalizers.Sequence(
            [
                normalizers.BertNormalizer(
                    clean_text=True,
                    handle_chinese_chars=split_chinese,
                    strip_accents=False,
                    lowercase=False,
                ),
                normalizers.NFC(),
                normalizers.BertNormalizer(
                    clean_text=False,
                    handle_chinese_chars=False,
                    strip_accents=lowercase if strip_accents is None else strip_accents,
                    lowercase=lowercase,
                ),
            ]
        )
        self._tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()

    @classmethod
    def from_file(cls, path: str | Path, **settings: Any) -> "WordPiece":
        """Read ``vocab.txt``, one piece a line; ``settings`` are those of ``__init__``.

        Raises:
            InputError: the file is missing or damaged.
        """
        return cls(read_word_pieces(path), **settings)

    def encode_lines(self, sentences: Sequence[str]) -> list[list[str]]:
        """Return the word pieces of each sentence.

        Args:
            sentences: any texts, the empty one included.

        Returns:
            a list of pieces a sentence; ``[UNK]``, which no fairseq dictionary holds
            and which therefore becomes ``<unk>``, for a word without pieces.

        Raises:
            InputError: a text with half a surrogate pair, which is no Unicode.
        """
        return [e.tokens for e in _encodings(self._tokenizer, sentences)]

    def save(self, folder: str | Path) -> None:
        """Write ``vocab.txt`` and ``tokenizer_settings.json`` into ``folder``."""
        with write_then_rename(Path(folder, "vocab.txt")) as file:
            file.writelines(piece + "\n" for piece in self.vocabulary)
        settings = {
            "kind": self.kind,
            "lowercase": self.lowercase,
            "strip_accents": self.strip_accents,
            "split_chinese": self.split_chinese,
            "pair_separator": self.pair_separator,
        }
        write_json(Path(folder, SETTINGS), settings)


class GPT2BPE:
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
        pair_separator: bool = True,
    ) -> None:
        """Build the tokeniser.

        Args:
            encoder: the id of each piece; the 256 bytes and what each merge makes must
                be there.
            merges: pairs of pieces, the first to be joined first.
            pair_separator: see :class:`Tokenizer`.
        """
        self.encoder = dict(encoder)
        self.merges = list(merges)
        self.pair_separator = pair_separator
        self._tokenizer = tokenizers.Tokenizer(BPE(vocab=self.encoder, merges=merges))
        self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=False, use_regex=True
        )

    @classmethod
    def from_files(
        cls, encoder: str | Path, merges: str | Path, pair_separator: bool = True
    ) -> "GPT2BPE":
        """Read ``encoder.json`` and ``vocab.bpe`` (``vocab.json``, ``merges.txt``).

        Raises:
            InputError: a file is missing or damaged, or they do not belong together.
        """
        pieces, pairs = read_encoder(encoder), read_merges(merges)
        check_merges(pairs, pieces, merges)
        return cls(pieces, pairs, pair_separator)

    @classmethod
    def from_merges(cls, path: str | Path, pair_separator: bool = True) -> "GPT2BPE":
        """Read ``merges.txt`` or ``vocab.bpe`` and number the pieces as GPT-2 does.

        Raises:
            InputError: the file is missing or damaged.
        """
        pairs = read_merges(path)
        pieces = number_pieces(pairs)
        check_merges(pairs, pieces, path)
        return cls(pieces, pairs, pair_separator)

    def encode_lines(self, sentences: Sequence[str]) -> list[list[str]]:
        """Return the ids of each sentence's pieces as decimal strings.

        Args:
            sentences: any texts, the empty one included.

        Raises:
            InputError: a text with half a surrogate pair, which is no Unicode.
        """
        encodings = _encodings(self._tokenizer, sentences)
        return [[str(number) for number in e.ids] for e in encodings]

    def save(self, folder: str | Path) -> None:
        """Write ``encoder.json``, ``vocab.bpe`` and ``tokenizer_settings.json``."""
        with write_then_rename(Path(folder, "encoder.json")) as file:
            json.dump(self.encoder, file)  # ASCII: fairseq reads it in any locale
        with write_then_rename(Path(folder, "vocab.bpe")) as file:
            file.write("#version: 0.2\n")
            file.writelines(f"{first} {second}\n" for first, second in self.merges)
        settings = {
            "kind": self.kind,
            "lowercase": False,
            "pair_separator": self.pair_separator,
        }
        write_json(Path(folder, SETTINGS), settings)


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Load the tokeniser of an encoder, data or model folder.

    Args:
        folder: one that a tokeniser was saved to, or a RoBERTa as published by fairseq
            to which GPT-2's ``encoder.json`` and ``vocab.bpe`` were added.

    Raises:
        InputError: files are missing or are not what a tokeniser saves.
    """
    folder = Path(folder)
    own = folder / SETTINGS
    encoder, merges = folder / "encoder.json", folder / "vocab.bpe"
    if not own.is_file():
        if missing := [p.name for p in (encoder, merges) if not p.is_file()]:
            raise InputError(
                f"{folder} has no tokeniser: neither {SETTINGS}, which 'fairseq-scl "
                f"convert' writes, nor {' and '.join(missing)}, which belong into a "
                "RoBERTa folder of fairseq (from "
                "https://dl.fbaipublicfiles.com/fairseq/gpt2_bpe/)"
            )
        return GPT2BPE.from_files(encoder, merges)
    settings = read_json(own)
    kind = settings.get("kind") if isinstance(settings, dict) else None
    wanted = {
        "wordpiece": {"lowercase", "strip_accents", "split_chinese", "pair_separator"},
        "gpt2": {"pair_separator"},
    }
    if kind not in wanted or not wanted[kind] <= settings.keys():
        raise InputError(
            f"{own} is damaged: it needs kind (found {kind!r}, allowed: wordpiece or "
            "gpt2) and the settings that 'fairseq-scl convert' writes with it"
        )
    chosen = {name: settings[name] for name in wanted[kind]}
    if kind == "wordpiece":
        return WordPiece.from_file(folder / "vocab.txt", **chosen)
    return GPT2BPE.from_files(encoder, merges, **chosen)


def _encodings(
    tokenizer: tokenizers.Tokenizer, sentences: Sequence[str]
) -> Iterator[Any]:
    # In blocks: an encoding keeps the offsets of each piece, far more than its text.
    for start in range(0, len(sentences), LINES_AT_ONCE):
        block = list(sentences[start : start + LINES_AT_ONCE])
        try:
            yield from tokenizer.encode_batch(block, add_special_tokens=False)
        except TypeError:
            for number, text in enumerate(block, start=start + 1):
                if any("\ud800" <= character <= "\udfff" for character in text):
                    raise InputError(
                        f"sentence {number} holds half a surrogate pair, which is no "
                        "Unicode text: decode it with errors='replace'"
                    ) from None
            raise
