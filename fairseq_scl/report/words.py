"""Results in words: one sentence a cell, names of cells, numbers with signs."""

from collections import Counter

from fairseq_scl.experiments.comparison import Comparison
from fairseq_scl.experiments.results import (
    DONE,
    FAILED,
    HELPED,
    HURT,
    MISSING,
    OPEN,
    UNKNOWN,
    CellResult,
    LossResult,
    TableResult,
    verdict,
)
from fairseq_scl.experiments.variants import in_short_form
from fairseq_scl.report.layout import cell_keys, named
from fairseq_scl.report.numbers import interval
from fairseq_scl.report.signature import unlike

SIGNS = {"scl_lambda": "λ", "scl_temperature": "τ"}


def verdicts(result: TableResult) -> list[tuple[str, str]]:
    """Say plainly whether the further losses helped.

    Returns:
        a sentence for each cell and further loss, after its kind as
        :func:`~fairseq_scl.experiments.results.verdict` has it; one for all those that
        have no pair of finished runs.
    """
    first, *others = result.table.losses
    found, without = [], []
    for cell in result.cells:
        name, unknown = cell_name(result, cell), []
        for loss in others:
            one = cell.losses[loss]
            if one.comparison is None:
                unknown.append(loss)
                continue
            kind = verdict(one.comparison)
            sentence = f"{name}: {loss}{_chosen(one)} {_said(one.comparison)}"
            sentence += _degenerate([cell.losses[first], one])
            found.append((kind, sentence))
        if unknown:
            all_of_them = unknown == others
            without += [name] if all_of_them else [f"{name}, {u}" for u in unknown]
    if without:
        sentence = f"Unknown, for no {result.table.repeated} has finished with both "
        sentence += f"losses: {'; '.join(without)}."
        found.append((UNKNOWN, sentence))
    return found


def remarks(result: TableResult) -> list[str]:
    """Say what of the table is missing or failed, and which runs were made unlike."""
    lines = []
    counts = Counter(attempt.state for attempt in result.attempts)
    if counts[FAILED] or counts[MISSING]:
        lines.append(
            f"Of {len(result.attempts)} planned runs: {counts[DONE]} finished, "
            f"{counts[FAILED]} failed, {counts[MISSING]} missing; the columns below "
            "say where."
        )
    found = unlike(result.records)
    if found:
        lines.append(f"Not all runs were made alike: {'; '.join(found)}.")
    return lines


def cell_name(result: TableResult, cell: CellResult) -> str:
    """Return ``SST-2, N = 20``, as much as tells the cells of the table apart."""
    keys = cell_keys(result.table)
    return ", ".join(named(key, cell.place[key]) for key in keys)


def in_short(comparison: Comparison | None) -> str:
    """Say in two words what a comparison shows."""
    words = {HELPED: "above 0", HURT: "below 0", OPEN: "contains 0"}
    return words.get(verdict(comparison), "unknown")


def pairs(found: Comparison) -> str:
    """Say on how many pairs a comparison stands."""
    return f"{found.difference.count} of {found.expected}"


def _said(found: Comparison) -> str:
    gain = f"{found.difference.mean:+.2f} points on {pairs(found)} pairs"
    sentences = {
        HELPED: f"helped, {gain}; the 95% intervals are above 0.",
        HURT: f"hurt, {gain}; the 95% intervals are below 0.",
        OPEN: f"shows no clear difference, {gain}; 0 is within the 95% interval, "
        f"{interval(*_widest(found))}.",
        UNKNOWN: f"is unknown, {gain}; an interval needs two.",
    }
    return sentences[verdict(found)]


def _degenerate(losses: list[LossResult]) -> str:
    """Say how many runs learned nothing; their difference tells nothing either."""
    found = [one for one in losses if one.degenerate]
    if not found:
        return ""
    counts = ", ".join(
        f"{one.degenerate} of {sum(a.record is not None for a in one.chosen_attempts)} "
        f"runs of {one.loss}"
        for one in found
    )
    return f" Beware: no better than one answer to everything were {counts}."


def _chosen(one: LossResult) -> str:
    known = one.hyperparameters
    if not known:
        return ""
    values = [
        f"{SIGNS.get(name, name)} = {in_short_form(v)}" for name, v in known.items()
    ]
    combinations = len(one.selection.candidates)
    if combinations > 1:
        values.append(f"chosen of {one.competing} of {combinations} combinations")
    return f" ({', '.join(values)})"


def _widest(found: Comparison) -> tuple[float, float]:
    """Return the span of both intervals; each of them holds the mean."""
    both = (found.difference, found.bootstrap)
    return min(one.low for one in both), max(one.high for one in both)
