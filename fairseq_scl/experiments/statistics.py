"""Selection and statistics as pure functions of validations and accuracies."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from fairseq_scl.experiments.records import Record, Validation


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (n - 1) of n values; NaN if undefined."""

    mean: float
    std: float
    count: int


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference of pairs with its confidence interval and p-values.

    The interval is Student's t at ``level``. ``t_p`` is the two-sided p-value of the
    paired t-test, ``wilcoxon_p`` that of the signed-rank test (SciPy's default: exact
    up to 13 pairs, and up to 50 without ties). Undefined values are NaN.
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
    """Percentile bootstrap interval of a mean at ``level``; NaN if undefined."""

    low: float
    high: float
    level: float
    resamples: int
    seed: int


def best_validation(validations: Sequence[Validation]) -> Validation:
    """Return the validation with the most correct predictions, as in early stopping.

    Ties go to the later one, as in fairseq's ``checkpoint_best.pt``, so that a record
    and a kept checkpoint agree.

    Args:
        validations: at least one validation, all on the same subset.
    """
    return max(validations, key=lambda v: (v.correct, v.update))


def result_at_best(record: Record) -> Validation:
    """Return the test result at the update that :func:`best_validation` chooses."""
    update = best_validation(record.valid).update
    return next(v for v in record.test if v.update == update)


def summary(values: Sequence[float]) -> Summary:
    """Return mean and sample standard deviation; the std of one value is NaN."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return Summary(float(np.mean(values)), std, len(values))


def pool(groups: Sequence[Summary]) -> Summary:
    """Return mean and sample std of all values of several groups, from their summaries.

    The result equals :func:`summary` of all the values. This reproduces the "Average ±"
    of Table 5, Gunel et al. (2021): four noise levels with three models each, with
    n - 1 within each cell and over all twelve. The std of a group of one is ignored.

    Raises:
        ValueError: there are no groups.
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

    It does not assume a normal distribution but is too narrow for few values: for
    normally distributed values, a 95% interval covers the mean in 75% of cases for
    n = 3 and in 90% for n = 10.

    Args:
        values: ``(n,)``, such as paired differences; their order does not matter.
        level: confidence level of the interval.
        resamples: number of bootstrap resamples.
        seed: seed of the resampling.

    Returns:
        the interval; NaN for fewer than two values.

    Raises:
        ValueError: there are no values.
    """
    if not len(values):
        raise ValueError("no values to resample")
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
        baseline: ``(n,)`` values, such as test accuracies with CE.
        treatment: ``(n,)`` values on the same samples in the same order.
        level: confidence level of the interval.

    Returns:
        the mean difference with Student's t interval and two p-values; interval and
        p-values are NaN for fewer than two pairs.

    Raises:
        ValueError: the lengths differ, or there are no values.
    """
    if len(baseline) != len(treatment) or not len(baseline):
        raise ValueError(
            f"paired values are needed, got {len(baseline)} baseline and "
            f"{len(treatment)} treatment values"
        )
    # Rounded, so that equal gains in counts are ties in the signed-rank test.
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
