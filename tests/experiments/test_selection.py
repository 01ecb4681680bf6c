"""The paper's two selection rules, against slow readings of their sentences; pairs."""

import itertools
import math
import random

import hypothesis.strategies as st
import pytest
from hypothesis import given

from fairseq_scl.experiments.records import Record, Validation
from fairseq_scl.experiments.selection import (
    Outcome,
    compare,
    outcome,
    select_few_shot,
    select_full_data,
)
from fairseq_scl.experiments.statistics import paired_difference

LOSSES = (0.25, 0.5, 1.0)


def run(seed, valid, test=50, loss=0.5, total=100):
    return Outcome(
        seed, Validation(10, valid, total, loss, 2.0), Validation(10, test, 100, 0.6, 2)
    )


def runs(*valid, **settings):
    """Runs with seeds 0, 1, … and test accuracies 50, 51, …"""
    return [run(i, v, test=50 + i, **settings) for i, v in enumerate(valid)]


@st.composite
def sweeps(draw, most=6):
    """Few distinct counts and losses, so that ties of every kind are the rule."""
    keys = draw(st.sets(st.tuples(st.sampled_from((0.1, 0.9)), st.just(0.3))))
    keys |= {(0.5, tau) for tau in draw(st.sets(st.sampled_from((0.1, 0.7))))}
    one = st.builds(
        run,
        seed=st.integers(0, 20),
        valid=st.integers(0, 3),
        test=st.integers(0, 100),
        loss=st.sampled_from(LOSSES),
        total=st.just(3),
    )
    several = st.lists(one, max_size=most, unique_by=lambda r: r.seed)
    return {key: draw(several) for key in sorted(keys)}


def beats(a, b):
    """Whether run a goes before run b, all of the same number of examples."""
    if a.valid.correct != b.valid.correct:
        return a.valid.correct > b.valid.correct
    if a.valid.ce_loss != b.valid.ce_loss:
        return a.valid.ce_loss < b.valid.ce_loss
    return a.seed < b.seed


def best(outcomes, count):
    """Each run whom fewer than ``count`` others beat, the best first."""
    place = {a.seed: sum(beats(b, a) for b in outcomes) for a in outcomes}
    by_place = {place[a.seed]: a for a in outcomes}
    return [by_place[i] for i in range(count)]


def best_combination(sweep, scored, needed):
    """The combination no other beats; those with fewer runs do not compete."""
    most = max((len(outcomes) for outcomes in sweep.values()), default=0)
    scores = {}
    for key, outcomes in sweep.items():
        if len(outcomes) == most >= needed:
            top = best(outcomes, min(scored, most))
            correct, loss = 0, 0.0
            for a in top:
                correct += a.valid.correct
                loss += a.valid.ce_loss
            scores[key] = (correct, -loss)
    for key, score in scores.items():
        others = [(other, s) for other, s in scores.items() if other != key]
        if all(score > s or (score == s and key < other) for other, s in others):
            return key
    return None


@given(sweeps())
def test_few_shot_rule_is_the_papers_sentence(sweep):
    found = select_few_shot(sweep, expected=6)
    key = best_combination(sweep, scored=3, needed=3)
    if key is None:
        only = next(iter(sweep.values())) if len(sweep) == 1 else []
        assert len(found.chosen.runs if found.chosen else ()) == len(only)
        assert found.test is None
        return
    top = best(sweep[key], 3)
    accuracies = [a.test.correct for a in top]
    assert found.chosen.hyperparameters == key
    assert list(found.reported) == top
    assert found.test.mean == pytest.approx(sum(accuracies) / 3)
    mean = sum(accuracies) / 3
    std = math.sqrt(sum((a - mean) ** 2 for a in accuracies) / 2)
    assert found.test.std == pytest.approx(std, abs=1e-9)
    assert (found.test.count, found.test_of_all.count) == (3, len(sweep[key]))
    valid = sum(a.valid.correct for a in top) / 9
    assert found.chosen.valid_accuracy == pytest.approx(100 * valid)


