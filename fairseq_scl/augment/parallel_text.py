"""A parallel corpus in pieces: what ``fairseq-preprocess`` takes, by sentencepiece."""

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


def make_pieces(
    corpus: Path,
    splits: Mapping[str, str],
    languages: tuple[str, str],
    pieces: int,
    folder: Path,
) -> dict[str, int]:
    """Learn one vocabulary of both languages and cut every split into its pieces.

    The vocabulary is sentencepiece's BPE, as of Kudo and Richardson (2018), learnt from
    the training split alone. Pairs with an empty side are left out of ``train``, and of
    no other split.

    Args:
        corpus: holds ``NAME.LANGUAGE``, or ``NAME.LANGUAGE.gz``, one sentence a line.
        splits: the name in ``corpus`` of each split; ``train`` must be among them.
        languages: source and target, as the files spell them.
        pieces: size of the vocabulary.
        folder: gets ``SPLIT.LANGUAGE`` and ``spm.model``; complete when it exists.

    Returns:
        how many pairs each split has.

    Raises:
        InputError: a file is missing, is not UTF-8, its lines are not as many as those
            of the other language, or the text is too little for the vocabulary.
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
    """Read one split of a parallel corpus.

    Args:
        corpus: the folder.
        name: of the split; the files are ``NAME.LANGUAGE`` with or without ``.gz``.
        languages: source and target.

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
            f"{paths[0]} has {len(source)} lines and {paths[1]} has {len(target)}: "
            "line by line they must be translations"
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


def clean(
    corpus: Path,
    languages: tuple[str, str],
    folder: Path,
    longest: int = 250,
    ratio: float = 1.5,
    valid_every: int = 100,
) -> dict[str, int]:
    """Leave out pairs that can hardly be translations, and set some aside.

    What Moses' ``clean-corpus-n`` does, with the limits that fairseq's examples give
    it: each side has 1 to ``longest`` pieces, neither ``ratio`` times the other.

    Args:
        corpus: holds ``train.LANGUAGE``, pieces with blanks between them.
        languages: source and target.
        folder: gets ``train.LANGUAGE`` and ``valid.LANGUAGE``.
        longest: see above.
        ratio: see above.
        valid_every: each pair with a number that this divides goes to ``valid``.

    Returns:
        how many pairs each split has, and how many were left out.

    Raises:
        InputError: a file is missing, or has more lines than the other.
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
                raise InputError(f"{paths[0]} and {paths[1]} differ in their lines")
            sizes = [len(side.split()) for side in pair]
            split = VALID if number % valid_every == 0 else TRAIN
            if not 1 <= min(sizes) <= max(sizes) <= min(longest, ratio * min(sizes)):
                split = "left out"
            counts[split] += 1
            for file, side in zip(files.get(split, ()), pair, strict=False):
                file.write(side.rstrip(b"\r\n") + b"\n")
    return counts
