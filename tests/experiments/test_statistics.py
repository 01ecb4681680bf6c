"""Statistics, against their definitions and against SciPy."""

import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import hypothesis.strategies as st
import numpy as np
import pytest
from fairseq import checkpoint_utils
from fairseq.dataclass.configs import CheckpointConfig
from hypothesis import given
from scipy import stats

from fairseq_scl.experiments.records import Record, Validation
from fairseq_scl.experiments.results import UNKNOWN, verdict
from fairseq_scl.experiments.statistics import (
    best_validation,
    bootstrap_interval,
    paired_difference,
    pool,
    result_at_best,
    summary,
)

ACCURACIES = st.floats(0, 100, allow_nan=False)
GROUPS = st.lists(st.lists(ACCURACIES, min_size=1, max_size=5), min_size=1, max_size=5)
PAIRS = st.integers(2, 12).flatmap(
    lambda n: st.tuples(*[st.lists(ACCURACIES, min_size=n, max_size=n)] * 2)
)


def curve(*correct, total=10):
    return [
        Validation(10 * (i + 1), c, total, 1.0 / (i + 1), 2.0)
        for i, c in enumerate(correct)
    ]


def record(valid, test):
    return Record({}, valid, test, 0.0, [], {})


class FakeTrainer:
    """What fairseq's ``save_checkpoint`` needs; a checkpoint is its update as text."""

    data_parallel_rank = 0
    should_save_checkpoint_on_current_rank = True
    checkpoint_suffix = ""
    task = None
    update = 0

    def consolidate_optimizer(self):
        pass

    def get_num_updates(self):
        return self.update

    def save_checkpoint(self, path, extra_state):
        Path(path).write_text(str(self.update), "utf-8")


def signed_rank_p(differences):
    """Two-sided p of the signed-rank test, over all signs; ties share their rank."""
    moved = [d for d in differences if d]
    ranks = stats.rankdata(np.abs(moved))
    observed = abs(sum(math.copysign(r, d) for r, d in zip(ranks, moved, strict=True)))
    signs = list(itertools.product((-1, 1), repeat=len(moved)))
    extreme = sum(abs(np.dot(s, ranks)) >= observed - 1e-9 for s in signs)
    return extreme / len(signs)


def test_ties_go_where_fairseqs_best_checkpoint_goes(tmp_path, monkeypatch):
    """fairseq's own rule keeps one of many curves' points; it is ours."""
    trainer = FakeTrainer()
    epoch = SimpleNamespace(epoch=1, end_of_epoch=lambda: False, state_dict=dict)
    for correct in itertools.product((3, 4, 5), repeat=3):
        monkeypatch.delattr(checkpoint_utils.save_checkpoint, "best", raising=False)
        settings = CheckpointConfig(
            save_dir=str(tmp_path / "-".join(map(str, correct))),
            maximize_best_checkpoint_metric=True,
            no_last_checkpoints=True,
        )
        for point in curve(*correct):
            trainer.update = point.update
            score = float(point.correct)
            checkpoint_utils.save_checkpoint(settings, trainer, epoch, score)
        kept = Path(settings.save_dir, "checkpoint_best.pt").read_text("utf-8")
        assert int(kept) == best_validation(curve(*correct)).update


def test_test_result_is_read_at_the_best_validation_not_at_its_own_best():
    chosen = result_at_best(record(curve(3, 9, 5), curve(10, 4, 8)))
    assert (chosen.update, chosen.correct) == (20, 4)


def test_summary_divides_by_n_minus_1():
    found = summary([1.0, 2.0, 4.0])
    assert found.mean == pytest.approx(7 / 3)
    assert found.std == pytest.approx(math.sqrt(7 / 3))
    assert found.count == 3
    one = summary([81.2])
    assert (one.mean, one.count) == (81.2, 1)
    assert math.isnan(one.std)


