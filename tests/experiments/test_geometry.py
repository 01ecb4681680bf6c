"""Measures of representations on matrices whose answer is known by hand."""

import math

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from fairseq_scl.errors import InputError
from fairseq_scl.experiments import geometry
from fairseq_scl.experiments.geometry import (
    MEASURES,
    alignment,
    class_mean_cosine,
    effective_rank,
    measures,
    normalized,
    singular_values,
    uniformity,
)
from fairseq_scl.experiments.probe import STRENGTHS, linear_probe

# Singular values 2√2 and √2: the columns are orthogonal and have mean 0.
CROSS = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
AXES = np.array([[1.0, 0.0], [0.0, 1.0]])


def draw(count, size=5, seed=0):
    return np.random.default_rng(seed).normal(size=(count, size))


def test_singular_values_are_of_the_centred_features():
    for shift in (0.0, 7.5):
        values = singular_values(CROSS + shift)
        assert values == pytest.approx([2 * math.sqrt(2), math.sqrt(2)])
    assert len(singular_values(draw(4, 9))) == 3  # centring takes one away
    assert (singular_values(draw(4, 9)) > 1e-9).all()


def test_means_of_singular_values_are_0_where_one_is():
    found = measures(CROSS + 7.5, list("aabb"))
    assert found["geometric_mean"] == pytest.approx(2)
    assert found["harmonic_mean"] == pytest.approx(4 * math.sqrt(2) / 3)
    line = np.array([[1.0, 0.0], [2.0, 0.0], [4.0, 0.0]])
    found = measures(line, list("aab"))
    assert found["geometric_mean"] == pytest.approx(0, abs=1e-6)
    assert found["harmonic_mean"] == pytest.approx(0, abs=1e-6)


def test_effective_rank_counts_directions():
    assert effective_rank(np.array([5.0, 5.0, 5.0])) == pytest.approx(3)
    assert effective_rank(np.array([5.0, 0.0, 0.0])) == pytest.approx(1)
    # Shares 2/3 and 1/3: exp of their entropy is 3 / 2^(2/3).
    assert effective_rank(singular_values(CROSS)) == pytest.approx(3 / 2 ** (2 / 3))


def test_alignment_is_the_mean_over_pairs_of_one_label():
    rows = np.concatenate([AXES, AXES[:1], AXES[:1]])
    assert alignment(rows, list("aabb")) == pytest.approx(1)  # pairs of 2 and of 0
    unit, labels = normalized(draw(30)), [("a", "b", "c")[i % 3] for i in range(30)]
    pairs = [
        ((unit[i] - unit[j]) ** 2).sum()
        for i in range(30)
        for j in range(i)
        if labels[i] == labels[j]
    ]
    assert alignment(unit, labels) == pytest.approx(np.mean(pairs))


def test_uniformity_is_0_where_all_are_alike_and_minus_8_at_opposite_poles(monkeypatch):
    assert uniformity(np.ones((4, 1))) == pytest.approx(0)
    assert uniformity(np.array([[1.0], [-1.0]])) == pytest.approx(-8)
    monkeypatch.setattr(geometry, "ROWS_AT_ONCE", 7)
    unit = normalized(draw(30))
    kernel = [
        math.exp(-2 * ((unit[i] - unit[j]) ** 2).sum())
        for i in range(30)
        for j in range(i)
    ]
    assert uniformity(unit) == pytest.approx(math.log(np.mean(kernel)))


def test_silhouette_is_that_of_cosine_distances():
    labels = [("a", "b", "c")[i % 3] for i in range(39)] + ["d"]
    distance = 1 - normalized(draw(40)) @ normalized(draw(40)).T
    np.fill_diagonal(distance, 0)
    expected = silhouette_score(distance, labels, metric="precomputed")
    assert measures(draw(40), labels)["silhouette"] == pytest.approx(expected)


def test_class_means_point_apart_or_together():
    rows = np.repeat(AXES, 2, axis=0)
    assert class_mean_cosine(rows, list("aabb")) == pytest.approx(0)
    rows = np.array([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert class_mean_cosine(rows, list("aab")) == pytest.approx(-1)
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])  # cosines 0, 0 and -1
    assert class_mean_cosine(rows, list("abc")) == pytest.approx(-1 / 3)


def test_all_measures_do_not_mind_order_and_top_is_lowered():
    features, labels = draw(30), ["a", "b"] * 15
    found = measures(features, labels, top=99)
    assert set(found) == set(MEASURES)
    order = np.random.default_rng(1).permutation(30)
    shuffled = measures(features[order], [labels[i] for i in order], top=5)
    assert shuffled == pytest.approx(found)
    assert measures(features, labels, top=1)["geometric_mean"] == pytest.approx(
        singular_values(features)[0]
    )


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (draw(4), "aaaa", "4 examples of 1 classes: measuring representations"),
        (draw(2), "ab", "2 examples of 2 classes"),
        (np.full((4, 2), np.nan), "aabb", "features that are NaN"),
        (np.ones((4, 2)), "aabb", "features that are zero or all equal"),
        (np.diag([1.0, 1.0, 1.0, 0.0]), "aabb", "features that are zero or all equal"),
    ],
)
def test_what_cannot_be_measured_is_refused(features, labels, message):
    with pytest.raises(InputError, match=message):
        measures(features, list(labels))


def square(count, seed):
    """Return points of a square and, of each, whether x > 0 and whether x·y > 0."""
    points = np.random.default_rng(seed).uniform(-1, 1, size=(count, 2))
    return points, [str(x > 0) for x, _ in points], [str(x * y > 0) for x, y in points]


def test_a_linear_probe_finds_only_linear_structure():
    drawn = {s: square(400, i) for i, s in enumerate(("train", "valid", "test"))}
    features = {split: points for split, (points, _, _) in drawn.items()}
    line = linear_probe(features, {s: labels for s, (_, labels, _) in drawn.items()})
    assert line.accuracy > 97
    assert (line.valid_total, line.test_total) == (400, 400)
    assert line.strength in STRENGTHS
    corners = linear_probe(features, {s: labels for s, (_, _, labels) in drawn.items()})
    assert corners.accuracy < 65
    assert corners == linear_probe(
        {s: 1000 * points + 3 for s, points in features.items()},
        {s: labels for s, (_, _, labels) in drawn.items()},
    )


def test_a_probe_needs_two_classes():
    features = dict.fromkeys(("train", "valid", "test"), draw(4))
    with pytest.raises(InputError, match="needs training examples of two classes"):
        linear_probe(features, {split: list("aaaa") for split in features})
