"""The paper's two selection rules, and paired comparisons of two losses.

Pure functions of runs, independent of their order. A missing run is never replaced:
each result holds the runs that it is based on and the number of planned runs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from fairseq_scl.data.readers import repeated
from fairseq_scl.experiments.records import Record, Validation
from fairseq_scl.experiments.statistics import (
    PairedDifference,
    Summary,
    best_validation,
    paired_difference,
    result_at_best,
    summary,
)

GRID = ("scl_lambda", "scl_temperature")


@dataclass(frozen=True)
class Outcome:
    """The part of a finished run that the selection rules use.

    Attributes:
        seed: the run's seed or, in few-shot learning, its training sample's number.
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
        scored: the runs whose mean validation accuracy is the score; empty if there
            are fewer runs than the rule needs.
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
    """The choice of a selection rule and the runs it is based on.

    Attributes:
        chosen: the best combination, or the only one once it has a run; ``None`` if all
            have too few runs for the rule.
        reported: its runs whose test accuracy the paper would report; empty if it has
            too few for the rule.
        candidates: all combinations, in ascending order.
        expected: number of planned runs per combination.
    """

    chosen: Candidate | None
    reported: tuple[Outcome, ...]
    candidates: tuple[Candidate, ...]
    expected: int

    @property
    def test(self) -> Summary | None:
        """Mean and sample std of the test accuracy of the reported runs, in percent."""
        return _test_summary(self.reported)

    @property
    def test_of_all(self) -> Summary | None:
        """The same over all finished runs of the chosen combination."""
        return _test_summary(self.chosen.runs if self.chosen else ())

    @property
    def competing(self) -> tuple[Candidate, ...]:
        """The combinations with enough runs to be chosen, see :func:`_competing`."""
        return _competing(self.candidates)


def outcome(record: Record) -> Outcome:
    """Return the outcome of a recorded run."""
    valid = best_validation(record.valid)
    return Outcome(record.settings["seed"], valid, result_at_best(record))


def select_full_data(
    runs: Mapping[tuple[Any, ...], Sequence[Outcome]], expected: int = 10
) -> Selection:
    """Select as the paper does for full training sets (Tables 2 and 3).

    Section 4.1, Gunel et al. (2021): "We pick the best hyperparameter combination based
    on the average validation accuracy across 10 seeds", and "pick the top model out of
    10 seeds based on validation accuracy and report its corresponding test accuracy".

    The paper does not mention ties or missing runs. Ties in validation accuracy go to
    the lower validation cross-entropy, then to the lower seed or combination of
    hyper-parameters. Only the combinations with the most finished runs compete.

    Args:
        runs: the finished runs of each combination of hyper-parameters.
        expected: number of planned runs per combination.

    Raises:
        ValueError: a combination has a seed twice, or more runs than planned.
    """
    return _select(runs, expected, scored=expected, reported=1)


def select_few_shot(
    runs: Mapping[tuple[Any, ...], Sequence[Outcome]],
    expected: int = 10,
    top: int = 3,
) -> Selection:
    """Select as the paper does for few-shot learning (Tables 4, 5 and 7).

    Section 4.1, Gunel et al. (2021): "We report the average and the standard deviation
    of the test accuracies of the top 3 models based on their validation accuracies out
    of 10 random training set samples. Best hyperparameter combination is picked based
    on the average validation accuracy of the top 3 models."

    Arguments, ties and missing runs are treated as in :func:`select_full_data`. A
    combination with fewer than ``top`` runs does not get a score.

    Raises:
        ValueError: a combination has a sample twice, or more runs than planned.
    """
    return _select(runs, expected, scored=top, reported=top)


def compare(
    baseline: Sequence[Outcome], treatment: Sequence[Outcome]
) -> PairedDifference | None:
    """Compare the test accuracies, in percent, of all finished runs of two losses.

    The top 3 runs of two losses usually come from different samples and cannot be
    paired, so this uses every seed for which both runs have finished.

    Returns:
        treatment minus baseline in points, or ``None`` without a pair.
    """
    before, after = (
        {run.seed: run.test.accuracy for run in runs} for runs in (baseline, treatment)
    )
    seeds = sorted(before.keys() & after.keys())
    if not seeds:
        return None
    return paired_difference([before[s] for s in seeds], [after[s] for s in seeds])


def _select(
    runs: Mapping[tuple[Any, ...], Sequence[Outcome]],
    expected: int,
    scored: int,
    reported: int,
) -> Selection:
    candidates = []
    for key in sorted(runs):
        ranked = tuple(sorted(runs[key], key=rank))
        if twice := repeated([str(run.seed) for run in ranked]):
            raise ValueError(f"{key}: seed {twice} occurs twice")
        if len(ranked) > expected:
            raise ValueError(f"{key}: {len(ranked)} runs, but {expected} were planned")
        best = ranked[:scored] if len(ranked) >= reported else ()
        candidates.append(Candidate(key, ranked, best))
    chosen = min(_competing(candidates), key=_candidate_rank, default=None)
    if chosen is None and len(candidates) == 1 and candidates[0].runs:
        chosen = candidates[0]  # nothing to choose from
    kept = chosen.runs[:reported] if chosen and chosen.scored else ()
    return Selection(chosen, kept, tuple(candidates), expected)


def _competing(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Return those with the most runs; means over different numbers do not compare."""
    most = max((len(c.runs) for c in candidates), default=0)
    return tuple(c for c in candidates if c.scored and len(c.runs) == most)


def rank(run: Outcome) -> tuple[Fraction, float, int]:
    """Return a sort key: best validation accuracy first, ties by loss, then by seed."""
    return -_accuracy(run), _loss(run), run.seed


def _candidate_rank(
    candidate: Candidate,
) -> tuple[Fraction, float, tuple[Any, ...]]:
    losses = [_loss(run) for run in candidate.scored]
    mean_loss = math.fsum(losses) / len(losses)
    return -_mean_accuracy(candidate.scored), mean_loss, candidate.hyperparameters


def _accuracy(run: Outcome) -> Fraction:
    # Exact, because rounding could break ties between equal means.
    return Fraction(run.valid.correct, run.valid.total)


def _mean_accuracy(runs: Sequence[Outcome]) -> Fraction:
    return sum(map(_accuracy, runs), Fraction(0)) / len(runs)


def _loss(run: Outcome) -> float:
    """Validation cross-entropy; NaN, as after an overflow, ranks last."""
    return math.inf if math.isnan(run.valid.ce_loss) else run.valid.ce_loss


def _test_summary(runs: Sequence[Outcome]) -> Summary | None:
    return summary([run.test.accuracy for run in runs]) if runs else None
