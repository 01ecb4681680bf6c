"""What the paper does not report: pairs of runs, and runs that failed to train.

Pure functions of finished runs, in any order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fairseq_scl.experiments.records import Validation
from fairseq_scl.experiments.selection import Outcome, check_runs
from fairseq_scl.experiments.statistics import (
    Interval,
    PairedDifference,
    bootstrap_interval,
    paired_difference,
)


@dataclass(frozen=True)
class Comparison:
    """Two losses on the same seeds or samples; differences of test accuracy in points.

    Attributes:
        difference: treatment minus baseline, with Student's t interval and p-values.
        bootstrap: percentile bootstrap interval of the same mean.
        won: pairs in which the treatment was better.
        lost: pairs in which it was worse.
        seeds: the pairs, in ascending order.
        expected: planned pairs.
    """

    difference: PairedDifference
    bootstrap: Interval
    won: int
    lost: int
    seeds: tuple[int, ...]
    expected: int


def compare(
    baseline: Sequence[Outcome],
    treatment: Sequence[Outcome],
    expected: int = 10,
    level: float = 0.95,
) -> Comparison | None:
    """Compare all finished runs of two losses, paired by seed or sample.

    The top 3 of one loss stand on other samples than the top 3 of the other, so they
    are no pairs; this takes every seed of which both runs have finished.

    Args:
        baseline: runs with CE, in any order.
        treatment: runs with CE + SCL on the same seeds or samples, in any order.
        expected: planned pairs.
        level: of both confidence intervals.

    Returns:
        the comparison, or ``None`` if there is no pair.

    Raises:
        ValueError: a seed is there twice, or there are more runs than planned.
    """
    before, after = (
        {run.seed: run.test.accuracy for run in check_runs(runs, expected, name)}
        for name, runs in (("baseline", baseline), ("treatment", treatment))
    )
    seeds = sorted(before.keys() & after.keys())
    if not seeds:
        return None
    old, new = [before[s] for s in seeds], [after[s] for s in seeds]
    return Comparison(
        difference=paired_difference(old, new, level),
        bootstrap=bootstrap_interval(
            [b - a for a, b in zip(old, new, strict=True)], level
        ),
        won=sum(b > a for a, b in zip(old, new, strict=True)),
        lost=sum(b < a for a, b in zip(old, new, strict=True)),
        seeds=tuple(seeds),
        expected=expected,
    )


def degenerate_runs(
    runs: Sequence[Outcome],
    valid_labels: Mapping[str, int],
    test_labels: Mapping[str, int],
) -> tuple[Outcome, ...]:
    """Return the runs that did not beat always naming the most frequent class.

    A run counts if its validation or its test accuracy is at or under the share of that
    class in the subset.

    Args:
        runs: finished runs.
        valid_labels: how many examples of each class the validation set has.
        test_labels: the same of the test set.

    Raises:
        ValueError: a run was measured on another number of examples.
    """
    return tuple(
        run
        for run in runs
        if _is_at_majority(run.valid, valid_labels, "validation")
        # Both are looked at, so that either one's wrong counts are found.
        | _is_at_majority(run.test, test_labels, "test")
    )


def _is_at_majority(result: Validation, labels: Mapping[str, int], subset: str) -> bool:
    if result.total != sum(labels.values()):
        raise ValueError(
            f"{subset} accuracy is of {result.total} examples, the label counts are "
            f"of {sum(labels.values())}"
        )
    return result.correct <= max(labels.values())
