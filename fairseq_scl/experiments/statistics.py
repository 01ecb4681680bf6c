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


@dataclass(frozen=True)
class Interval:
    """Percentile bootstrap interval of a mean at ``level``; NaN where undefined."""

    low: float
    high: float
    level: float
    resamples: int
    seed: int


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


def pool(groups: Sequence[Summary]) -> Summary:
    """Return mean and sample std of all values of several groups, from their summaries.

    It equals :func:`summary` of the values themselves. So comes out the "Average ±" of
    Table 5, Gunel et al. (2021): four noise levels with three models each, n - 1 inside
    a cell and n - 1 over all twelve. The std of a group of one is not looked at.

    Raises:
        ValueError: there is no group.
    """
    if not groups:
        raise ValueError("no groups to pool")
    count = sum(group.count for group in groups)
    mean = math.fsum(group.count * group.mean for group in groups) / count
    within = [(g.count - 1) * g.std**2 for g in groups if g.count > 1]
    between = [g.count * (g.mean - mean) ** 2 for g in groups]
    squares = math.fsum(within + between)
    std = math.sqrt(squares / (count - 1)) if count > 1 else math.nan
    return Summary(mean, std, count)


def bootstrap_interval(
    values: Sequence[float], level: float = 0.95, resamples: int = 9999, seed: int = 0
) -> Interval:
    """Return the percentile bootstrap confidence interval of the mean.

    Assumes no normal distribution, but is too narrow for few values: of normal values,
    a 95% interval covers the mean in 75% of cases for n = 3 and in 90% for n = 10.

    Args:
        values: ``(n,)`` for example paired differences; their order does not matter.
        level: of the confidence interval.
        resamples: how many times n values are drawn.
        seed: of the draws.

    Returns:
        the interval; NaN for fewer than two values.

    Raises:
        ValueError: there are no values.
    """
    if not len(values):
        raise ValueError("no values to draw from")
    if len(values) < 2:
        return Interval(math.nan, math.nan, level, resamples, seed)
    found = stats.bootstrap(
        (np.sort(values),),
        np.mean,
        n_resamples=resamples,
        confidence_level=level,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(found.low), float(found.high), level, resamples, seed)


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
    if np.ptp(difference) == 0:
        low, high, t_p = mean, mean, 1.0 if mean == 0 else 0.0
    else:
        test = stats.ttest_1samp(difference, 0)
        low, high = map(float, test.confidence_interval(level))
        t_p = float(test.pvalue)
    moved = difference[difference != 0]
    wilcoxon = float(stats.wilcoxon(moved).pvalue) if len(moved) else 1.0
    return PairedDifference(mean, low, high, level, t_p, wilcoxon, count)
