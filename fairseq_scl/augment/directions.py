"""Find and load the translation models of one direction."""

import sys
from dataclasses import dataclass
from pathlib import Path

from fairseq_scl.augment import pretrained
from fairseq_scl.augment.segment import BPES, guess_bpe, load_segmenter
from fairseq_scl.augment.sentences import Direction
from fairseq_scl.augment.translator import checkpoints_of, load_translator
from fairseq_scl.data.files import sha256
from fairseq_scl.errors import InputError


@dataclass(frozen=True)
class Models:
    """Models of one direction that were found but not loaded yet."""

    checkpoints: list[Path]
    source: str
    target: str
    tokenizer: str | None
    bpe: str

    def describe(self) -> dict[str, object]:
        """Identify the models independent of their paths."""
        return {
            "languages": [self.source, self.target],
            "tokenizer": self.tokenizer,
            "bpe": self.bpe,
            "sha256": [sha256(path) for path in self.checkpoints],
        }

    def load(self, device: str = "cpu", precision: str = "fp32") -> Direction:
        """Load the models.

        Raises:
            InputError: see ``load_translator`` and ``load_segmenter``.
        """
        languages = (self.source, self.target)
        translator = load_translator(self.checkpoints, *languages, device, precision)
        source, target = (
            load_segmenter(self.tokenizer, self.bpe, language, translator.folder)
            for language in languages
        )
        return Direction(translator, source, target)


def find_models(
    names: str,
    source: str,
    target: str,
    tokenizer: str | None = None,
    bpe: str | None = None,
    archives: Path | None = None,
) -> Models:
    """Find the models of one direction.

    Args:
        names: checkpoints, folders or names of pre-trained models, separated by colons.
        source: source language.
        target: target language.
        tokenizer: ``moses`` or ``None``; pre-trained models set their own.
        bpe: by default determined from the files next to the first checkpoint.
        archives: folder with the archives of pre-trained models, instead of downloads.

    Raises:
        InputError: the models do not exist, or their BPE cannot be determined.
    """
    places = []
    for name in names.split(":"):
        if name in pretrained.NAMES:
            pair, shown = (source, target), sys.stderr.isatty()
            places.append(pretrained.resolve(name, *pair, None, archives, shown))
            tokenizer = pretrained.TOKENIZER
        else:
            places.append(Path(name))
    checkpoints = checkpoints_of(places)
    folder = checkpoints[0].parent
    bpe = bpe or guess_bpe(folder, source)
    if bpe is None:
        raise InputError(
            f"{folder} has no BPE codes under a known name: set --bpe to one of "
            f"{', '.join(BPES)}"
        )
    return Models(checkpoints, source, target, tokenizer, bpe)
