"""Prepare a parallel corpus for ``fairseq-preprocess`` with SentencePiece."""

import io
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path

import sentencepiece

from fairseq_scl.data.files import write_then_rename
from fairseq_scl.data.folders import TEXT, folder_then_rename
from fairseq_scl.data.texts import decoded_lines
from fairseq_scl.errors import InputError

MODEL = "spm.model"
TRAIN, VALID = "train", "valid"
LONGEST, RATIO = 250, 1.5
VALID_EVERY = 100


def make_pieces(
    corpus: Path,
    splits: Mapping[str, str],
    languages: tuple[str, str],
    pieces: int,
    folder: Path,
) -> dict[str, int]:
    """Learn a joint vocabulary of both languages and encode every split with it.

    The vocabulary is SentencePiece's BPE (Kudo and Richardson 2018), learned from the
    training split alone. Pairs with an empty side are dropped from ``train`` only.

    Args:
        corpus: a folder with ``NAME.LANGUAGE`` or ``NAME.LANGUAGE.gz``, one sentence
            per line.
        splits: the name of each split in ``corpus``; ``train`` is required.
        languages: source and target, as in the names of the files.
        pieces: size of the vocabulary.
        folder: where to write ``SPLIT.LANGUAGE`` and ``spm.model``; complete when it
            exists.

    Returns:
        the number of pairs in each split.

    Raises:
        InputError: a file is missing, is not UTF-8 or differs in length from the other
            language, or there is too little text for the vocabulary.
    """
    pairs = {s: read_pairs(corpus, name, languages) for s, name in splits.items()}
    pairs[TRAIN] = [p for p in pairs[TRAIN] if all(side.strip() for side in p)]
    learnt = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(side for pair in pairs[TRAIN] for side in pair),
            model_writer=learnt,
            model_type="bpe",
            vocab_size=pieces,
            character_coverage=1.0,
            minloglevel=2,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(
            f"sentencepiece cannot learn --pieces {pieces} from this text: {reason}"
        ) from error
    cutter = sentencepiece.SentencePieceProcessor(model_proto=learnt.getvalue())
    with folder_then_rename(folder, TEXT, [corpus]) as new:
        (new / MODEL).write_bytes(learnt.getvalue())
        for split, rows in pairs.items():
            for side, language in enumerate(languages):
                with write_then_rename(new / f"{split}.{language}") as file:
                    for row in rows:
                        cut = cutter.encode(row[side], out_type=str)
                        file.write(" ".join(cut) + "\n")
    return {split: len(rows) for split, rows in pairs.items()}


def read_pairs(
    corpus: Path, name: str, languages: tuple[str, str]
) -> list[tuple[str, str]]:
    """Read one split of a parallel corpus, ``NAME.LANGUAGE`` with or without ``.gz``.

    Raises:
        InputError: as :func:`make_pieces`.
    """
    paths = []
    for language in languages:
        plain, packed = (corpus / f"{name}.{language}{end}" for end in ("", ".gz"))
        if not plain.is_file() and not packed.is_file():
            raise InputError(f"missing file: {plain} (or {packed.name})")
        paths.append(plain if plain.is_file() else packed)
    source, target = (read_lines(path) for path in paths)
    if len(source) != len(target):
        raise InputError(
            f"{paths[0]} has {len(source)} lines, but {paths[1]} has {len(target)}: "
            "each line must be the translation of the same line in the other file"
        )
    return list(zip(source, target, strict=True))


def read_lines(path: Path) -> list[str]:
    r"""Read the lines of a text file, gzipped or not; only ``\n`` ends a line.

    Raises:
        InputError: the file is missing, empty, damaged, or not UTF-8.
    """
    try:
        return [line.removesuffix("\r") for _, line in decoded_lines(path)]
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def clean(corpus: Path, languages: tuple[str, str], folder: Path) -> dict[str, int]:
    """Drop pairs that are unlikely to be translations, and split off a validation set.

    Works like Moses' ``clean-corpus-n`` with the limits of fairseq's examples: each
    side has 1 to 250 pieces and at most 1.5 times as many as the other. Every 100th
    pair goes to the validation set.

    Args:
        corpus: a folder with ``train.LANGUAGE``, pieces separated by spaces.
        languages: source and target.
        folder: where to write ``train.LANGUAGE`` and ``valid.LANGUAGE``.

    Returns:
        the number of pairs in each split, and of dropped pairs.

    Raises:
        InputError: a file is missing, or the files differ in length.
    """
    paths = [corpus / f"{TRAIN}.{language}" for language in languages]
    for path in paths:
        if not path.is_file():
            raise InputError(f"missing file: {path}")
    counts = {TRAIN: 0, VALID: 0, "left out": 0}
    with folder_then_rename(folder, TEXT, paths) as new, ExitStack() as stack:
        texts = [stack.enter_context(path.open("rb")) for path in paths]
        files = {
            split: [
                stack.enter_context((new / f"{split}.{x}").open("wb"))
                for x in languages
            ]
            for split in (TRAIN, VALID)
        }
        for number, pair in enumerate(zip_longest(*texts), start=1):
            if None in pair:
                raise InputError(
                    f"{paths[0]} and {paths[1]} have different numbers of lines"
                )
            sizes = [len(side.split()) for side in pair]
            split = VALID if number % VALID_EVERY == 0 else TRAIN
            if not 1 <= min(sizes) <= max(sizes) <= min(LONGEST, RATIO * min(sizes)):
                split = "left out"
            counts[split] += 1
            for file, side in zip(files.get(split, ()), pair, strict=False):
                file.write(side.rstrip(b"\r\n") + b"\n")
    return counts
