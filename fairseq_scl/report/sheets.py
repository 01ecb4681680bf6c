"""Results as sheets of text, to be formatted as Markdown, LaTeX and HTML."""

from collections.abc import Sequence
from dataclasses import dataclass

from fairseq_scl.experiments.results import (
    DONE,
    FAILED,
    MISSING,
    TOP,
    CellResult,
    LossResult,
    TableResult,
)
from fairseq_scl.experiments.statistics import PairedDifference
from fairseq_scl.experiments.tables import FEW_SHOT
from fairseq_scl.experiments.variants import ORIGINAL, in_short_form
from fairseq_scl.report import layout
from fairseq_scl.report.numbers import NONE, interval, mean_and_std, p_value
from fairseq_scl.report.paper import PaperTable, paper_tables
from fairseq_scl.report.words import SIGNS, in_short


@dataclass(frozen=True)
class Sheet:
    """A table of text.

    Attributes:
        name: short name, for labels.
        title: title above the table.
        header: one text per column.
        rows: rows of as many texts.
        groups: headings above the header, each with the number of columns it spans.
        named: number of columns on the left that name the row.
        notes: notes below the table.
        prose: whether the last column contains sentences.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    groups: tuple[tuple[str, int], ...] = ()
    named: int = 1
    notes: tuple[str, ...] = ()
    prose: bool = False


def sheets(result: TableResult) -> list[Sheet]:
    """Return the sheets of a report: accuracies, their runs, and differences.

    A table of a single loss has no differences.
    """
    found = [accuracies(result), basis(result)]
    return [*found, differences(result)] if len(result.table.losses) > 1 else found


def accuracies(result: TableResult) -> Sheet:
    """Return our accuracies next to the paper's, in the layout of the paper.

    There is one row per loss, size and batch size, and two columns per task; in Table 5
    one row per task and loss, and two columns per temperature. Ours are those of the
    runs that the paper's rule reports.
    """
    table, paper = result.table, paper_tables().get(result.table.name)
    column = layout.column_key(table)
    keys = [key for key in layout.cell_keys(table) if key != column]
    has_average = bool(layout.averaged(table))
    side = ("ours", "paper") if paper else ("ours",)
    groups = [("", len(keys) + 1)]
    groups += [(layout.named(column, c), len(side)) for c in layout.columns(table)]
    groups += [("average", len(side))] if has_average else []
    header = [*_names(keys), "loss", *side * (len(groups) - 1)]
    rows = []
    for place in layout.rows(table):
        for loss in table.losses:
            row = [*layout.texts(keys, place), loss]
            for value in layout.columns(table):
                where = {**place, column: value, "loss": loss}
                row.append(reported(result.find(**where)))
                row += [mean_and_std(paper.find(**where))] if paper else []
            if has_average:
                average = layout.average(result, place, loss)
                missing = f"{NONE} ({average.columns} of {average.expected})"
                row.append(mean_and_std(average.ours) or missing)
                row += [mean_and_std(average.paper)] if paper else []
            rows.append(tuple(row))
    return Sheet(
        name="accuracies",
        title=table.caption,
        header=tuple(header),
        rows=tuple(rows),
        groups=tuple(groups),
        named=len(keys) + 1,
        notes=_accuracy_notes(result, paper),
    )


def basis(result: TableResult) -> Sheet:
    """Return the basis of each number: the choice, its runs, and run counts."""
    rows = []
    options = layout.options(result.table)
    for cell in result.cells:
        for loss, one in cell.losses.items():
            selection, chosen = one.selection, one.selection.chosen
            known = one.hyperparameters
            degenerate = "?" if one.degenerate is None else str(one.degenerate)
            rows.append(
                (
                    *_cell_values(result, cell),
                    loss,
                    *(in_short_form(known.get(name, NONE)) for name in options),
                    f"{one.competing} of {len(selection.candidates)}",
                    f"{len(chosen.runs) if chosen else 0} of {selection.expected}",
                    mean_and_std(selection.test_of_all) or NONE,
                    degenerate if chosen else NONE,
                    *(str(one.count(state)) for state in (DONE, FAILED, MISSING)),
                )
            )
    repeated = f"{result.table.repeated}s"
    header = [*_names(layout.cell_keys(result.table)), "loss"]
    header += [SIGNS.get(name, name) for name in options]
    header += ["combinations", repeated, f"all {repeated}", "degenerate"]
    header += ["finished", "failed", "missing"]
    return Sheet(
        name="runs",
        title="Choices and runs behind the accuracies",
        header=tuple(header),
        rows=tuple(rows),
        named=header.index("loss") + 1,
        notes=(
            f"{', '.join(SIGNS.get(name, name) for name in options)}: the chosen "
            "values. combinations: how many of the planned combinations competed; a "
            "combination competes if none has more finished runs. "
            f"{repeated}, all {repeated}: number of finished runs of the chosen "
            "combination, and mean ± std of their test accuracy. degenerate: of these, "
            "runs with a validation or test accuracy at or below the majority class "
            "(? if unknown). The last three columns count runs of all combinations.",
        ),
    )


def differences(result: TableResult) -> Sheet:
    """Return paired differences of every loss from the first, with conclusions."""
    baseline, *others = result.table.losses
    known = tuple(layout.options(result.table))
    options = "λ and τ" if known == tuple(SIGNS) else "options"
    rows = []
    for cell in result.cells:
        for loss in others:
            found = cell.losses[loss].comparison
            rows.append(
                (
                    *_cell_values(result, cell),
                    f"{loss} − {baseline}",
                    *_difference(found, result.table.repetitions),
                    in_short(found),
                )
            )
    repeated = result.table.repeated
    header = [*_names(layout.cell_keys(result.table)), "losses", "pairs", "difference"]
    header += ["95% t", "95% bootstrap", "p (t)", "p (Wilcoxon)", "won–lost", "shows"]
    return Sheet(
        name="differences",
        title=f"Paired differences of test accuracy in points, over all {repeated}s",
        header=tuple(header),
        rows=tuple(rows),
        named=header.index("losses") + 1,
        notes=(
            f"Each loss with its chosen {options}, on all {repeated}s that "
            f"both have finished, not only the reported ones.{_searched(result)} "
            "Intervals and p-values are not corrected for multiple comparisons.",
        ),
    )


def reported(one: LossResult) -> str:
    """Format the number that the paper's rule reports, or why it is missing."""
    selection = one.selection
    most = max((len(c.runs) for c in selection.candidates), default=0)
    if selection.test is None:
        return f"{NONE} ({most} of {selection.expected})"
    missing = "" if most == selection.expected else f" ({most} of {selection.expected})"
    return mean_and_std(selection.test) + missing


