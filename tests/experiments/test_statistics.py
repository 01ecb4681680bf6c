"""Selection and statistics, against the definitions and against SciPy."""

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
from fairseq_scl.experiments.statistics import (
    best_validation,
    paired_difference,
    result_at_best,
    summary,
)

ACCURACIES = st.floats(0, 100, allow_nan=False)
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


def test_best_point_has_most_correct_answers():
    assert best_validation(curve(3, 9, 5)).update == 20


def test_ties_go_to_the_later_point_as_in_fairseq():
    assert best_validation(curve(3, 9, 5, 9, 8)).update == 40


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


def test_one_value_has_no_standard_deviation():
    found = summary([81.2])
    assert (found.mean, found.count) == (81.2, 1)
    assert math.isnan(found.std)


@given(PAIRS, st.sampled_from([0.9, 0.95, 0.99]))
def test_paired_difference_is_students_by_its_definition(pairs, level):
    baseline, treatment = pairs
    moved = np.subtract(treatment, baseline)
    if moved.std() <= 1e-6 * np.abs(moved).max():
        return  # equal differences have a test of their own
    found = paired_difference(baseline, treatment, level)
    error, freedom = moved.std(ddof=1) / math.sqrt(len(moved)), len(moved) - 1
    half = stats.t.ppf((1 + level) / 2, freedom) * error
    p = 2 * stats.t.sf(abs(moved.mean()) / error, freedom)
    assert found.t_p == pytest.approx(p, rel=1e-6, abs=1e-12)
    assert found.low == pytest.approx(moved.mean() - half, rel=1e-6, abs=1e-6)
    assert found.high == pytest.approx(moved.mean() + half, rel=1e-6, abs=1e-6)
    assert found.mean == pytest.approx(moved.mean(), rel=1e-6, abs=1e-9)
    assert (found.level, found.count) == (level, len(baseline))


def test_signed_rank_p_is_exact_without_ties():
    """1, 2, … n all of one sign: the smallest p that n pairs can give, 2 / 2^n."""
    for n in range(2, 11):
        assert paired_difference([0] * n, range(1, n + 1)).wilcoxon_p == pytest.approx(
            2 / 2**n
        )


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


def test_the_same_gain_on_every_sample_leaves_no_doubt_to_a_t_test():
    found = paired_difference([60.0, 70.0, 80.0], [62.0, 72.0, 82.0])
    assert (found.mean, found.low, found.high, found.t_p) == (2, 2, 2, 0)
    assert found.wilcoxon_p == 0.25


def test_one_pair_has_no_interval():
    found = paired_difference([70.0], [71.5])
    assert (found.mean, found.count) == (1.5, 1)
    for value in (found.low, found.high, found.t_p, found.wilcoxon_p):
        assert math.isnan(value)


@pytest.mark.parametrize(("baseline", "treatment"), [([1.0], [1.0, 2.0]), ([], [])])
def test_values_that_are_not_pairs_are_refused(baseline, treatment):
    with pytest.raises(ValueError, match="paired values are needed, got"):
        paired_difference(baseline, treatment)


@pytest.mark.parametrize(
    ("cells", "average"),
    [
        ("92.0 1.3 91.4 1.0 91.7 1.3 90.0 0.5", (91.3, 1.2)),
        ("92.6 0.9 91.5 1.0 91.2 0.6 91.5 1.0", (91.7, 1.0)),
        ("81.1 2.3 80.0 2.9 78.9 3.7 75.9 4.0", (79.0, 3.5)),
        ("82.7 1.9 81.9 2.5 81.3 0.6 80.1 2.5", (81.5, 2.0)),
        ("54.0 1.1 55.3 2.4 54.6 2.2 47.0 1.8", (52.7, 3.9)),
        ("61.2 2.3 62.1 0.9 62.3 1.1 53.0 2.1", (59.7, 4.3)),
    ],
)
def test_dividing_by_n_minus_1_gives_the_papers_printed_averages(cells, average):
    """Table 5: four temperatures with three models each, pooled to "Average ±".

    The accuracies m - s, m, m + s have the mean m and the sample deviation s that are
    printed; only means and deviations enter the result. To the rounding of the cells.
    """
    numbers = [float(number) for number in cells.split()]
    pooled = []
    for mean, std in zip(numbers[::2], numbers[1::2], strict=True):
        pooled += [mean - std, mean, mean + std]
    found = summary(pooled)
    assert (found.mean, found.std) == pytest.approx(average, abs=0.06)
