"""Checks of data and encoder folders before any run starts."""

from collections.abc import Sequence

from fairseq_scl.data.binarize import LABEL_MAP, read_labels
from fairseq_scl.data.files import sha256
from fairseq_scl.data.folders import MANIFEST, verify
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.architecture import longest_input
from fairseq_scl.experiments.command import Run


def check_folders(runs: Sequence[Run]) -> list[str]:
    """Check all folders up front, so that runs do not fail later one by one.

    Returns:
        a note for each encoder that reads less than the default ``max_positions``.

    Raises:
        InputError: a data folder is missing or does not match the encoder's dictionary
            or the model's labels, a file differs from its folder's manifest, or
            ``max_positions`` is more than an encoder has.
    """
    for one in sorted({one for run in runs for one in (run.data, run.encoder)}):
        verify(one)
    found = {
        (run.data, run.encoder, run.head_pooling, run.max_positions) for run in runs
    }
    notes = {}
    for folder, encoder, pooling, positions in sorted(found):
        if not (folder / MANIFEST).is_file():
            raise InputError(
                f"there is no data folder {folder}: create it with 'fairseq-scl "
                "prepare' (see scripts/prepare_glue.sh), or skip its runs with --only"
            )
        for split in ("train", "valid", "test"):
            if not (folder / "label" / f"{split}.idx").is_file():
                raise InputError(f"{folder} has no {split} split")
        longest = longest_input(encoder, pooling)
        if longest < positions == Run.max_positions:
            notes[encoder] = (
                f"max_positions is lowered from {positions} to {longest}, the longest "
                f"input of {encoder}"
            )
        elif longest < positions:
            raise InputError(
                f"max_positions is {positions}: it must be at most {longest}, the "
                f"longest input of {encoder}"
            )
        ours = folder / "input0" / "dict.txt"
        theirs = [encoder / "dict.txt", encoder / "input0" / "dict.txt"]
        if any(t.is_file() and sha256(ours) != sha256(t) for t in theirs):
            raise InputError(
                f"{folder} was prepared with a different vocabulary from that of "
                f"{encoder}: prepare it again with --encoder {encoder}"
            )
        if (encoder / LABEL_MAP).is_file():  # a model folder; training keeps its head
            names, others = read_labels(folder), read_labels(encoder)
            if names != others:
                raise InputError(
                    f"{folder} has the labels {', '.join(names)}, but the model "
                    f"{encoder} has {', '.join(others)}: export the model again with "
                    "--encoder-only"
                )
    return list(notes.values())
