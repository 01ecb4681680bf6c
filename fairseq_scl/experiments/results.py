"""The results of a table: for each cell and loss, its runs, the selection and the gain.

:func:`collect` reads a results folder; everything else is a pure function. A missing or
failed run is never replaced by a number.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fairseq_scl.errors import InputError
from fairseq_scl.experiments.command import Run
from fairseq_scl.experiments.records import Record
from fairseq_scl.experiments.results_folder import (
    ERROR,
    RECORD,
    read_error,
    read_floors,
    read_record,
    run_folder,
)
from fairseq_scl.experiments.runner import changed_settings, record_settings
from fairseq_scl.experiments.selection import (
    Outcome,
    Selection,
    compare,
    outcome,
    select_few_shot,
    select_full_data,
)
from fairseq_scl.experiments.statistics import PairedDifference
from fairseq_scl.experiments.tables import FEW_SHOT, Table

TOP = 3
DONE, FAILED, MISSING = "done", "failed", "missing"
HELPED, HURT, OPEN, UNKNOWN = "helped", "hurt", "open", "unknown"


@dataclass(frozen=True)
class Attempt:
    """A planned run, with its record if it has finished or the last line of its error.

    ``floors`` are pairs of an update and the floor of the SCL term there, if recorded.
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
        names: the hyper-parameters that differ between its combinations, in order.
        attempts: all planned runs.
        selection: the result of the table's selection rule.
        degenerate: number of runs of the chosen combination at or below the majority
            class; ``None`` if a record lacks the number of examples per class.
        comparison: with the first loss, each at its chosen combination; ``None`` for
            the first loss itself, or without a pair.
    """

    loss: str
    names: tuple[str, ...]
    attempts: tuple[Attempt, ...]
    selection: Selection
    degenerate: int | None
    comparison: PairedDifference | None = None

    def count(self, state: str) -> int:
        """Return the number of runs in a state: ``done``, ``failed`` or ``missing``."""
        return sum(attempt.state == state for attempt in self.attempts)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The chosen hyper-parameters by name; empty if there are none."""
        if self.selection.chosen is None:
            return {}
        values = self.selection.chosen.hyperparameters
        return dict(zip(self.names, values, strict=True))

    @property
    def competing(self) -> int:
        """The number of combinations with enough runs to be chosen."""
        return len(self.selection.competing)

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
    """A place in a table, see :attr:`Table.places`, and the result of each loss."""

    place: dict[str, Any]
    losses: dict[str, LossResult]


@dataclass(frozen=True)
class TableResult:
    """A table and its results; the cells are in the order of the table."""

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
    """Read the outcome of planned runs from a results folder.

    Raises:
        InputError: a record is damaged or belongs to another run, or runs of the same
            folder were trained on different contents. The device and the precision may
            differ from the plan.
    """
    attempts = []
    for run in runs:
        place = run_folder(folder, run.name)
        record = read_record(place)
        if record is not None:
            _check_of(record, run, place / RECORD)
            attempts.append(Attempt(run, record, None, read_floors(place)))
        elif (place / ERROR).is_file():
            attempts.append(Attempt(run, None, read_error(place)))
        else:
            attempts.append(Attempt(run))
    _check_contents(attempts, folder)
    return attempts


def _check_contents(attempts: Sequence[Attempt], folder: Path) -> None:
    """Check that data and encoders did not change between the runs of a sweep."""
    for name in ("data", "encoder", "user_dir"):
        seen: dict[Path | None, dict[str | None, list[str]]] = {}
        for one in attempts:
            if one.record:
                of_place = seen.setdefault(getattr(one.run, name), {})
                checksum = one.record.origin["sha256"].get(name)
                of_place.setdefault(checksum, []).append(one.run.name)
        for place, (runs, *others) in [(p, [*v.values()]) for p, v in seen.items()]:
            if others:
                both = [run_folder(folder, names[0]) for names in (runs, others[0])]
                raise InputError(
                    f"{both[0]} and {both[1]} were trained on different contents of "
                    f"{place} ({len(runs)} and {len(others[0])} runs): delete the "
                    "folders of the older ones"
                )


def _check_of(record: Record, run: Run, path: Path) -> None:
    ignored = ["device", "precision"]
    if not run.updates:  # planned in epochs, and the data is not on this machine
        ignored += ["updates", "validations"]
    if changed := changed_settings(run, record, ignored):
        key = changed[0]
        planned = record_settings(run)[key]
        raise InputError(
            f"{path} is the record of another run (different: {', '.join(changed)}): "
            f"{key} is {record.settings.get(key)!r}, but {planned!r} in the plan: "
            "delete its folder"
        )


def summarize(table: Table, attempts: Sequence[Attempt]) -> TableResult:
    """Apply the table's selection rule, and compare every loss with the first.

    Raises:
        ValueError: a seed occurs twice in a combination.
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
    """Return the run whose model to use: the best run of the chosen combination.

    If too few runs have finished for a choice, the only combination with finished runs
    is used. The result is ``None`` if no or several losses or combinations have them.
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


def verdict(comparison: PairedDifference | None) -> str:
    """Return the conclusion that both 95% intervals of a paired difference support.

    Returns:
        ``helped`` or ``hurt`` if Student's t and the bootstrap interval are both above
        or both below 0, ``open`` if one of them contains 0, and ``unknown`` without
        intervals, see :func:`~fairseq_scl.experiments.statistics.paired_difference`.
    """
    if comparison is None or math.isnan(comparison.low):
        return UNKNOWN
    if min(comparison.low, comparison.bootstrap_low) > 0:
        return HELPED
    return HURT if max(comparison.high, comparison.bootstrap_high) < 0 else OPEN


def _loss_result(
    table: Table, loss: str, attempts: Sequence[Attempt], first: LossResult | None
) -> LossResult:
    cell: dict[str, Any] = attempts[0].run.cell if attempts else {}
    names = tuple(name for name in table.losses[loss] if name in cell)
    runs: dict[tuple[Any, ...], list[Outcome]] = {}
    for attempt in attempts:
        # A combination without finished runs is kept, and its runs count as missing.
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
        comparison = compare(first.selection.chosen.runs, selection.chosen.runs)
    records = [a.record for a in result.chosen_attempts if a.record is not None]
    return replace(result, degenerate=count_degenerate(records), comparison=comparison)


def _key(run: Run, names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(run.cell[name] for name in names)


def count_degenerate(records: Sequence[Record]) -> int | None:
    """Count the runs that did no better than always predicting the majority class.

    A run counts if its validation or test accuracy is at or below the share of the
    majority class in that subset. The result is ``None`` if that is unknown.

    Raises:
        ValueError: a run was evaluated on a different number of examples.
    """
    count = 0
    for record in records:
        classes = record.origin.get("classes")
        if classes is None or record.settings.get("max_valid_steps") is not None:
            return None  # unknown, or only part of a subset was evaluated
        run = outcome(record)
        is_degenerate = False
        for subset, result in (("valid", run.valid), ("test", run.test)):
            labels = classes[subset].values()
            if result.total != sum(labels):
                raise ValueError(
                    f"{subset} accuracy is of {result.total} examples, the label counts"
                    f" are of {sum(labels)}"
                )
            is_degenerate |= result.correct <= max(labels)
        count += is_degenerate
    return count
