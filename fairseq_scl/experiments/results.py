"""What a folder of results says: of each cell and loss the runs, the choice, the gain.

:func:`collect` reads the folder; the rest is pure. A run that is missing or failed
stays so: nothing is put in its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fairseq_scl.errors import InputError
from fairseq_scl.experiments.command import Run
from fairseq_scl.experiments.comparison import Comparison, compare, degenerate_runs
from fairseq_scl.experiments.records import Record
from fairseq_scl.experiments.results_folder import (
    ERROR,
    RECORD,
    last_line,
    read_floors,
    read_record,
    run_folder,
)
from fairseq_scl.experiments.runner import changed_settings, record_settings
from fairseq_scl.experiments.selection import (
    Outcome,
    Selection,
    outcome,
    select_few_shot,
    select_full_data,
)
from fairseq_scl.experiments.tables import FEW_SHOT, Table

TOP = 3
DONE, FAILED, MISSING = "done", "failed", "missing"
HELPED, HURT, OPEN, UNKNOWN = "helped", "hurt", "open", "unknown"


@dataclass(frozen=True)
class Attempt:
    """A planned run and what became of it.

    Attributes:
        run: as planned.
        record: if it has finished.
        error: the last line of what went wrong, if it failed.
        floors: the floor of the SCL term at each update, where it was written down.
    """

    run: Run
    record: Record | None = None
    error: str | None = None
    floors: tuple[tuple[int, float], ...] = ()

    @property
    def state(self) -> str:
        """Return ``done``, ``failed`` or ``missing``."""
        if self.record:
            return DONE
        return MISSING if self.error is None else FAILED


@dataclass(frozen=True)
class LossResult:
    """One loss in one cell of a table.

    Attributes:
        loss: its name.
        names: the hyper-parameters that tell its combinations apart, in their order.
        attempts: all planned runs.
        selection: by the rule of the table.
        degenerate: runs of the chosen combination at or under the majority class;
            ``None`` where a record does not say how many examples a class has.
        comparison: with the first loss, each at its chosen combination; ``None`` for
            the first loss itself, or without a pair.
    """

    loss: str
    names: tuple[str, ...]
    attempts: tuple[Attempt, ...]
    selection: Selection
    degenerate: int | None
    comparison: Comparison | None = None

    def count(self, state: str) -> int:
        """Return how many runs are ``done``, ``failed`` or ``missing``."""
        return sum(attempt.state == state for attempt in self.attempts)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The chosen λ and τ by name; empty if nothing is chosen or none is there."""
        if self.selection.chosen is None:
            return {}
        values = self.selection.chosen.hyperparameters
        return dict(zip(self.names, values, strict=True))

    @property
    def competing(self) -> int:
        """How many combinations had the runs that the choice is made of."""
        selection = self.selection
        return len(selection.candidates) - len(selection.passed_over)

    @property
    def chosen_attempts(self) -> tuple[Attempt, ...]:
        """The finished runs of the chosen combination."""
        if self.selection.chosen is None:
            return ()
        key = self.selection.chosen.hyperparameters
        return tuple(
            attempt
            for attempt in self.attempts
            if attempt.record and _key(attempt.run, self.names) == key
        )


@dataclass(frozen=True)
class CellResult:
    """A place of a table, see :attr:`Table.places`, and every loss there."""

    place: dict[str, Any]
    losses: dict[str, LossResult]

    @property
    def task(self) -> str:
        """The task."""
        return str(self.place["task"])


@dataclass(frozen=True)
class TableResult:
    """A table and what was found of it; its cells in the order of the table."""

    table: Table
    cells: tuple[CellResult, ...]

    @property
    def attempts(self) -> list[Attempt]:
        """All planned runs."""
        return [
            attempt
            for cell in self.cells
            for result in cell.losses.values()
            for attempt in result.attempts
        ]

    @property
    def records(self) -> list[Record]:
        """The records of all finished runs."""
        return [a.record for a in self.attempts if a.record is not None]

    def find(self, **where: Any) -> LossResult:
        """Return the result of one ``loss`` at one place."""
        loss = where.pop("loss")
        return next(
            cell.losses[loss]
            for cell in self.cells
            if cell.place.items() >= where.items()
        )


def collect(folder: Path, runs: Sequence[Run]) -> list[Attempt]:
    """Read what became of planned runs.

    Args:
        folder: of results, with a folder ``runs/NAME`` for each run that was begun.
        runs: as planned.

    Raises:
        InputError: a record is damaged, or it is of another run than its folder's.
            Where it was trained and in which precision may differ.
    """
    attempts = []
    for run in runs:
        place = run_folder(folder, run.name)
        record = read_record(place)
        if record is not None:
            _check_of(record, run, place / RECORD)
            attempts.append(Attempt(run, record, None, read_floors(place)))
        elif (place / ERROR).is_file():
            attempts.append(Attempt(run, None, last_line(place / ERROR)))
        else:
            attempts.append(Attempt(run))
    return attempts


