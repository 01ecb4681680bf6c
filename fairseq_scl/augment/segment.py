"""Convert text to the pieces of a translation model's dictionary, and back.

Equivalent to fairseq's encoders ``moses``, ``fastbpe``, ``subword_nmt`` and
``sentencepiece``, which the pre-trained models were trained with.
"""

from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fairseq.data import encoders
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
# The names that fairseq's hub looks for, and SentencePiece's own name spm.model.
CODES_FILES = ("bpecodes", "code")
SENTENCEPIECE_FILES = ("sentencepiece.bpe.model", "spm.model")


class Segmenter:
    """Converts text of one language to pieces and back."""

    def __init__(
        self, cut: Callable[[str], str], join: Callable[[str], str], moses: Any = None
    ) -> None:
        """Set up the conversion.

        Args:
            cut: converts text to pieces separated by spaces.
            join: the inverse of ``cut``.
            moses: fairseq's Moses tokenizer, applied before ``cut`` and after ``join``.
        """
        self._cut, self._join, self._moses = cut, join, moses

    def encode(self, text: str) -> list[str]:
        """Split a text into pieces of ``dict.txt``; an empty text has none."""
        if self._moses:
            text = self._moses.encode(text)
        # As in fairseq's dictionary, where any whitespace ends a piece.
        pieces: list[str] = tokenize_line(self._cut(text))
        return pieces

    def decode(self, pieces: Sequence[str]) -> str:
        """Return the text of pieces."""
        text = self._join(" ".join(pieces))
        return self._moses.decode(text) if self._moses else text


def load_segmenter(
    tokenizer: str | None, bpe: str, language: str, folder: Path
) -> Segmenter:
    """Load the segmenter from a model's folder.

    Args:
        tokenizer: ``moses``, or ``None`` for raw text.
        bpe: ``fastbpe``, ``subword_nmt`` or ``sentencepiece``.
        language: language of the text, such as ``en``, for the rules of Moses.
        folder: a folder with ``bpecodes`` or ``code``, or ``sentencepiece.bpe.model``
            or ``spm.model``; or with one per language, such as ``code.en`` or
            ``spm.en.model``.

    Raises:
        InputError: a package is missing, or a file is missing or of another kind.
    """
    wanted = Namespace(tokenizer=tokenizer, source_lang=language, target_lang=language)
    moses = encoders.build_tokenizer(wanted)
    names = SENTENCEPIECE_FILES if bpe == SENTENCEPIECE else CODES_FILES
    path = next(iter(_existing(folder, names, language)), None)
    if path is None:
        raise InputError(
            f"{folder} has neither {' nor '.join(names)}, nor one for {language} alone "
            f"such as {_of_language(names[-1], language)}: --bpe {bpe} needs one of "
            "them"
        )
    if bpe == SENTENCEPIECE:
        wanted = Namespace(bpe=bpe, sentencepiece_model=str(path))
        try:
            pieces = encoders.build_bpe(wanted)
        except (RuntimeError, OSError) as error:
            raise InputError(f"{path} is not a SentencePiece model") from error
        return Segmenter(pieces.encode, pieces.decode, moses)
    return Segmenter(
        load_bpe(path, bpe),
        lambda text: f"{text} ".replace(f"{SEPARATOR} ", "").rstrip(),
        moses,
    )


def guess_bpe(folder: Path, language: str = "en") -> str | None:
    """Determine ``--bpe`` from the files in a model's folder; ``None`` if unknown.

    ``language`` is one of the two languages, each of which may have a file of its own.

    Raises:
        InputError: there are files of both kinds, or one that cannot be read.
    """
    codes = _existing(folder, CODES_FILES, language)
    models = _existing(folder, SENTENCEPIECE_FILES, language)
    if codes and models:
        raise InputError(
            f"{folder} has both {codes[0].name} and {models[0].name}: choose one with "
            "--bpe"
        )
    if models:
        return SENTENCEPIECE
    return kind_of_bpe(codes[0]) if codes else None


def _existing(folder: Path, names: Sequence[str], language: str) -> list[Path]:
    """Return the files that exist, those of the language alone first."""
    own = [_of_language(name, language) for name in names]
    return [folder / name for name in (*own, *names) if (folder / name).is_file()]


def _of_language(name: str, language: str) -> str:
    return f"{Path(name).stem}.{language}{Path(name).suffix}"
