"""Columns of a table's report that say what its losses do to representations."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec

from fairseq_scl.experiments.geometry import MEASURES, TOP
from fairseq_scl.experiments.results import LossResult, TableResult
from fairseq_scl.experiments.statistics import Summary, summary
from fairseq_scl.report import layout
from fairseq_scl.report.numbers import NONE, mean_and_std
from fairseq_scl.report.sheets import Sheet
from fairseq_scl.typed import Finite, read_as

ANALYSIS = "analysis.json"
MEASURED = (
    "Features are the final states at <s>. GM, HM: geometric and harmonic mean of the "
    "{top} largest singular values of the centred features. Eff. rank: exp of the "
    "entropy of the singular values (Roy and Vetterli 2007). Of features scaled to "
    "length 1: alignment, the mean of ‖x - y‖² over pairs of one class, and "
    "uniformity, log of the mean of exp(-2‖x - y‖²) over all pairs (Wang and Isola "
    "2020); silhouette by cosine distance; class cosine, the cosine of two classes' "
    "means. Singular values grow with the number of examples and the length of the "
    "features: compare them on the same examples alone."
)


def representation_sheets(result: TableResult, folder: Path) -> list[Sheet]:
    """Lay out measures of the test features: mean ± std over the runs of a loss.

    Args:
        result: what was found of a table.
        folder: of the results; encoders that ``fairseq-scl analyze`` has measured into
            its ``analysis.json`` come first, as they are before fine-tuning.

    Returns:
        one sheet, or none where no run has measured its representations.

    Raises:
        InputError: ``analysis.json`` is damaged.
    """
    if not any(record.representations for record in result.records):
        return []
    table, keys = result.table, layout.cell_keys(result.table)
    rows = [
        (*[NONE] * len(keys), name, NONE, *(f"{found[key]:.3g}" for key in MEASURES))
        for name, found in _before(folder / ANALYSIS).items()
    ]
    for cell in result.cells:
        for loss, one in cell.losses.items():
            if not (found := measures_of(one)):
                continue
            count = max(value.count for value in found.values())
            rows.append(
                (
                    *layout.texts(keys, cell.place),
                    loss,
                    f"{count} of {table.repetitions}",
                    *(mean_and_std(found[key], ".3g", ".2g") for key in MEASURES),
                )
            )
    header = [*(layout.NAMES[key] for key in keys), "loss", f"{table.repeated}s"]
    runs = (
        f"Mean ± sample std over every {table.repeated} of the chosen combination, "
        "each at its best validation; without a number of them: an encoder before "
        "fine-tuning."
    )
    return [
        Sheet(
            name="representations",
            title="Representations of the test examples",
            header=(*header, *MEASURES.values()),
            rows=tuple(rows),
            named=len(keys) + 1,
            notes=(runs, MEASURED.format(top=TOP)),
        )
    ]


def measures_of(one: LossResult) -> dict[str, Summary]:
    """Return mean and std of each measure over the runs of the chosen combination.

    Empty where no run has measured its representations.
    """
    records = [attempt.record for attempt in one.chosen_attempts if attempt.record]
    found = [record.representations for record in records if record.representations]
    if not found:
        return {}
    return {key: summary([measured[key] for measured in found]) for key in MEASURES}


def measure_columns(one: LossResult) -> dict[str, Any]:
    """Return the columns of a CSV file, ``None`` for what was not measured."""
    found = measures_of(one)
    row: dict[str, Any] = {}
    for key in MEASURES:
        value = found.get(key)
        row[f"{key}_mean"] = value and value.mean
        row[f"{key}_std"] = value and value.std
    return row


_Measures: Any = msgspec.defstruct("_Measures", [(key, Finite) for key in MEASURES])


class _Model(msgspec.Struct):
    name: str
    kind: Literal["encoder", "model"]
    measures: _Measures


class _Analysis(msgspec.Struct):
    """What is read of the file of ``fairseq-scl analyze``."""

    SCHEMA: ClassVar[int] = 1

    models: list[_Model]


def _before(path: Path) -> Mapping[str, Mapping[str, float]]:
    if not path.is_file():
        return {}
    models = read_as(path, _Analysis).models
    return {
        one.name: msgspec.structs.asdict(one.measures)
        for one in models
        if one.kind == "encoder"
    }
