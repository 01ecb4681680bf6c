"""Tables of test accuracies with honest statistics, as Markdown."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence

from fairseq_scl.experiments.records import Record
from fairseq_scl.experiments.statistics import (
    PairedDifference,
    best_validation,
    paired_difference,
    result_at_best,
    summary,
)
from fairseq_scl.experiments.tables import Table


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
    settings = record.settings
    parts = {"samples": samples, **_shared_settings([record])}
    parts |= {"lambda": settings["scl_lambda"], "tau": settings["scl_temperature"]}
    return _line(parts | _shared_origin([record]))


def table_signature(table: Table, records: Sequence[Record]) -> str:
    """Return the line for a whole table of the paper.

    Where its runs differ, all values are there with commas between them. ``data`` is
    the checksum of the only data folder, or one over the checksums of all of them.
    """
    parts: dict[str, object] = {
        "table": table.name,
        "protocol": table.protocol,
        f"{table.repeated}s": table.repetitions,
    }
    if not records:
        return _line(parts)
    parts |= _shared_settings(records)
    parts["valid"] = _values(r.settings.get("validations") for r in records)
    parts["precision"] = _precisions(records)
    parts |= _shared_origin(records)
    parts["commit"] = _values(_commit(r) for r in records)
    return _line(parts)


def unlike(records: Sequence[Record]) -> list[str]:
    """List what should be the same in all runs of a table, but is not."""
    found = {
        **{
            name: _values(record.settings.get(name) for record in records)
            for name in ("device", "batching", "max_positions")
        },
        "precision": _precisions(records),
        **{
            name: _values(record.origin.get(name) for record in records)
            for name in ("python", "machine", "gpu", "driver", "threads")
        },
        **{
            name: _values(_version(record, name) for record in records)
            for name in ("torch", "numpy", "fairseq", "fairseq-scl")
        },
        "commit": _values(_commit(record) for record in records),
    }
    return [f"{k}: {v.replace(',', ', ')}" for k, v in found.items() if "," in v]


def _shared_settings(records: Sequence[Record]) -> dict[str, object]:
    names = {"updates": "updates", "batch": "batch_size", "batching": "batching"}
    names["lr"] = "learning_rate"
    return {
        short: _values(record.settings.get(name) for record in records)
        for short, name in names.items()
    }


def _precisions(records: Sequence[Record]) -> str:
    """Join the precisions; a record without one is older than the choice."""
    return _values(record.settings.get("precision", "fp32") for record in records)


def _shared_origin(records: Sequence[Record]) -> dict[str, object]:
    parts: dict[str, object] = {
        "device": _values(record.settings.get("device") for record in records)
    }
    for name in ("torch", "fairseq", "fairseq-scl"):
        parts[name] = _values(_version(record, name) for record in records)
    data = sorted({record.origin["sha256"]["data"] for record in records})
    if len(data) > 1:
        data = [hashlib.sha256("\n".join(data).encode()).hexdigest()]
    parts["data"] = data[0][:8]
    parts["encoder"] = _values(r.origin["sha256"]["encoder"][:8] for r in records)
    return parts


def _version(record: Record, name: str) -> str | None:
    versions = record.origin["versions"]
    if name == "fairseq" and "fairseq-fixed" in versions:
        name = "fairseq-fixed"
    return versions.get(name)


def _commit(record: Record) -> str | None:
    """Return the commit in 8 digits; + stands for changes that were not committed."""
    commit = record.origin.get("commit")
    return commit and commit[:8] + ("+" if record.origin.get("changed_files") else "")


def _values(values: Iterable[object]) -> str:
    """Join distinct values by commas, numbers in their order."""

    def rank(value: object) -> tuple[float, str]:
        return (value if isinstance(value, (int, float)) else 0, str(value))

    return ",".join(str(value) for value in sorted(set(values), key=rank))


def _line(parts: Mapping[str, object]) -> str:
    return "|".join(f"{name}:{value}" for name, value in parts.items())


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