@given(sweeps())
def test_full_data_rule_is_the_papers_sentence(sweep):
    found = select_full_data(sweep, expected=6)
    key = best_combination(sweep, scored=6, needed=1)
    if key is None:
        assert (found.chosen, found.test) == (None, None)
        return
    (top,) = best(sweep[key], 1)
    assert found.chosen.hyperparameters == key
    assert found.reported == (top,)
    assert (found.test.mean, found.test.count) == (top.test.correct, 1)
    assert math.isnan(found.test.std)
    every = [a.test.correct for a in sweep[key]]
    assert found.test_of_all.mean == pytest.approx(sum(every) / len(every))
    assert found.test_of_all.count == len(every)


@given(sweeps(), st.randoms(use_true_random=False))
def test_the_order_of_runs_changes_nothing(sweep, rng):
    shuffled = {key: rng.sample(sweep[key], len(sweep[key])) for key in sweep}
    for rule in (select_few_shot, select_full_data):
        assert rule(sweep, expected=6) == rule(shuffled, expected=6)


def test_a_record_counts_at_its_best_validation():
    valid = [Validation(u, c, 10, 0.5, 2.0) for u, c in ((10, 3), (20, 9), (30, 5))]
    test = [Validation(u, c, 10, 0.5, 2.0) for u, c in ((10, 10), (20, 4), (30, 8))]
    record = Record({"seed": 7}, valid, test, 0.0, [], {})
    assert outcome(record) == Outcome(7, valid[1], test[1])


def test_a_nan_loss_loses_ties_and_nothing_else():
    one = [run(0, 80, loss=math.nan), run(1, 80, loss=9.0), run(2, 81, loss=math.nan)]
    for order in itertools.permutations(one):
        ordered = select_full_data({(): order}, 3).chosen.runs
        assert [r.seed for r in ordered] == [2, 1, 0]


def test_equal_mean_accuracies_tie_despite_rounding():
    less, more = (330, 330, 335), (331, 332, 332)
    # Added one by one: sum() of Python 3.12 would make up for the rounding.
    means = [
        (100 * a / 500 + 100 * b / 500 + 100 * c / 500) / 3 for a, b, c in (less, more)
    ]
    assert sum(less) == sum(more)
    assert means[0] != means[1]
    for first, second in ((less, more), (more, less)):
        sweep = {
            (0.1,): runs(*first, total=500, loss=0.6),
            (0.9,): runs(*second, total=500, loss=0.5),
        }
        for rule in (select_few_shot, select_full_data):
            assert rule(sweep, 3).chosen.hyperparameters == (0.9,)


def test_runs_that_are_missing_are_counted_not_invented():
    sweep = {(0.1,): runs(*[99] * 9), (0.9,): runs(*[60] * 10), (1.0,): []}
    found = select_few_shot(sweep)
    assert found.expected == 10
    # The top 3 of 9 compare with no top 3 of 10.
    assert found.chosen.hyperparameters == (0.9,)
    assert [c.hyperparameters for c in found.competing] == [(0.9,)]
    assert [c.valid_accuracy for c in found.candidates] == [99, 60, None]
    alone = select_few_shot({(0.1,): runs(*[99] * 9)})
    assert (len(alone.chosen.runs), len(alone.competing)) == (9, 1)


@pytest.mark.parametrize("rule", [select_few_shot, select_full_data])
def test_what_counts_a_run_twice_is_refused(rule):
    with pytest.raises(ValueError, match=r"\(0\.9,\): seed 0 occurs twice"):
        rule({(0.9,): [run(0, 80), run(0, 90), run(1, 70)]})
    with pytest.raises(ValueError, match=r"\(0\.9,\): 4 runs, but 3 were planned"):
        rule({(0.9,): runs(1, 2, 3, 4)}, 3)


def test_pairs_are_made_by_seed_and_the_rest_is_left_out():
    baseline = [run(s, 50, test) for s, test in ((0, 60), (1, 70), (2, 80), (5, 10))]
    treatment = [run(s, 50, test) for s, test in ((4, 99), (2, 79), (1, 74), (0, 60))]
    found = compare(baseline, treatment)
    assert found == paired_difference([60, 70, 80], [60, 74, 79])
    assert (found.count, found.won, found.lost) == (3, 1, 1)
    rng = random.Random(0)
    for _ in range(5):
        assert found == compare(rng.sample(baseline, 4), rng.sample(treatment, 4))
    assert compare([run(0, 50)], [run(1, 50)]) is None
    assert compare([], []) is None
