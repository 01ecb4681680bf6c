"""Text to the pieces of a translation model's dictionary, and back.

Does what fairseq's encoders ``moses``, ``fastbpe``, ``subword_nmt`` and
``sentencepiece`` do, with which pre-trained models were trained.
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
# The names that fairseq's hub looks for; spm.model is what sentencepiece calls its own.
CODES_FILES = ("bpecodes", "code")
SENTENCEPIECE_FILES = ("sentencepiece.bpe.model", "spm.model")


class Segmenter:
    """One language's way from text to pieces and back."""

    def __init__(
        self, cut: Callable[[str], str], join: Callable[[str], str], moses: Any = None
    ) -> None:
        """Take what to do.

        Args:
            cut: from text to pieces with blanks between them.
            join: the other way.
            moses: fairseq's Moses tokenizer, which comes first, and last on the way
                back.
        """
        self._cut, self._join, self._moses = cut, join, moses

    def encode(self, text: str) -> list[str]:
        """Cut a text into pieces as they stand in ``dict.txt``; none for no text."""
        if self._moses:
            text = self._moses.encode(text)
        # As fairseq's dictionary does it, for which every white space ends a piece.
        pieces: list[str] = tokenize_line(self._cut(text))
        return pieces

    def decode(self, pieces: Sequence[str]) -> str:
        """Return the text of pieces."""
        text = self._join(" ".join(pieces))
        return self._moses.decode(text) if self._moses else text


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
    wanted = Namespace(tokenizer=tokenizer, source_lang=language, target_lang=language)
    moses = encoders.build_tokenizer(wanted)
    names = SENTENCEPIECE_FILES if bpe == SENTENCEPIECE else CODES_FILES
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise InputError(
            f"{folder} holds no {' and no '.join(names)}: --bpe {bpe} needs it"
        )
    if bpe == SENTENCEPIECE:
        wanted = Namespace(bpe=bpe, sentencepiece_model=str(path))
        try:
            pieces = encoders.build_bpe(wanted)
        except (RuntimeError, OSError) as error:
            raise InputError(f"{path} is not a sentencepiece model") from error
        return Segmenter(pieces.encode, pieces.decode, moses)
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
