"""Text to the pieces of a translation model's dictionary, and back.

Does what fairseq's encoders ``moses``, ``fastbpe``, ``subword_nmt`` and
``sentencepiece`` do, with which pre-trained models were trained.
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fairseq.tokenizer import tokenize_line

from fairseq_scl.augment.bpe import (
    FASTBPE,
    SEPARATOR,
    SUBWORD_NMT,
    kind_of_bpe,
    load_bpe,
)
from fairseq_scl.errors import InputError

SENTENCEPIECE = "sentencepiece"
MOSES = "moses"
BPES = (FASTBPE, SUBWORD_NMT, SENTENCEPIECE)
TOKENIZERS = (MOSES,)
# The names that fairseq's hub looks for; spm.model is what sentencepiece calls its own.
CODES_FILES = ("bpecodes", "code")
SENTENCEPIECE_FILES = ("sentencepiece.bpe.model", "spm.model")
WORD_START = "▁"


class Segmenter:
    """One language's way from text to pieces and back."""

    def __init__(
        self,
        cut: Callable[[str], str],
        join: Callable[[str], str],
        language: str | None = None,
    ) -> None:
        """Take what to do.

        Args:
            cut: from text to pieces with blanks between them.
            join: the other way.
            language: Moses' rules for it come first, and last on the way back.
        """
        self._cut, self._join = cut, join
        self._moses = _Moses(language) if language else None

    def encode(self, text: str) -> list[str]:
        """Cut a text into pieces as they stand in ``dict.txt``; none for no text."""
        if self._moses:
            text = self._moses.tokenize(text)
        # As fairseq's dictionary does it, for which every white space ends a piece.
        pieces: list[str] = tokenize_line(self._cut(text))
        return pieces

    def decode(self, pieces: Sequence[str]) -> str:
        """Return the text of pieces."""
        text = self._join(" ".join(pieces))
        return self._moses.detokenize(text) if self._moses else text


def load_segmenter(
    tokenizer: str | None, bpe: str, language: str, folder: Path
) -> Segmenter:
    """Read what a model's folder holds for its text.

    Args:
        tokenizer: ``moses``, or ``None`` for text as it is.
        bpe: ``fastbpe``, ``subword_nmt`` or ``sentencepiece``.
        language: of the text, as ``en``; Moses has rules for it.
        folder: holds ``bpecodes``, or ``sentencepiece.bpe.model`` or ``spm.model``.

    Raises:
        InputError: another name, a missing package, or a file that is missing or is
            of another kind.
    """
    if tokenizer not in (None, *TOKENIZERS):
        raise InputError(
            f"--tokenizer is {tokenizer!r}: choose from {', '.join(TOKENIZERS)}"
        )
    if bpe not in BPES:
        raise InputError(f"--bpe is {bpe!r}: choose from {', '.join(BPES)}")
    moses = language if tokenizer else None
    if bpe == SENTENCEPIECE:
        model = _load_sentencepiece(_find(folder, SENTENCEPIECE_FILES, bpe))
        return Segmenter(
            lambda text: " ".join(model.encode(text, out_type=str)),
            lambda text: text.replace(" ", "").replace(WORD_START, " ").strip(),
            moses,
        )
    path = _find(folder, CODES_FILES, bpe)
    return Segmenter(
        load_bpe(path, bpe),
        lambda text: f"{text} ".replace(f"{SEPARATOR} ", "").rstrip(),
        moses,
    )


def guess_bpe(folder: Path) -> str | None:
    """Tell by its files which ``--bpe`` a model's folder needs.

    Args:
        folder: as fairseq publishes it.

    Returns:
        ``fastbpe``, ``subword_nmt`` or ``sentencepiece``; ``None`` if there is nothing
        to tell by.

    Raises:
        InputError: there are files of both kinds, or one that cannot be read.
    """
    codes = [folder / name for name in CODES_FILES if (folder / name).is_file()]
    models = [name for name in SENTENCEPIECE_FILES if (folder / name).is_file()]
    if codes and models:
        raise InputError(
            f"{folder} holds {codes[0].name} and {models[0]}: say which with --bpe"
        )
    if models:
        return SENTENCEPIECE
    return kind_of_bpe(codes[0]) if codes else None


class _Moses:
    """Moses' tokeniser with the options of fairseq's encoder: all of its defaults."""

    def __init__(self, language: str) -> None:
        sacremoses = _package("sacremoses", f"--tokenizer {MOSES}")
        self._tokenizer = sacremoses.MosesTokenizer(language)
        self._detokenizer = sacremoses.MosesDetokenizer(language)

    def tokenize(self, text: str) -> str:
        """Return tokens with blanks between them; quotes and the like as ``&quot;``."""
        tokens: str = self._tokenizer.tokenize(
            text, aggressive_dash_splits=True, return_str=True, escape=True
        )
        return tokens

    def detokenize(self, text: str) -> str:
        """Return the text of tokens."""
        plain: str = self._detokenizer.detokenize(text.split())
        return plain


def _load_sentencepiece(path: Path) -> Any:
    package = _package("sentencepiece", f"--bpe {SENTENCEPIECE}")
    try:
        return package.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise InputError(f"{path} is no sentencepiece model") from error


def _find(folder: Path, names: Sequence[str], bpe: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(
        f"{folder} holds no {' and no '.join(names)}: --bpe {bpe} needs it"
    )


def _package(name: str, flag: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            f"{flag} needs the package {name}: pip install {name}"
        ) from None
