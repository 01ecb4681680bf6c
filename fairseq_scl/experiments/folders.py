"""Checks of the folders that runs start from, before any of them starts."""

from collections.abc import Sequence

from fairseq_scl.data.binarise import LABEL_MAP, read_labels
from fairseq_scl.data.files import sha256
from fairseq_scl.data.folders import MANIFEST, verify
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.architecture import architecture_flags
from fairseq_scl.experiments.command import Run


def check_folders(runs: Sequence[Run]) -> None:
    """Refuse what would only fail later, in each of many runs.

    Raises:
        InputError: data that is not there or has another dictionary than the encoder;
            a folder with a file that its manifest does not list so.
    """
    pairs = sorted({(run.data, run.encoder) for run in runs})
    for one in sorted({one for pair in pairs for one in pair}):
        verify(one)
    for folder, encoder in pairs:
        if not (folder / MANIFEST).is_file():
            raise InputError(
                f"there is no data folder {folder}: 'fairseq-scl prepare' makes it "
                "(see scripts/prepare_glue.sh), or leave its runs out with --only"
            )
        for split in ("train", "valid", "test"):
            if not (folder / "label" / f"{split}.idx").is_file():
                raise InputError(f"{folder} has no {split} split")
        architecture_flags(encoder, 512)
        ours = folder / "input0" / "dict.txt"
        theirs = [encoder / "dict.txt", encoder / "input0" / "dict.txt"]
        if any(t.is_file() and sha256(ours) != sha256(t) for t in theirs):
            raise InputError(
                f"{folder} was prepared with another vocabulary than {encoder} has: "
                "prepare it anew with --encoder"
            )
        if (encoder / LABEL_MAP).is_file():  # a model folder, its head is trained on
            names, others = read_labels(folder), read_labels(encoder)
            if names != others:
                raise InputError(
                    f"{folder} has the labels {', '.join(names)}, the model {encoder} "
                    f"has {', '.join(others)}: use an export with --encoder-only"
                )
