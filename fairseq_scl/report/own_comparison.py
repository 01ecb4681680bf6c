"""The comparison of objectives on a user's own table, as sheets and one sentence."""

from collections.abc import Mapping, Sequence

from fairseq_scl.experiments.results import HELPED, HURT, OPEN, UNKNOWN, verdict
from fairseq_scl.experiments.selection import Outcome, compare
from fairseq_scl.experiments.statistics import PairedDifference, summary
from fairseq_scl.report.numbers import interval, mean_and_std, p_value
from fairseq_scl.report.sheets import Sheet
from fairseq_scl.report.words import caution, in_short

WORDS = {
    HELPED: "better than",
    HURT: "worse than",
    OPEN: "not clearly different from",
    UNKNOWN: "not comparable with",
}


def own_sheets(outcomes: Mapping[str, Sequence[Outcome]]) -> list[Sheet]:
    """Return the accuracies by sample, and their paired differences to the first."""
    found = {
        name: [one.test.accuracy for one in sorted(runs, key=lambda one: one.seed)]
        for name, runs in outcomes.items()
    }
    samples = len(next(iter(found.values())))
    accuracies = Sheet(
        name="samples",
        title="Test accuracy in percent by training sample",
        header=("method", *(f"sample {n}" for n in range(samples)), "mean ± std"),
        rows=tuple(
            (name, *(f"{value:.1f}" for value in values), mean_and_std(summary(values)))
            for name, values in found.items()
        ),
        notes=(
            "logistic regression: on the features of the encoder before fine-tuning.",
        ),
    )
    first, compared = _compared(outcomes)
    differences = Sheet(
        name="differences",
        title=f"Paired differences from {first} in points",
        header=("method", "difference", "95% t", "95% bootstrap", "p (t)", "shows"),
        rows=tuple(
            (
                name,
                f"{one.mean:+.2f}",
                interval(one.low, one.high),
                interval(one.bootstrap_low, one.bootstrap_high),
                p_value(one.t_p),
                in_short(one),
            )
            for name, one in compared.items()
        ),
        notes=(
            "All samples share the test texts and overlap with each other, so results "
            "on another file would vary more than these intervals suggest. The "
            "intervals are not corrected for multiple comparisons.",
        ),
    )
    return [accuracies, differences]


def conclusion(
    outcomes: Mapping[str, Sequence[Outcome]], size: int, degenerate: Mapping[str, int]
) -> str:
    """Say in one sentence what the intervals support, and which runs learned nothing.

    Args:
        outcomes: the outcomes of each method on the same samples.
        size: number of texts per training sample.
        degenerate: number of runs of each method that did no better than predicting a
            single class.
    """
    first, compared = _compared(outcomes)
    samples = len(outcomes[first])
    parts = [
        f"{name} is {WORDS[verdict(one)]} {first} ({one.mean:+.2f} points, "
        f"{interval(one.low, one.high)})"
        for name, one in compared.items()
    ]
    sentence = f"On {samples} samples of {size} texts, {', and '.join(parts)}."
    if samples == 1:
        sentence = (
            f"One sample of {size} texts does not show whether a method is better."
        )
    return sentence + caution({n: (bad, samples) for n, bad in degenerate.items()})


def _compared(
    outcomes: Mapping[str, Sequence[Outcome]],
) -> tuple[str, dict[str, PairedDifference]]:
    """Return the first method, and its comparison with each other."""
    first, *others = outcomes
    found = {name: compare(outcomes[first], outcomes[name]) for name in others}
    return first, {name: one for name, one in found.items() if one is not None}