def _check_of(record: Record, run: Run, path: Path) -> None:
    ignored = ["device", "precision"]
    if not run.updates:  # counted in epochs of data that is not here
        ignored += ["updates", "validations"]
    if changed := changed_settings(run, record, ignored):
        key = changed[0]
        planned = record_settings(run)[key]
        raise InputError(
            f"{path} is the record of another run ({', '.join(changed)}: {key} is "
            f"{record.settings.get(key)!r}, planned is {planned!r}): delete "
            "its folder"
        )


def summarise(table: Table, attempts: Sequence[Attempt]) -> TableResult:
    """Apply the table's selection rule, and compare every loss with the first.

    Args:
        table: whose runs they are.
        attempts: all of its planned runs, in any order.

    Raises:
        ValueError: a combination has a seed twice.
    """
    found: dict[tuple[Any, ...], list[Attempt]] = {}
    names = [*table.places[0], "loss"]
    for attempt in attempts:
        key = tuple(attempt.run.cell[name] for name in names)
        found.setdefault(key, []).append(attempt)
    cells = []
    for place in table.places:
        losses: dict[str, LossResult] = {}
        for loss in table.losses:
            first = next(iter(losses.values()), None)
            mine = found.get((*place.values(), loss), [])
            losses[loss] = _loss_result(table, loss, mine, first)
        cells.append(CellResult(place, losses))
    return TableResult(table, tuple(cells))


def best_attempt(results: Sequence[LossResult]) -> Attempt | None:
    """Return the run whose model to use: of the chosen combination, the first by rule.

    Where too few runs are done for a choice, a single combination needs none.

    Args:
        results: of which one has finished runs.

    Returns:
        the run, or ``None`` if none can be told to be the best.
    """
    begun = [r for r in results if any(c.runs for c in r.selection.candidates)]
    if len(begun) != 1:
        return None
    selection = begun[0].selection
    finished = [c for c in selection.candidates if c.runs]
    chosen = selection.chosen or (finished[0] if len(finished) == 1 else None)
    if chosen is None:
        return None
    best = (chosen.runs[0].seed, chosen.hyperparameters)
    names = begun[0].names
    return next(
        a for a in begun[0].attempts if (a.run.seed, _key(a.run, names)) == best
    )


def verdict(comparison: Comparison | None) -> str:
    """Say what a paired difference shows, by the wider of its two 95% intervals.

    Returns:
        ``helped`` or ``hurt`` if Student's t and the bootstrap interval are both above
        or both below 0, ``open`` if one of them contains 0, ``unknown`` without two
        pairs.
    """
    if comparison is None or comparison.difference.count < 2:
        return UNKNOWN
    difference, bootstrap = comparison.difference, comparison.bootstrap
    if min(difference.low, bootstrap.low) > 0:
        return HELPED
    return HURT if max(difference.high, bootstrap.high) < 0 else OPEN


def _loss_result(
    table: Table, loss: str, attempts: Sequence[Attempt], first: LossResult | None
) -> LossResult:
    cell: dict[str, Any] = attempts[0].run.cell if attempts else {}
    names = tuple(name for name in table.losses[loss] if name in cell)
    runs: dict[tuple[Any, ...], list[Outcome]] = {}
    for attempt in attempts:
        # A combination without a finished run is there too, and counts as missing.
        outcomes = runs.setdefault(_key(attempt.run, names), [])
        if attempt.record:
            outcomes.append(outcome(attempt.record))
    if table.selection == FEW_SHOT:
        top = min(TOP, table.repetitions)
        selection = select_few_shot(runs, table.repetitions, top)
    else:
        selection = select_full_data(runs, table.repetitions)
    result = LossResult(loss, names, tuple(attempts), selection, None)
    comparison = None
    if first and first.selection.chosen and selection.chosen:
        old, new = first.selection.chosen.runs, selection.chosen.runs
        comparison = compare(old, new, table.repetitions)
    records = [a.record for a in result.chosen_attempts if a.record is not None]
    return replace(result, degenerate=_count_degenerate(records), comparison=comparison)


def _key(run: Run, names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(run.cell[name] for name in names)


def _count_degenerate(records: Sequence[Record]) -> int | None:
    count = 0
    for record in records:
        classes = record.origin.get("classes")
        if classes is None or record.settings.get("max_valid_steps") is not None:
            return None  # the counts are not known, or not of what was measured
        labels = classes["valid"], classes["test"]
        count += len(degenerate_runs([outcome(record)], *labels))
    return count
