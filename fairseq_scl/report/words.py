"""Results in words: conclusions, remarks and names of cells."""

from collections import Counter
from collections.abc import Mapping

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
from fairseq_scl.experiments.statistics import PairedDifference
from fairseq_scl.experiments.variants import in_short_form
from fairseq_scl.report.layout import cell_keys, named
from fairseq_scl.report.numbers import interval
from fairseq_scl.report.signature import mixed_settings

SIGNS = {"scl_lambda": "λ", "scl_temperature": "τ"}


def verdicts(result: TableResult) -> list[tuple[str, str]]:
    """State for each cell and further loss whether it helped.

    Returns:
        pairs of a verdict, as in :func:`~fairseq_scl.experiments.results.verdict`, and
        a sentence. A single sentence covers all that are unknown for the same reason.
    """
    first, *others = result.table.losses
    found = []
    without: dict[str, list[str]] = {}  # cells and losses by the reason
    for cell in result.cells:
        name = cell_name(result, cell)
        unknown: dict[str, list[str]] = {}
        for loss in others:
            one = cell.losses[loss]
            if one.comparison is None:
                why = _why_unknown(cell.losses[first], one, result.table.repeated)
                unknown.setdefault(why, []).append(loss)
                continue
            kind = verdict(one.comparison)
            said = _said(one.comparison, result.table.repetitions)
            sentence = f"{name}: {loss}{_chosen(one)} {said}"
            both = (cell.losses[first], one)
            sentence += caution(
                {o.loss: (o.degenerate or 0, len(o.chosen_attempts)) for o in both}
            )
            found.append((kind, sentence))
        for why, losses in unknown.items():
            names = [name] if losses == others else [f"{name}, {u}" for u in losses]
            without.setdefault(why, []).extend(names)
    for why, names in without.items():
        found.append((UNKNOWN, f"Unknown, because {why}: {'; '.join(names)}."))
    return found


def _why_unknown(first: LossResult, one: LossResult, repeated: str) -> str:
    for loss in (first, one):
        if loss.selection.chosen is None and loss.count(DONE):
            return f"too few runs of {loss.loss} have finished to choose its options"
    return f"no {repeated} has finished with both losses"


def remarks(result: TableResult) -> list[str]:
    """Report missing and failed runs, and settings that differ between runs."""
    lines = []
    counts = Counter(attempt.state for attempt in result.attempts)
    if counts[FAILED] or counts[MISSING]:
        lines.append(
            f"Of {len(result.attempts)} planned runs: {counts[DONE]} finished, "
            f"{counts[FAILED]} failed, {counts[MISSING]} missing, as listed by cell "
            "below."
        )
    found = mixed_settings(result.records)
    if found:
        lines.append(f"Runs differ in settings or versions: {'; '.join(found)}.")
    return lines


def cell_name(result: TableResult, cell: CellResult) -> str:
    """Return the name of a cell within its table, such as ``SST-2, N = 20``."""
    keys = cell_keys(result.table)
    return ", ".join(named(key, cell.place[key]) for key in keys)


def in_short(comparison: PairedDifference | None) -> str:
    """Return where the intervals of a comparison are relative to 0."""
    words = {HELPED: "above 0", HURT: "below 0", OPEN: "contains 0"}
    return words.get(verdict(comparison), "unknown")


def _said(found: PairedDifference, planned: int) -> str:
    gain = f"{found.mean:+.2f} points on {found.count} of {planned} pairs"
    # The span of both intervals, each of which contains the mean.
    low = min(found.low, found.bootstrap_low)
    high = max(found.high, found.bootstrap_high)
    lacking = "an interval needs two pairs"
    if found.count > 1:
        lacking = "the same difference on all pairs gives no interval"
    sentences = {
        HELPED: f"helped, {gain}; the 95% intervals are above 0.",
        HURT: f"hurt, {gain}; the 95% intervals are below 0.",
        OPEN: f"shows no clear difference, {gain}; 0 is within the 95% interval, "
        f"{interval(low, high)}.",
        UNKNOWN: f"cannot be judged: {gain}; {lacking}.",
    }
    return sentences[verdict(found)]


def caution(counts: Mapping[str, tuple[int, int]]) -> str:
    """Warn about runs that learned nothing, since their difference is meaningless.

    Args:
        counts: of each loss, the runs that did no better than predicting a single
            class, and all runs.
    """
    found = [f"{bad} of {runs} runs of {n}" for n, (bad, runs) in counts.items() if bad]
    told = f" Caution: {', '.join(found)} did no better than predicting a single class."
    return told if found else ""


def _chosen(one: LossResult) -> str:
    known = one.hyperparameters
    if not known:
        return ""
    values = [
        f"{SIGNS.get(name, name)} = {in_short_form(v)}" for name, v in known.items()
    ]
    combinations = len(one.selection.candidates)
    if combinations > 1:
        values.append(f"chosen from {one.competing} of {combinations} combinations")
    return f" ({', '.join(values)})"
