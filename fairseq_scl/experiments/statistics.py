"""Selection and statistics as pure functions of validations and accuracies."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from fairseq_scl.experiments.records import Record, Validation

LEVEL, RESAMPLES = 0.95, 9999


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (n - 1) of n values; NaN if undefined."""

    mean: float
    std: float
    count: int


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference of pairs, treatment minus baseline; undefined values are NaN.

    ``low`` and ``high`` are its 95% interval by Student's t, the others that of the
    percentile bootstrap. ``t_p`` and ``wilcoxon_p`` are the two-sided p-values of the
    paired t-test and of the signed-rank test (SciPy's default: exact up to 13 pairs,
    and up to 50 without ties). Of ``count`` pairs, the treatment was better in ``won``
    and worse in ``lost``.
    """

    mean: float
    low: float
    high: float
    bootstrap_low: float
    bootstrap_high: float
    t_p: float
    wilcoxon_p: float
    count: int
    won: int
    lost: int


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
    """
    count = sum(group.count for group in groups)
    mean = math.fsum(group.count * group.mean for group in groups) / count
    within = [(g.count - 1) * g.std**2 for g in groups if g.count > 1]
    between = [g.count * (g.mean - mean) ** 2 for g in groups]
    squares = math.fsum(within + between)
    std = math.sqrt(squares / (count - 1)) if count > 1 else math.nan
    return Summary(mean, std, count)


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95% percentile bootstrap interval of the mean, from a fixed seed.

    It does not assume a normal distribution but is too narrow for few values: for
    normally distributed values, it covers the mean in 75% of cases for n = 3 and in 90%
    for n = 10.

    Args:
        values: ``(n,)``, such as paired differences; their order does not matter.

    Returns:
        lower and upper end; NaN for fewer than two values.
    """
    if len(values) < 2:
        return math.nan, math.nan
    found = stats.bootstrap(
        (np.sort(values),),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def paired_difference(
    baseline: Sequence[float], treatment: Sequence[float]
) -> PairedDifference:
    """Compare two losses on the same samples: treatment minus baseline.

    Args:
        baseline: ``(n,)`` values, such as test accuracies with CE.
        treatment: ``(n,)`` values on the same samples in the same order.

    Returns:
        the mean difference with intervals and p-values. They are NaN for fewer than two
        pairs. Intervals and Student's p are also NaN if all differences are equal but
        not 0: few counts often agree by chance, and their spread cannot be estimated.

    Raises:
        ValueError: the lengths differ, or there are no values.
    """
    if len(baseline) != len(treatment) or not len(baseline):
        raise ValueError(
            f"paired values are needed, got {len(baseline)} baseline and "
            f"{len(treatment)} treatment values"
        )
    exact = np.subtract(treatment, baseline)
    # Rounded, so that equal gains in counts are ties in the signed-rank test.
    difference = np.round(exact, 9)
    mean, moved = float(difference.mean()), difference[difference != 0]
    low, high, t_p, wilcoxon_p = [math.nan] * 4
    bootstrapped = math.nan, math.nan
    if len(difference) > 1:
        if not len(moved):
            low, high, t_p = 0.0, 0.0, 1.0
        elif np.ptp(difference):
            test = stats.ttest_1samp(difference, 0)
            low, high = map(float, test.confidence_interval(LEVEL))
            t_p = float(test.pvalue)
        if not math.isnan(low):
            bootstrapped = bootstrap_interval(exact.tolist())
        wilcoxon_p = float(stats.wilcoxon(moved).pvalue) if len(moved) else 1.0
    return PairedDifference(
        mean,
        low,
        high,
        *bootstrapped,
        t_p=t_p,
        wilcoxon_p=wilcoxon_p,
        count=len(difference),
        won=int((exact > 0).sum()),
        lost=int((exact < 0).sum()),
    )
