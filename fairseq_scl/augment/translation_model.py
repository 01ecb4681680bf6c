"""Export the folder of a translation model from a training run, and measure BLEU."""

import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sacrebleu
import torch
from fairseq.models.transformer import TransformerModel
from torch import Tensor

from fairseq_scl.augment.parallel_text import read_pairs
from fairseq_scl.augment.segment import guess_bpe
from fairseq_scl.compat.checkpoints import check_finite, load_checkpoint
from fairseq_scl.data.files import files_in, write_json, write_then_rename
from fairseq_scl.data.folders import TRANSLATION, folder_then_rename
from fairseq_scl.errors import InputError

# Settings needed to translate; the others describe the training.
SECTIONS = ("bpe", "common", "dataset", "generation", "model", "task", "tokenizer")
CHECKPOINT = ("cfg", "model", "optimizer_history", "extra_state")
BLEU = "bleu.json"
INTERVAL = re.compile(r"checkpoint_\d+_(\d+)\.pt")


@dataclass(frozen=True)
class BleuTest:
    """A test set for BLEU, see ``read_pairs``, and the settings of the beam search."""

    corpus: Path
    name: str
    languages: tuple[str, str]
    tokenizer: str | None = None
    beam: int = 5


def export_translation(
    checkpoints: Path,
    last: int,
    data: Path,
    pieces: Path,
    folder: Path,
    test: BleuTest | None = None,
) -> list[str]:
    """Average the last checkpoints of a run and write a translation model folder.

    Args:
        checkpoints: a checkpoint, or the ``--save-dir`` of a run with
            ``--save-interval-updates`` and ``--keep-interval-updates``.
        last: number of checkpoints to average, the latest by updates; all if there are
            fewer, or ``checkpoint_last.pt`` if the run was too short for any.
        data: output of fairseq-preprocess, with ``dict.LANGUAGE.txt``.
        pieces: the SentencePiece model or the BPE codes, copied under the same name.
        folder: where to write ``model.pt``, the dictionaries, the pieces and, with a
            test set, ``test.LANGUAGE`` (the translations) and ``bleu.json``. Replaced
            if it was written by this function.
        test: a test set to measure BLEU on.

    Returns:
        the names of the averaged checkpoints.

    Raises:
        InputError: a checkpoint or dictionary is missing, or a file cannot be read.
    """
    chosen = _choose(checkpoints, last)
    dictionaries = files_in(data, "dict.*.txt")
    if not dictionaries:
        raise InputError(f"{data} lacks dict.LANGUAGE.txt")
    state = average(chosen)
    inputs = [checkpoints, data, pieces]
    with folder_then_rename(folder, TRANSLATION, inputs) as new:
        for path in (*dictionaries, pieces):
            shutil.copyfile(path, new / path.name)
        with write_then_rename(new / "model.pt", "wb") as file:
            torch.save(state, file)
        if test is not None:
            _measure_bleu(new, test, pieces)
    return [path.name for path in chosen]


def _choose(checkpoints: Path, last: int) -> list[Path]:
    if not checkpoints.is_dir():
        return [checkpoints]
    updates = {
        path: int(match[1])
        for path in files_in(checkpoints, "checkpoint_*.pt")
        if (match := INTERVAL.fullmatch(path.name))
    }
    by_updates = sorted(updates, key=lambda path: updates[path])
    return by_updates[-last:] or [checkpoints / "checkpoint_last.pt"]


def average(paths: Sequence[Path]) -> dict[str, Any]:
    """Return a checkpoint with averaged weights and without optimizer state.

    The mean is computed in float64 and stored in float32. Averaging the last
    checkpoints follows Vaswani et al. (2017), section 6.1.

    Args:
        paths: checkpoints of one run, in order; settings are taken from the last one.

    Raises:
        InputError: a checkpoint cannot be read, or its weights differ in name or shape.
    """
    total: dict[str, Tensor] = {}
    for path in paths:
        state = load_checkpoint(path)
        missing = [key for key in CHECKPOINT if not state.get(key)]
        if missing:
            raise InputError(
                f"{path} is not a training checkpoint: it lacks {missing[0]!r}"
            )
        weights = {name: w.double() for name, w in state["model"].items()}
        check_finite(weights, path)
        if total and {n: w.shape for n, w in total.items()} != {
            n: w.shape for n, w in weights.items()
        }:
            raise InputError(f"{path} and {paths[0]} have different weights")
        total = {n: total[n] + w if total else w for n, w in weights.items()}
    config = {name: state["cfg"][name] for name in SECTIONS}
    config["task"] = {**config["task"], "data": "."}
    return {
        "args": None,
        "cfg": {**config, "criterion": None},
        "model": {name: (w / len(paths)).float() for name, w in total.items()},
        "optimizer_history": state["optimizer_history"][-1:],
        "last_optimizer_state": None,
        "extra_state": {"train_iterator": state["extra_state"]["train_iterator"]},
    }


def _measure_bleu(folder: Path, test: BleuTest, pieces: Path) -> None:
    """Translate a test set with fairseq's beam search; sacreBLEU (Post, 2018)."""
    pairs = read_pairs(test.corpus, test.name, test.languages)
    sources, references = map(list, zip(*pairs, strict=True))
    bpe = guess_bpe(folder)
    if bpe is None:
        raise InputError(f"{pieces} has neither BPE codes nor a SentencePiece model")
    # fairseq would look for a path that starts with "." inside the model's folder.
    place = str(folder.resolve())
    model = TransformerModel.from_pretrained(
        place,
        "model.pt",
        place,
        source_lang=test.languages[0],
        target_lang=test.languages[1],
        tokenizer=test.tokenizer,
        bpe=bpe,
        sentencepiece_model=str(folder / pieces.name),
    )
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    start = time.monotonic()
    with torch.inference_mode():
        translations = model.translate(sources, beam=test.beam)
    bleu = sacrebleu.BLEU()
    score = bleu.corpus_score(translations, [references])
    result = {
        "bleu": score.score,
        "text": score.format(signature=str(bleu.get_signature())),
        "signature": str(bleu.get_signature()),
        "sentences": len(sources),
        "beam": test.beam,
        "seconds": round(time.monotonic() - start, 1),
    }
    with write_then_rename(folder / f"test.{test.languages[1]}") as file:
        file.writelines(f"{line}\n" for line in translations)
    write_json(folder / BLEU, result)