@given(PAIRS)
def test_paired_difference_is_students_by_its_definition(pairs):
    baseline, treatment = pairs
    moved = np.subtract(treatment, baseline)
    if moved.std() <= 1e-6 * np.abs(moved).max():
        return  # equal differences have a test of their own
    found = paired_difference(baseline, treatment)
    error, freedom = moved.std(ddof=1) / math.sqrt(len(moved)), len(moved) - 1
    half = stats.t.ppf(0.975, freedom) * error
    p = 2 * stats.t.sf(abs(moved.mean()) / error, freedom)
    assert found.t_p == pytest.approx(p, rel=1e-6, abs=1e-12)
    assert found.low == pytest.approx(moved.mean() - half, rel=1e-6, abs=1e-6)
    assert found.high == pytest.approx(moved.mean() + half, rel=1e-6, abs=1e-6)
    assert found.mean == pytest.approx(moved.mean(), rel=1e-6, abs=1e-9)
    assert found.count == len(baseline)
    assert (found.bootstrap_low, found.bootstrap_high) == bootstrap_interval(moved)


@given(st.lists(st.integers(-6, 6), min_size=2, max_size=9))
def test_signed_rank_p_is_exact_despite_ties(correct_answers):
    """Of 500 sentences each is worth 0.2 points, so that ties are the rule."""
    baseline = [100 * (330 + 7 * i) / 500 for i in range(len(correct_answers))]
    treatment = [
        100 * (330 + 7 * i + more) / 500 for i, more in enumerate(correct_answers)
    ]
    expected = signed_rank_p(correct_answers)
    found = paired_difference(baseline, treatment).wilcoxon_p
    assert found == pytest.approx(expected)


def test_the_difference_of_equal_values_is_0():
    found = paired_difference([70.0, 80.0, 75.5], [70.0, 80.0, 75.5])
    assert (found.mean, found.low, found.high) == (0, 0, 0)
    assert (found.t_p, found.wilcoxon_p) == (1, 1)


def test_the_same_gain_on_every_sample_gives_no_interval():
    """One more of 30 sentences on both of two samples is not a proof."""
    found = paired_difference([60.0, 70.0, 80.0], [62.0, 72.0, 82.0])
    assert (found.mean, found.wilcoxon_p, found.won) == (2, 0.25, 3)
    for value in (found.low, found.high, found.t_p, found.bootstrap_low):
        assert math.isnan(value)
    assert verdict(found) == UNKNOWN


def test_one_pair_has_no_interval():
    found = paired_difference([70.0], [71.5])
    assert (found.mean, found.count) == (1.5, 1)
    for value in (found.low, found.high, found.t_p, found.wilcoxon_p):
        assert math.isnan(value)


@pytest.mark.parametrize(("baseline", "treatment"), [([1.0], [1.0, 2.0]), ([], [])])
def test_values_that_are_not_pairs_are_refused(baseline, treatment):
    with pytest.raises(ValueError, match="paired values are needed, got"):
        paired_difference(baseline, treatment)


@given(GROUPS)
def test_pooled_groups_are_the_summary_of_all_their_values(groups):
    found = pool([summary(values) for values in groups])
    expected = summary(list(itertools.chain(*groups)))
    assert found.mean == pytest.approx(expected.mean, abs=1e-9)
    assert found.std == pytest.approx(expected.std, abs=1e-6, nan_ok=True)
    assert found.count == expected.count


@given(st.lists(st.integers(-20, 20), min_size=2, max_size=5))
def test_bootstrap_has_the_quantiles_of_all_resamples(values):
    """Every one of the n^n resamples, to within the error of drawing 9,999 of them."""
    low, high = bootstrap_interval(values)
    means = np.mean(list(itertools.product(values, repeat=len(values))), axis=1)
    tail, error = 0.025, 0.016
    assert np.mean(means < low - 1e-9) <= tail + error
    assert np.mean(means <= low + 1e-9) >= tail - error
    assert np.mean(means > high + 1e-9) <= tail + error
    assert np.mean(means >= high - 1e-9) >= tail - error


def test_bootstrap_repeats_itself_and_ignores_order():
    values = [3.0, -1.0, 2.5, 0.0, 4.0, 1.7, 0.3, -2.9, 8.1, 1.1]
    assert bootstrap_interval(values) == bootstrap_interval(values[::-1])


def test_bootstrap_of_three_values_is_their_range():
    """A resample of one value only has probability 1/27, more than 2.5%."""
    assert bootstrap_interval([1.0, 5.0, 2.0]) == (1, 5)
    assert bootstrap_interval([2.0, 2.0, 2.0]) == (2, 2)
    assert np.isnan(bootstrap_interval([1.0])).all()
