"""Tables of test accuracies with honest statistics, as Markdown."""

import math
from collections.abc import Mapping, Sequence

from fairseq_scl.experiments.protocol import (
    PairedDifference,
    best_validation,
    paired_difference,
    result_at_best,
    summary,
)
from fairseq_scl.experiments.records import Record


def comparison_table(records: Mapping[str, Sequence[Record]]) -> str:
    """Compare losses on the same samples, in Markdown.

    One row a loss: test accuracy at the best validation of each sample, mean ± sample
    standard deviation. Below, the paired difference of every further loss against the
    first, with its 95% interval, p-values, and on how many samples it won.

    Args:
        records: of each loss, in the same order of samples; the first is the baseline.
    """
    count = len(next(iter(records.values())))
    samples = [f"sample {number}" for number in range(count)]
    lines = [_row(["loss", *samples, "mean ± std"]), _row(["---"] * (count + 2))]
    accuracies = {
        loss: [result_at_best(record).accuracy for record in of_loss]
        for loss, of_loss in records.items()
    }
    for loss, values in accuracies.items():
        cells = [f"{value:.1f}" for value in values]
        lines.append(_row([loss, *cells, mean_and_std(values)]))
    baseline, *others = accuracies
    for loss in others:
        difference = paired_difference(accuracies[baseline], accuracies[loss])
        won = sum(
            b > a for a, b in zip(accuracies[baseline], accuracies[loss], strict=True)
        )
        lines += ["", f"{loss} against {baseline}: {in_words(difference, won)}"]
    return "\n".join(lines)


def mean_and_std(values: Sequence[float]) -> str:
    """Format mean ± sample standard deviation, to one digit like the paper."""
    result = summary(values)
    std = "" if math.isnan(result.std) else f" ± {result.std:.1f}"
    return f"{result.mean:.1f}{std}"


def in_words(difference: PairedDifference, won: int) -> str:
    """State a paired difference with its interval, p-values and number of pairs."""
    mean = f"{difference.mean:+.2f} points"
    if difference.count < 2:
        return f"{mean} on one sample; an interval needs two"
    return (
        f"{mean}, {difference.level:.0%} interval {difference.low:+.2f} to "
        f"{difference.high:+.2f} (paired t, n = {difference.count}), "
        f"p = {difference.t_p:.3f} (t), {difference.wilcoxon_p:.3f} (Wilcoxon); "
        f"better on {won} of {difference.count} samples"
    )


def run_rows(records: Mapping[str, Sequence[Record]]) -> list[dict[str, object]]:
    """List one row a run with exact counts, for a CSV file."""
    rows = []
    for loss, of_loss in records.items():
        for sample, record in enumerate(of_loss):
            valid, test = best_validation(record.valid), result_at_best(record)
            rows.append(
                {
                    "loss": loss,
                    "sample": sample,
                    "seed": record.settings["seed"],
                    "scl_lambda": record.settings["scl_lambda"],
                    "scl_temperature": record.settings["scl_temperature"],
                    "best_update": valid.update,
                    "valid_correct": valid.correct,
                    "valid_total": valid.total,
                    "test_correct": test.correct,
                    "test_total": test.total,
                    "seconds": round(record.seconds, 1),
                }
            )
    return rows


def signature(record: Record, samples: int) -> str:
    """Return one line that says how a table was made, to be printed under it."""
    settings, origin = record.settings, record.origin
    versions = origin["versions"]
    fairseq = versions.get("fairseq-fixed") or versions.get("fairseq")
    parts = {
        "samples": samples,
        "updates": settings["updates"],
        "batch": settings["batch_size"],
        "batching": settings["batching"],
        "lr": settings["learning_rate"],
        "lambda": settings["scl_lambda"],
        "tau": settings["scl_temperature"],
        "device": settings["device"],
        "torch": versions.get("torch"),
        "fairseq": fairseq,
        "fairseq-scl": versions.get("fairseq-scl"),
        "data": origin["sha256"]["data"][:8],
        "encoder": origin["sha256"]["encoder"][:8],
    }
    return "|".join(f"{name}:{value}" for name, value in parts.items())


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
