"""Stratified splits and few-shot samples, section 4.1."""

from collections import Counter
from fractions import Fraction

import hypothesis.strategies as st
import pytest
from hypothesis import assume, given

from fairseq_scl.data.splits import stratified_sample, stratified_split
from fairseq_scl.errors import InputError
from helpers.refusals import refused

CLASSES = "abcde"


def skewed(*counts):
    """Return labels with these counts of each class, interleaved."""
    labels = [
        c for c, count in zip(CLASSES, counts, strict=False) for _ in range(count)
    ]
    return labels[::2] + labels[1::2]


def largest_remainder(counts, size):
    """Split ``size`` over classes one seat at a time, in exact fractions."""
    total = sum(counts.values())
    exact = {c: Fraction(size * n, total) for c, n in counts.items()}
    shares = {c: int(quota) for c, quota in exact.items()}
    remainders = {c: exact[c] - shares[c] for c in exact}
    while sum(shares.values()) < size:
        first = min(remainders, key=lambda c: (-remainders[c], c))
        shares[first] += 1
        remainders[first] = Fraction(-1)
    return shares


@st.composite
def labels_and_size(draw):
    counts = draw(st.lists(st.integers(1, 40), min_size=2, max_size=5))
    labels = draw(st.permutations(skewed(*counts)))
    return labels, draw(st.integers(1, len(labels)))


@given(labels_and_size(), st.integers(0, 2**32 - 1))
def test_sample_has_the_shares_of_the_slow_oracle(case, seed):
    labels, size = case
    shares = largest_remainder(Counter(labels), size)
    assume(min(shares.values()) > 0)
    drawn = stratified_sample(labels, size, seed)
    assert len(drawn) == len(set(drawn)) == size
    assert drawn == sorted(drawn)
    assert Counter(labels[i] for i in drawn) == shares
    for label, count in Counter(labels).items():
        assert abs(shares[label] - size * count / len(labels)) < 1


def test_equal_remainders_go_to_the_class_that_sorts_first():
    """Shares of 4/3, 4/3 and 10/3: the remainders are equal, but not as floats."""
    labels = skewed(2, 2, 5)
    drawn = stratified_sample(labels, 6, 0)
    assert Counter(labels[i] for i in drawn) == {"a": 2, "b": 1, "c": 3}


@given(labels_and_size(), st.integers(1, 4), st.integers(0, 99))
def test_several_samples_are_disjoint_and_of_exact_size(case, parts, seed):
    labels, size = case
    sizes = [max(1, size // parts)] * parts
    assume(sum(sizes) <= len(labels))
    try:
        samples = stratified_split(labels, sizes, seed)
    except InputError as error:
        assert "has none of the class" in str(error)  # noqa: PT017
        return
    assert [len(sample) for sample in samples] == sizes
    together = [i for sample in samples for i in sample]
    assert len(together) == len(set(together))
    assert set(together) <= set(range(len(labels)))


def test_the_first_of_several_samples_is_the_single_one():
    labels = skewed(30, 20)
    assert stratified_split(labels, [10, 20], 4)[0] == stratified_sample(labels, 10, 4)


def test_same_seed_same_sample_and_other_seed_another():
    labels = skewed(50, 50)
    draws = [stratified_sample(labels, 20, seed) for seed in range(10)]
    assert draws == [stratified_sample(labels, 20, seed) for seed in range(10)]
    assert len({tuple(draw) for draw in draws}) == 10


def test_a_known_draw_stays_as_it_is():
    """A change of this list changes every published sample."""
    known = [2, 4, 5, 7, 8, 9, 11, 13, 15, 19]
    assert stratified_sample(skewed(12, 8), 10, 0) == known


def test_drawing_is_uniform_within_a_class():
    labels = skewed(6, 6)
    drawn = Counter(
        i for seed in range(600) for i in stratified_sample(labels, 4, seed)
    )
    # Each is drawn with probability 1/3: 200 times, standard deviation 11.5.
    assert all(150 < drawn[i] < 250 for i in range(12))


@pytest.mark.parametrize(
    ("counts", "sizes"),
    [((428, 444), (436, 436)), ((146, 131), (139, 138))],
    ids=["SST-2", "RTE"],
)
def test_halves_of_the_papers_validation_sets(counts, sizes):
    labels = skewed(*counts)
    test, valid = stratified_split(labels, sizes, 0)
    assert (len(test), len(valid)) == sizes
    assert sorted(test + valid) == list(range(sum(counts)))
    for half in (test, valid):
        for label, count in Counter(labels[i] for i in half).items():
            assert abs(count - counts[CLASSES.index(label)] / 2) <= 1


@pytest.mark.parametrize(
    ("counts", "sizes", "words"),
    [
        ((3, 4), [5, 3], "samples of 5 + 3 examples were asked for, but there are on"),
        ((3, 4), [0], "a sample of 0 examples: the size must be at least 1"),
        ((3, 4), [-1], "a sample of -1 examples: the size must be at least 1"),
        ((99, 1), [10], "10 examples has none of the class 'b' (1 of 100)"),
    ],
)
def test_impossible_samples_are_refused(counts, sizes, words):
    with refused(words):
        stratified_split(skewed(*counts), sizes, 0)
