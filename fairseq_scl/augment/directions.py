"""From the names of models, as a user gives them, to what translates one way."""

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
    """Models of one direction that are found, not yet loaded.

    Attributes:
        checkpoints: their files.
        source: source language.
        target: target language.
        tokenizer: what cuts words before BPE, if anything does.
        bpe: what cuts them into pieces.
    """

    checkpoints: list[Path]
    source: str
    target: str
    tokenizer: str | None
    bpe: str

    def describe(self) -> dict[str, object]:
        """Tell which they are, wherever they are."""
        return {
            "languages": [self.source, self.target],
            "tokenizer": self.tokenizer,
            "bpe": self.bpe,
            "sha256": [sha256(path) for path in self.checkpoints],
        }

    def load(self, device: str = "cpu", precision: str = "fp32") -> Direction:
        """Load them.

        Args:
            device: a PyTorch device.
            precision: one of ``fairseq_scl.device.PRECISIONS``.

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
        names: checkpoints or folders with colons between them, or names of pre-trained
            models.
        source: source language.
        target: target language.
        tokenizer: ``moses`` or ``None``; pre-trained models bring theirs.
        bpe: by default what the files beside the first checkpoint tell.
        archives: where the archives of pre-trained models are; not downloaded then.

    Raises:
        InputError: there are no such models, or nothing tells their BPE.
    """
    places = []
    for name in names.split(":"):
        if name in pretrained.NAMES:
            shown = sys.stderr.isatty()
            places.append(
                pretrained.resolve(name, source, target, None, archives, shown)
            )
            tokenizer = pretrained.TOKENIZER
        else:
            places.append(Path(name))
    checkpoints = checkpoints_of(places)
    folder = checkpoints[0].parent
    bpe = bpe or guess_bpe(folder)
    if bpe is None:
        raise InputError(
            f"{folder} has no BPE codes that are known by their name: say with --bpe "
            f"which they are ({', '.join(BPES)})"
        )
    return Models(checkpoints, source, target, tokenizer, bpe)
