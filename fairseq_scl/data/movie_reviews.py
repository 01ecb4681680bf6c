"""The quick start's sentences: rated movie reviews (Hutto & Gilbert, 2014)."""

import io
import tarfile
import zlib
from pathlib import Path

from fairseq_scl.data.packages import Package
from fairseq_scl.data.texts import Example, one_line
from fairseq_scl.errors import InputError

PACKAGE = Package(
    name="vaderSentiment",
    version="3.3.2",
    file="vaderSentiment-3.3.2.tar.gz",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    megabytes=2.5,
)
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
FILE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
NEUTRAL = 0.5


def read_movie_reviews(archive: str | Path) -> list[Example]:
    """Read the rated movie-review sentences from the source archive of ``PACKAGE``.

    Lines are ``id TAB mean rating from -4 to 4 TAB text`` in latin-1. Sentences with a
    rating between -0.5 and 0.5 are too close to neutral to label and are skipped.
    Repeated sentences are skipped too, since they could end up in two splits.

    Returns:
        10,070 examples labeled ``negative`` or ``positive`` by the sign of the rating.

    Raises:
        InputError: the archive is not the expected one.
    """
    try:
        with tarfile.open(archive) as outer:
            inner = outer.extractfile(INNER)
            with tarfile.open(fileobj=io.BytesIO(inner.read())) as tar:  # type: ignore[union-attr]
                content = tar.extractfile(FILE).read()  # type: ignore[union-attr]
    except (KeyError, tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise InputError(f"{archive} does not contain {INNER} with {FILE}") from error
    examples: dict[tuple[str, ...], Example] = {}
    for number, line in enumerate(content.decode("latin-1").split("\n"), start=1):
        if not line.strip():
            continue
        origin = f"{FILE}, line {number}"
        try:
            _, column, text = line.split("\t")
            rating = float(column)
        except ValueError:
            raise InputError(
                f"{archive}: {origin} is not id, rating and text separated by tabs"
            ) from None
        if abs(rating) >= NEUTRAL:
            label = "positive" if rating > 0 else "negative"
            example = Example((one_line(text),), label, origin)
            examples.setdefault(example.sentences, example)
    return list(examples.values())
