"""Text to symbols of a fairseq dictionary: WordPiece, GPT-2 BPE and SentencePiece.

Text is text: what looks like a special token (``[SEP]``, ``</s>``, ``<mask>``) is split
into ordinary pieces, so that no input can forge the end of a sentence.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import tokenizers
from tokenizers import AddedToken, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.models import WordPiece as WordPieceModel

from fairseq_scl.data.files import read_json, write_then_rename
from fairseq_scl.data.sentencepiece import MODEL_FILE, SentencePiece
from fairseq_scl.data.vocabulary_files import (
    SETTINGS,
    UNKNOWN_PIECE,
    check_merges,
    check_unicode,
    read_encoder,
    read_merges,
    read_word_pieces,
    write_settings,
)
from fairseq_scl.errors import InputError

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


class WordPiece:
    """BERT's tokenizer; its symbols are word pieces, as of fairseq's ``--bpe bert``.

    Agrees with ``transformers.BertTokenizerFast`` except for special tokens in a text.
    ``BertTokenizer``, which fairseq uses, also composes characters (NFC) and differs at
    a Greek word in capitals that ends in sigma, and at accents and punctuation of
    scripts that came to Unicode after 2015.
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
        added_tokens: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Build the tokenizer.

        Args:
            vocabulary: distinct word pieces with ``[UNK]`` among them.
            lowercase: whether text is turned to lower case.
            strip_accents: whether accents go; ``None`` means: with ``lowercase``.
            split_chinese: whether each Chinese character is a word of its own.
            pair_separator: see :class:`Tokenizer`.
            added_tokens: arguments of ``tokenizers.AddedToken``: texts that are one
                token each, whatever the vocabulary says.
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
        self._tokenizer.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=split_chinese,
            strip_accents=strip_accents,
            lowercase=lowercase,
        )
        self._tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._tokenizer.add_tokens([AddedToken(**token) for token in added_tokens])
        self.added_tokens = list(added_tokens)
        pieces = self._tokenizer.get_vocab()
        self._pieces = {number: piece for piece, number in pieces.items()}
        self.symbols = frozenset(pieces)

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
            InputError: a text with half a surrogate pair, which is not Unicode.
        """
        # Not e.tokens: of an added token that is the text, as the normalizer left it.
        encodings = _encodings(self._tokenizer, sentences)
        return [[self._pieces[number] for number in e.ids] for e in encodings]

    def save(self, folder: str | Path) -> None:
        """Write ``vocab.txt`` and ``tokenizer_settings.json`` into ``folder``."""
        with write_then_rename(Path(folder, "vocab.txt")) as file:
            file.writelines(piece + "\n" for piece in self.vocabulary)
        write_settings(
            folder,
            kind=self.kind,
            lowercase=self.lowercase,
            strip_accents=self.strip_accents,
            split_chinese=self.split_chinese,
            pair_separator=self.pair_separator,
            added_tokens=self.added_tokens,
        )


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
        added_tokens: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Build the tokenizer.

        Args:
            encoder: the id of each piece; the 256 bytes and what each merge makes must
                be there.
            merges: pairs of pieces, the first to be joined first.
            pair_separator: see :class:`Tokenizer`.
            added_tokens: see :class:`WordPiece`; ``encoder`` has an id for each.
        """
        self.encoder = dict(encoder)
        self.merges = list(merges)
        self.pair_separator = pair_separator
        self._tokenizer = tokenizers.Tokenizer(BPE(vocab=self.encoder, merges=merges))
        self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=False, use_regex=True
        )
        self._tokenizer.add_tokens([AddedToken(**token) for token in added_tokens])
        self.added_tokens = list(added_tokens)
        self.symbols = frozenset(map(str, self.encoder.values()))

    @classmethod
    def from_files(
        cls, encoder: str | Path, merges: str | Path, **settings: Any
    ) -> "GPT2BPE":
        """Read ``encoder.json`` and ``vocab.bpe``; ``settings`` as for ``__init__``.

        Raises:
            InputError: a file is missing or damaged, or they do not belong together.
        """
        pieces, pairs = read_encoder(encoder), read_merges(merges)
        check_merges(pairs, pieces, merges)
        return cls(pieces, pairs, **settings)

    def encode_lines(self, sentences: Sequence[str]) -> list[list[str]]:
        """Return the ids of each sentence's pieces as decimal strings.

        Args:
            sentences: any texts, the empty one included.

        Raises:
            InputError: a text with half a surrogate pair, which is not Unicode.
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
        write_settings(
            folder,
            kind=self.kind,
            lowercase=False,
            pair_separator=self.pair_separator,
            added_tokens=self.added_tokens,
        )


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
    if own.is_file():
        tokenizer = _load_saved(folder, own)
    elif (folder / MODEL_FILE).is_file():
        tokenizer = SentencePiece(folder / MODEL_FILE)
    elif missing := [path.name for path in (encoder, merges) if not path.is_file()]:
        raise InputError(
            f"{folder} has no tokenizer: neither {SETTINGS}, which 'fairseq-scl "
            f"convert' writes, nor {MODEL_FILE} (XLM-R, CamemBERT), nor "
            f"{' and '.join(missing)}, which belong into a RoBERTa folder of fairseq "
            "(from https://dl.fbaipublicfiles.com/fairseq/gpt2_bpe/)"
        )
    else:
        tokenizer = GPT2BPE.from_files(encoder, merges)
    for path in (folder / "dict.txt", folder / "input0" / "dict.txt"):
        if path.is_file():
            _check_dictionary(path, tokenizer)
    return tokenizer


def _load_saved(folder: Path, path: Path) -> Tokenizer:
    settings = read_json(path)
    kind = settings.get("kind") if isinstance(settings, dict) else None
    wanted: dict[str, Any] = {"pair_separator": bool}
    if kind == "wordpiece":
        wanted |= {"lowercase": bool, "split_chinese": bool}
        wanted |= {"strip_accents": bool | None}
    if kind not in ("wordpiece", "gpt2", "sentencepiece") or not all(
        name in settings and isinstance(settings[name], allowed)
        for name, allowed in wanted.items()
    ):
        raise InputError(
            f"{path} is damaged: it needs kind (found {kind!r}, allowed: wordpiece, "
            f"gpt2, sentencepiece) and with it {', '.join(wanted)}, as 'fairseq-scl "
            "convert' writes them"
        )
    chosen = {name: settings[name] for name in wanted}
    if kind == "sentencepiece":
        return SentencePiece(folder / MODEL_FILE, **chosen)
    chosen["added_tokens"] = added = settings.get("added_tokens", [])
    if not isinstance(added, list) or not all(map(_is_added_token, added)):
        raise InputError(f"{path} is damaged: added_tokens is {added!r}")
    if kind == "wordpiece":
        return WordPiece.from_file(folder / "vocab.txt", **chosen)
    return GPT2BPE.from_files(folder / "encoder.json", folder / "vocab.bpe", **chosen)


def _is_added_token(token: Any) -> bool:
    return (
        isinstance(token, dict)
        and bool(token.get("content"))
        and all(
            isinstance(value, str if name == "content" else bool)
            for name, value in token.items()
        )
    )


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


def _encodings(
    tokenizer: tokenizers.Tokenizer, sentences: Sequence[str]
) -> Iterator[Any]:
    # In blocks: an encoding keeps the offsets of each piece, far more than its text.
    for start in range(0, len(sentences), LINES_AT_ONCE):
        block = list(sentences[start : start + LINES_AT_ONCE])
        try:
            yield from tokenizer.encode_batch(block, add_special_tokens=False)
        except TypeError:
            check_unicode(block, start)
            raise
