"""From a training run to the folder that fairseq publishes, and its BLEU."""

import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sacrebleu
import torch
from fairseq.models.transformer import TransformerModel
from torch import Tensor

from fairseq_scl.augment.parallel_text import read_lines
from fairseq_scl.augment.segment import guess_bpe, load_segmenter
from fairseq_scl.compat.checkpoints import check_finite, load_checkpoint
from fairseq_scl.data.files import write_json, write_then_rename
from fairseq_scl.data.folders import TRANSLATION, folder_then_rename
from fairseq_scl.errors import InputError

# What is needed to translate; the rest says where and how the model was trained.
SECTIONS = ("bpe", "common", "dataset", "generation", "model", "task", "tokenizer")
CHECKPOINT = ("cfg", "model", "optimizer_history", "extra_state")
INTERVAL = re.compile(r"checkpoint_\d+_(\d+)\.pt")


def publish(
    checkpoints: Path,
    last: int,
    data: Path,
    pieces: Path,
    folder: Path,
    measure: Callable[[Path], object] = lambda folder: None,
) -> list[str]:
    """Average the last checkpoints of a run and write the folder to translate with.

    Args:
        checkpoints: a checkpoint, or ``--save-dir`` of a fairseq-train that was given
            ``--save-interval-updates`` and ``--keep-interval-updates``.
        last: how many checkpoints of the folder, by updates; all if there are fewer.
            Where a run was too short for any, its ``checkpoint_last.pt``.
        data: what fairseq-preprocess wrote, with ``dict.LANGUAGE.txt``.
        pieces: the sentencepiece model or the BPE codes, which keep their name.
        folder: gets ``model.pt``, the dictionaries and the pieces; replaced if it was
            written by this function.
        measure: called with the folder while it still has a temporary name.

    Returns:
        the names of the checkpoints.

    Raises:
        InputError: there is no checkpoint or dictionary, or one cannot be read.
    """
    chosen = _choose(checkpoints, last)
    dictionaries = sorted(data.glob("dict.*.txt"))
    if not dictionaries:
        raise InputError(f"{data} holds no dict.LANGUAGE.txt")
    state = average(chosen)
    inputs = [checkpoints, data, pieces]
    with folder_then_rename(folder, TRANSLATION, inputs) as new:
        for path in (*dictionaries, pieces):
            shutil.copyfile(path, new / path.name)
        with write_then_rename(new / "model.pt", "wb") as file:
            torch.save(state, file)
        measure(new)
    return [path.name for path in chosen]


def _choose(checkpoints: Path, last: int) -> list[Path]:
    if not checkpoints.is_dir():
        return [checkpoints]
    updates = {
        path: int(match[1])
        for path in checkpoints.glob("checkpoint_*.pt")
        if (match := INTERVAL.fullmatch(path.name))
    }
    by_updates = sorted(updates, key=lambda path: updates[path])
    return by_updates[-last:] or [checkpoints / "checkpoint_last.pt"]


def average(paths: Sequence[Path]) -> dict[str, Any]:
    """Return one checkpoint without optimizer state, of the mean of the weights.

    Means are taken in double precision and kept in single. Vaswani et al. (2017),
    section 6.1, average the last checkpoints so.

    Args:
        paths: checkpoints of one run, in order; settings are those of the last one.

    Raises:
        InputError: a checkpoint cannot be read, or has other weights than the others.
    """
    total: dict[str, Tensor] = {}
    for path in paths:
        state = load_checkpoint(path)
        missing = [key for key in CHECKPOINT if not state.get(key)]
        if missing:
            raise InputError(f"{path} is not a training checkpoint: no {missing[0]!r}")
        weights = {name: w.double() for name, w in state["model"].items()}
        check_finite(weights, path)
        if total and {n: w.shape for n, w in total.items()} != {
            n: w.shape for n, w in weights.items()
        }:
            raise InputError(f"{path} has not the weights of {paths[0]}")
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


def measure_bleu(
    folder: Path,
    languages: tuple[str, str],
    test: tuple[Path, Path],
    tokenizer: str | None,
    beam: int,
) -> dict[str, Any]:
    """Translate a test set with beam search and compare it with its reference.

    Goes through fairseq's own generator and sacreBLEU (Post, 2018) on plain text.

    Args:
        folder: as :func:`publish` writes it; gets ``test.LANGUAGE``, the translations,
            and ``bleu.json``.
        languages: source and target.
        test: sentences and their translations, one a line, gzip or not.
        tokenizer: ``moses``, or ``None`` for text as it is.
        beam: size of the beam.

    Returns:
        what is in the JSON: score, signature, sentences, beam and seconds.

    Raises:
        InputError: a file is missing, or the two of the test set differ in length.
    """
    sources, references = (read_lines(path) for path in test)
    if len(sources) != len(references):
        raise InputError(
            f"{test[0]} has {len(sources)} lines and {test[1]} has {len(references)}"
        )
    start = time.monotonic()
    translations = _translate(folder, languages, sources, tokenizer, beam)
    seconds = time.monotonic() - start
    bleu = sacrebleu.BLEU()
    score = bleu.corpus_score(translations, [references])
    result = {
        "bleu": score.score,
        "text": score.format(signature=str(bleu.get_signature())),
        "signature": str(bleu.get_signature()),
        "sentences": len(sources),
        "beam": beam,
        "seconds": round(seconds, 1),
    }
    with write_then_rename(folder / f"test.{languages[1]}") as file:
        file.writelines(f"{line}\n" for line in translations)
    write_json(folder / "bleu.json", result)
    return result


def _translate(
    folder: Path,
    languages: tuple[str, str],
    sources: Sequence[str],
    tokenizer: str | None,
    beam: int,
) -> list[str]:
    bpe = guess_bpe(folder)
    if bpe is None:
        raise InputError(f"{folder} holds no codes and no sentencepiece model")
    before, after = (load_segmenter(tokenizer, bpe, x, folder) for x in languages)
    # fairseq takes what starts with "." for a folder inside the model's.
    place = str(folder.resolve())
    source, target = languages
    model = TransformerModel.from_pretrained(
        place, "model.pt", place, source_lang=source, target_lang=target
    )
    rows = [model.binarize(" ".join(before.encode(text))) for text in sources]
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    with torch.inference_mode():
        best = [hypotheses[0] for hypotheses in model.generate(rows, beam=beam)]
    return [after.decode(model.string(row["tokens"]).split()) for row in best]
