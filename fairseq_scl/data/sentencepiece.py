"""SentencePiece models, the tokenizers of fairseq's XLM-R and CamemBERT."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
from sentencepiece import SentencePieceProcessor

from fairseq_scl.data.files import write_json, write_then_rename
from fairseq_scl.data.vocabulary_files import (
    SETTINGS,
    SentencePieceSettings,
    check_unicode,
)
from fairseq_scl.errors import InputError

MODEL_FILE = "sentencepiece.bpe.model"


class SentencePiece:
    """A SentencePiece model; its symbols are pieces, as for ``--bpe sentencepiece``."""

    kind = "sentencepiece"
    file_names: tuple[str, ...] = (MODEL_FILE, SETTINGS)

    def __init__(self, path: str | Path, settings: SentencePieceSettings) -> None:
        """Read a ``sentencepiece.bpe.model``.

        Raises:
            InputError: the file is missing, unreadable or not a SentencePiece model.
        """
        self.settings = settings
        self.pair_separator = settings.pair_separator
        try:
            self._model = Path(path).read_bytes()
            self._processor = SentencePieceProcessor(model_proto=self._model)
            size = self._processor.get_piece_size() if self._model else 0
            pieces = self._processor.id_to_piece([*range(size)])
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from None
        except (RuntimeError, UnicodeDecodeError):
            pieces = []
        if not pieces:
            raise InputError(f"{path} is not a SentencePiece model")
        self._pieces = [
            # fairseq looks up the unknown text itself, which could be "</s>".
            "<unk>" if self._processor.is_unknown(number) else piece
            for number, piece in enumerate(pieces)
        ]
        self.symbols = frozenset(self._pieces)

    def encode_lines(self, sentences: Sequence[str]) -> list[list[str]]:
        """Return the pieces of each sentence, ``<unk>`` for text without pieces.

        Raises:
            InputError: a text has an unpaired surrogate, which is not valid Unicode.
        """
        check_unicode(sentences)
        rows = self._processor.encode(list(sentences), out_type=int)
        return [[self._pieces[number] for number in row] for row in rows]

    def save(self, folder: str | Path) -> None:
        """Write ``sentencepiece.bpe.model`` and ``tokenizer_settings.json``."""
        with write_then_rename(Path(folder, MODEL_FILE), "wb") as file:
            file.write(self._model)
        write_json(Path(folder, SETTINGS), msgspec.to_builtins(self.settings))
