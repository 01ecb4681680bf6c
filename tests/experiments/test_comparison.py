"""Pairs, intervals, pooled groups and degenerate runs, against their definitions."""

import itertools
import math
import random

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from fairseq_scl.experiments.comparison import compare, degenerate_runs
from fairseq_scl.experiments.records import Validation
from fairseq_scl.experiments.selection import Outcome
from fairseq_scl.experiments.statistics import (
    bootstrap_interval,
    paired_difference,
    pool,
    summary,
)

ACCURACIES = st.lists(st.floats(0, 100, allow_nan=False), min_size=1, max_size=5)


def run(seed, valid, test=50):
    return Outcome(
        seed, Validation(10, valid, 100, 0.5, 2), Validation(10, test, 100, 0.6, 2)
    )


def test_pairs_are_made_by_seed_and_the_rest_is_left_out():
    baseline = [run(s, 50, test) for s, test in ((0, 60), (1, 70), (2, 80), (5, 10))]
    treatment = [run(s, 50, test) for s, test in ((4, 99), (2, 79), (1, 74), (0, 60))]
    found = compare(baseline, treatment, level=0.9)
    assert (found.seeds, found.expected) == ((0, 1, 2), 10)
    assert (found.won, found.lost) == (1, 1)
    assert found.difference == paired_difference([60, 70, 80], [60, 74, 79], 0.9)
    assert found.bootstrap == bootstrap_interval([0, 4, -1], 0.9)
    rng = random.Random(0)
    for _ in range(5):
        assert found == compare(
            rng.sample(baseline, 4), rng.sample(treatment, 4), level=0.9
        )


def test_no_pair_gives_no_comparison_and_twins_are_refused():
    assert compare([run(0, 50)], [run(1, 50)]) is None
    assert compare([], []) is None
    with pytest.raises(ValueError, match="treatment: seed 1 occurs twice"):
        compare([run(1, 50)], [run(1, 50), run(1, 60)])


def test_degenerate_runs_are_at_or_under_the_majority_class():
    labels = {"no": 60, "yes": 40}
    found = degenerate_runs(
        [run(0, 60, 61), run(1, 61, 60), run(2, 61, 61), run(3, 10, 99)], labels, labels
    )
    assert [r.seed for r in found] == [0, 1, 3]


@pytest.mark.parametrize("subset", ["validation", "test"])
def test_label_counts_of_another_subset_are_refused(subset):
    counts = [{"a": 50, "b": 50}, {"a": 50, "b": 50}]
    counts[subset == "test"] = {"a": 60, "b": 30}
    message = f"{subset} accuracy is of 100 examples, the label counts are of 90"
    with pytest.raises(ValueError, match=message):
        degenerate_runs([run(0, 10, 10)], *counts)


@given(st.lists(ACCURACIES, min_size=1, max_size=5))
def test_pooled_groups_are_the_summary_of_all_their_values(groups):
    found = pool([summary(values) for values in groups])
    together = [value for values in groups for value in values]
    expected = summary(together)
    assert found.mean == pytest.approx(expected.mean, abs=1e-9)
    assert found.std == pytest.approx(expected.std, abs=1e-6, nan_ok=True)
    assert found.count == len(together)


@given(
    st.lists(st.integers(-20, 20), min_size=2, max_size=5), st.sampled_from([0.8, 0.95])
)
def test_bootstrap_has_the_quantiles_of_all_resamples(values, level):
    """Every one of the n^n resamples, to within the error of drawing 2,000 of them."""
    found = bootstrap_interval(values, level, resamples=2000)
    means = np.mean(list(itertools.product(values, repeat=len(values))), axis=1)
    tail, error = (1 - level) / 2, 0.035
    assert np.mean(means < found.low - 1e-9) <= tail + error
    assert np.mean(means <= found.low + 1e-9) >= tail - error
    assert np.mean(means > found.high + 1e-9) <= tail + error
    assert np.mean(means >= found.high - 1e-9) >= tail - error


def test_bootstrap_repeats_itself_and_ignores_order():
    values = [3.0, -1.0, 2.5, 0.0, 4.0, 1.7, 0.3, -2.9, 8.1, 1.1]
    found = bootstrap_interval(values)
    assert found == bootstrap_interval(values)
    assert found == bootstrap_interval(values[::-1])
    assert found != bootstrap_interval(values, seed=1)
    assert (found.level, found.resamples, found.seed) == (0.95, 9999, 0)


def test_bootstrap_of_three_values_is_their_range():
    """A resample of one value only has probability 1/27, more than 2.5%."""
    found = bootstrap_interval([1.0, 5.0, 2.0])
    assert (found.low, found.high) == (1, 5)


def test_bootstrap_needs_two_values():
    found = bootstrap_interval([1.0])
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="no groups"):
        pool([])
    assert bootstrap_interval([2.0, 2.0, 2.0]).low == 2