def _accuracy_notes(result: TableResult, paper: PaperTable | None) -> tuple[str, ...]:
    table = result.table
    count = table.repetitions
    top = min(TOP, count) if table.selection == FEW_SHOT else 1
    best = f"{count} {table.repeated}s with the best validation accuracy"
    if count == 1:
        rule = f"the only {table.repeated}"
    elif table.selection != FEW_SHOT:
        rule = f"the one of {best}"
    else:
        rule = "mean ± sample std of "
        rule += f"the {top} of {best}" if top < count else f"all {count} samples"
    some = (
        f"({count - 1} of {count}) means that one run of the combination has not "
        f"finished, {NONE} that too few have for the rule."
    )
    none = f"{NONE} means that too few runs have finished."
    notes = [f"ours: {rule}. {some if top < count else none}"]
    if paper:
        notes.append(
            f"paper: Gunel et al. (2021), {table.name.replace('table', 'Table ')}, "
            f"{paper.caption}, {paper.model}."
        )
    if table.temperatures and layout.averaged(table):
        notes.append(
            "average: mean ± sample std of all accuracies that the augmented columns "
            f"report, without {ORIGINAL}."
        )
    steps = table.training.max_valid_steps
    if steps is not None:
        notes.append(
            f"Only {steps} {'batch' if steps == 1 else 'batches'} of each validation "
            "and test set were evaluated: these numbers only test the pipeline."
        )
    return tuple(notes)


def _searched(result: TableResult) -> str:
    """Say which losses had more combinations of options to choose from."""
    first, *others = result.table.losses
    more: dict[str, None] = {}  # in order
    fewer: dict[str, None] = {}
    for cell in result.cells:
        tried = {loss: max(1, one.competing) for loss, one in cell.losses.items()}
        compared = [loss for loss in others if cell.losses[loss].comparison is not None]
        more |= dict.fromkeys(n for n in compared if tried[n] > tried[first])
        fewer |= dict.fromkeys(n for n in compared if tried[n] < tried[first])
    pairs = [(" and ".join(more), first), (first, " and ".join(fewer))]
    return "".join(
        f" The options of {favored} are chosen from more combinations than those of "
        f"{other}, which slightly favors {favored}."
        for favored, other in pairs
        if favored and other
    )


def _cell_values(result: TableResult, cell: CellResult) -> list[str]:
    return layout.texts(layout.cell_keys(result.table), cell.place)


def _names(keys: Sequence[str]) -> list[str]:
    return [layout.NAMES[key] for key in keys]


def _difference(found: PairedDifference | None, planned: int) -> tuple[str, ...]:
    if found is None:
        return (f"0 of {planned}", *[NONE] * 6)
    return (
        f"{found.count} of {planned}",
        f"{found.mean:+.2f}",
        interval(found.low, found.high),
        interval(found.bootstrap_low, found.bootstrap_high),
        p_value(found.t_p),
        p_value(found.wilcoxon_p),
        f"{found.won}–{found.lost}",
    )
