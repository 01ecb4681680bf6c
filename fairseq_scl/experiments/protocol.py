"""Selection and statistics as pure functions of validations and accuracies."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from fairseq_scl.experiments.records import Record, Validation


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (n - 1) of n values; NaN where undefined."""

    mean: float
    std: float
    count: int


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference of pairs with its confidence interval and p-values.

    The interval is Student's t at ``level``; ``t_p`` is the paired t-test's two-sided
    p-value, ``wilcoxon_p`` the signed-rank test's (SciPy's default: exact up to 13
    pairs, and up to 50 without ties). NaN where undefined.
    """

    mean: float
    low: float
    high: float
    level: float
    t_p: float
    wilcoxon_p: float
    count: int


def best_validation(validations: Sequence[Validation]) -> Validation:
    """Return the point of a run that early stopping keeps: most correct answers.

    Ties go to the later point, as in fairseq's ``checkpoint_best.pt``, so that a
    record and a kept checkpoint agree.

    Args:
        validations: of one subset, in order of updates, at least one.
    """
    return max(validations, key=lambda v: (v.correct, v.update))


def result_at_best(record: Record) -> Validation:
    """Return the test result at the point that :func:`best_validation` chooses."""
    update = best_validation(record.valid).update
    return next(v for v in record.test if v.update == update)


def summary(values: Sequence[float]) -> Summary:
    """Return mean and sample standard deviation; the std of one value is NaN."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return Summary(float(np.mean(values)), std, len(values))


def paired_difference(
    baseline: Sequence[float], treatment: Sequence[float], level: float = 0.95
) -> PairedDifference:
    """Compare two losses on the same samples: treatment minus baseline.

    Args:
        baseline: ``(n,)`` values, for example test accuracies with CE.
        treatment: ``(n,)`` values on the same samples in the same order.
        level: of the confidence interval.

    Returns:
        the mean difference with Student's t interval and two p-values; interval and
        p-values are NaN for fewer than two pairs.

    Raises:
        ValueError: the two have unlike lengths or are empty.
    """
    if len(baseline) != len(treatment) or not len(baseline):
        raise ValueError(
            f"pairs are needed, got {len(baseline)} baseline and {len(treatment)} "
            "treatment values"
        )
    # Rounded, so that equal gains tie in the signed-rank test as their counts do.
    difference = np.round(np.subtract(treatment, baseline), 9)
    mean, count = float(difference.mean()), len(difference)
    if count < 2:
        return PairedDifference(mean, math.nan, math.nan, level, math.nan, math.nan, 1)
    error = float(difference.std(ddof=1)) / math.sqrt(count)
    half = float(stats.t.ppf((1 + level) / 2, count - 1)) * error
    if error == 0:
        t_p = 1.0 if mean == 0 else 0.0
    else:
        t_p = float(2 * stats.t.sf(abs(mean) / error, count - 1))
    moved = difference[difference != 0]
    wilcoxon = float(stats.wilcoxon(moved).pvalue) if len(moved) else 1.0
    return PairedDifference(mean, mean - half, mean + half, level, t_p, wilcoxon, count)
