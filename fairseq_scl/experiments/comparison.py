"""Statistics beyond the paper: paired comparisons, and runs that failed to learn.

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
    """Differences in test accuracy, in points, of two losses on the same seeds.

    Attributes:
        difference: treatment minus baseline, with Student's t interval and p-values.
        bootstrap: percentile bootstrap interval of the same mean.
        won: number of pairs in which the treatment was better.
        lost: number of pairs in which it was worse.
        seeds: the seeds or samples of the pairs, in ascending order.
        expected: number of planned pairs.
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

    The top 3 runs of two losses usually come from different samples and cannot be
    paired, so this uses every seed for which both runs have finished.

    Args:
        baseline: runs with CE, in any order.
        treatment: runs with CE + SCL on the same seeds or samples, in any order.
        expected: number of planned pairs.
        level: confidence level of both intervals.

    Returns:
        the comparison, or ``None`` without a pair.

    Raises:
        ValueError: a seed occurs twice, or there are more runs than planned.
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
    """Return the runs that did no better than always predicting the majority class.

    A run counts if its validation or test accuracy is at or below the share of the
    majority class in that subset.

    Args:
        runs: finished runs.
        valid_labels: number of validation examples per class.
        test_labels: number of test examples per class.

    Raises:
        ValueError: a run was evaluated on a different number of examples.
    """
    return tuple(
        run
        for run in runs
        if _is_at_majority(run.valid, valid_labels, "validation")
        # | rather than `or`, so that the counts of both subsets are checked.
        | _is_at_majority(run.test, test_labels, "test")
    )


def _is_at_majority(result: Validation, labels: Mapping[str, int], subset: str) -> bool:
    if result.total != sum(labels.values()):
        raise ValueError(
            f"{subset} accuracy is of {result.total} examples, the label counts are "
            f"of {sum(labels.values())}"
        )
    return result.correct <= max(labels.values())
