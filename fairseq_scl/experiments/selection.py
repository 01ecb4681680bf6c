"""The paper's two selection rules.

Pure functions: runs go in, dataclasses come out, and the order of the runs changes
nothing. A run that is missing stays missing: each result holds the runs that it stands
on, and how many there should have been.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from fairseq_scl.experiments.records import Record, Validation
from fairseq_scl.experiments.statistics import (
    Summary,
    best_validation,
    result_at_best,
    summary,
)

GRID = ("scl_lambda", "scl_temperature")


@dataclass(frozen=True)
class Outcome:
    """What a rule sees of a finished run.

    Attributes:
        seed: of the run or, in few-shot learning, the number of its training sample.
        valid: the best validation, see :func:`best_validation`.
        test: the test result at the same update.
    """

    seed: int
    valid: Validation
    test: Validation


@dataclass(frozen=True)
class Candidate:
    """One combination of hyper-parameters and its finished runs.

    Attributes:
        hyperparameters: the combination, as (λ, τ).
        runs: all of its finished runs, best validation first.
        scored: those whose mean validation accuracy is its score; empty if there are
            fewer runs than the rule needs.
    """

    hyperparameters: tuple[Any, ...]
    runs: tuple[Outcome, ...]
    scored: tuple[Outcome, ...]

    @property
    def valid_accuracy(self) -> float | None:
        """The score, in percent; ``None`` without one."""
        return float(100 * _mean_accuracy(self.scored)) if self.scored else None


@dataclass(frozen=True)
class Selection:
    """What a rule chose, and what it stands on.

    Attributes:
        chosen: the best combination; ``None`` if none has the runs the rule needs.
        reported: the runs of it whose test accuracy the paper would report.
        candidates: every combination, in ascending order.
        expected: planned runs of each combination.
    """

    chosen: Candidate | None
    reported: tuple[Outcome, ...]
    candidates: tuple[Candidate, ...]
    expected: int

    @property
    def test(self) -> Summary | None:
        """Test accuracy in percent of the reported runs, mean and sample std."""
        return _test_summary(self.reported)

    @property
    def test_of_all(self) -> Summary | None:
        """The same of every finished run of the chosen combination."""
        return _test_summary(self.chosen.runs if self.chosen else ())

    @property
    def missing(self) -> int:
        """Planned runs, over all combinations, that have not finished."""
        return sum(self.expected - len(c.runs) for c in self.candidates)

    @property
    def passed_over(self) -> tuple[Candidate, ...]:
        """The combinations that did not compete, for want of runs."""
        most = max((len(c.runs) for c in self.candidates), default=0)
        return tuple(c for c in self.candidates if len(c.runs) < most or not c.scored)


def outcome(record: Record) -> Outcome:
    """Return what the rules see of the record of a finished run."""
    valid = best_validation(record.valid)
    return Outcome(record.settings["seed"], valid, result_at_best(record))


def select_full_data(
    runs: Mapping[tuple[Any, ...], Sequence[Outcome]], expected: int = 10
) -> Selection:
    """Choose as the paper does with the full training set (Tables 2 and 3).

    Section 4.1, Gunel et al. (2021): "We pick the best hyperparameter combination based
    on the average validation accuracy across 10 seeds", and "pick the top model out of
    10 seeds based on validation accuracy and report its corresponding test accuracy".

    The paper is silent about ties and missing runs. Equal validation accuracies are
    decided by the lower validation cross-entropy, then by the lower seed or combination
    of hyper-parameters. Only the combinations with the most finished runs compete.

    Args:
        runs: the finished runs of each combination of hyper-parameters.
        expected: planned runs of each combination.

    Raises:
        ValueError: a combination has a seed twice, or more runs than planned.
    """
    return _select(runs, expected, scored=expected, reported=1)


def select_few_shot(
    runs: Mapping[tuple[Any, ...], Sequence[Outcome]],
    expected: int = 10,
    top: int = 3,
) -> Selection:
    """Choose as the paper does with few examples (Tables 4, 5 and 7).

    Section 4.1, Gunel et al. (2021): "We report the average and the standard deviation
    of the test accuracies of the top 3 models based on their validation accuracies out
    of 10 random training set samples. Best hyperparameter combination is picked based
    on the average validation accuracy of the top 3 models."

    Ties and missing runs as in :func:`select_full_data`; a combination with fewer than
    ``top`` runs has no score.

    Args:
        runs: the finished runs of each combination of hyper-parameters.
        expected: planned runs (training samples) of each combination.
        top: how many of them count.

    Raises:
        ValueError: a combination has a sample twice, or more runs than planned, or
            ``top`` is not between 1 and ``expected``.
    """
    if not 1 <= top <= expected:
        raise ValueError(f"the top {top} of {expected} runs cannot be")
    return _select(runs, expected, scored=top, reported=top)


def check_runs(
    runs: Sequence[Outcome], expected: int, name: Hashable
) -> Sequence[Outcome]:
    """Return the runs unless one would count twice.

    Args:
        runs: finished runs of one combination.
        expected: how many were planned.
        name: of the combination, for the message.

    Raises:
        ValueError: a seed is there twice, or there are more runs than planned.
    """
    seeds = [run.seed for run in runs]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise ValueError(f"{name}: seed {twice[0]} is there twice")
    if len(runs) > expected:
        raise ValueError(f"{name}: {len(runs)} runs, but {expected} were planned")
    return runs


def _select(
    runs: Mapping[tuple[Any, ...], Sequence[Outcome]],
    expected: int,
    scored: int,
    reported: int,
) -> Selection:
    candidates = []
    for key in sorted(runs):
        ranked = tuple(sorted(check_runs(runs[key], expected, key), key=rank))
        best = ranked[:scored] if len(ranked) >= reported else ()
        candidates.append(Candidate(key, ranked, best))
    # A mean over few runs, or the top 3 of fewer than 10, compares with no other.
    most = max((len(c.runs) for c in candidates), default=0)
    competing = [c for c in candidates if c.scored and len(c.runs) == most]
    chosen = min(competing, key=_candidate_rank, default=None)
    kept = chosen.runs[:reported] if chosen else ()
    return Selection(chosen, kept, tuple(candidates), expected)


def rank(run: Outcome) -> tuple[Fraction, float, int]:
    """Return what sorts runs, best validation first; ties by loss, then by seed."""
    return -_accuracy(run), _loss(run), run.seed


def _candidate_rank(
    candidate: Candidate,
) -> tuple[Fraction, float, tuple[Any, ...]]:
    losses = [_loss(run) for run in candidate.scored]
    mean_loss = math.fsum(losses) / len(losses)
    return -_mean_accuracy(candidate.scored), mean_loss, candidate.hyperparameters


def _accuracy(run: Outcome) -> Fraction:
    # Exact: of equal means, floats would make one the better by their rounding.
    return Fraction(run.valid.correct, run.valid.total)


def _mean_accuracy(runs: Sequence[Outcome]) -> Fraction:
    return sum(map(_accuracy, runs), Fraction(0)) / len(runs)


def _loss(run: Outcome) -> float:
    """Validation cross-entropy; not a number, as after overflow, ranks last."""
    return math.inf if math.isnan(run.valid.ce_loss) else run.valid.ce_loss


def _test_summary(runs: Sequence[Outcome]) -> Summary | None:
    return summary([run.test.accuracy for run in runs]) if runs else None
