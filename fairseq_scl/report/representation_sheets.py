"""Measures of representations in a table's report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec

from fairseq_scl.errors import InputError
from fairseq_scl.experiments.geometry import MEASURES, TOP
from fairseq_scl.experiments.results import LossResult, TableResult
from fairseq_scl.experiments.statistics import Summary, summary
from fairseq_scl.report import layout
from fairseq_scl.report.numbers import NONE, mean_and_std
from fairseq_scl.report.sheets import Sheet
from fairseq_scl.typed import Finite, read_as

ANALYSIS = "analysis.json"
SPLIT = "test"  # of which runs measure their representations
MEASURED = (
    "Features are what the classification head reads. GM, HM: geometric and harmonic "
    "mean of the {top} largest singular values of the centered features. Eff. rank: "
    "exp of the entropy of the singular values (Roy and Vetterli 2007). For features "
    "scaled to length 1: alignment, the mean of ‖x - y‖² over pairs within a class, "
    "and uniformity, log of the mean of exp(-2‖x - y‖²) over all pairs (Wang and Isola "
    "2020); silhouette with cosine distance; class cosine, the cosine of the means of "
    "two classes. Singular values grow with the number of examples and the length of "
    "the features: compare them only on the same examples."
)


def representation_sheets(result: TableResult, folder: Path) -> list[Sheet]:
    """Return a sheet with measures of the test features, mean ± std per loss.

    Args:
        result: the results of a table.
        folder: the results folder; if it has an ``analysis.json`` of ``fairseq-scl
            analyze``, the encoders in it come first, as before fine-tuning.

    Returns:
        one sheet, or an empty list if no run measured its representations.

    Raises:
        InputError: ``analysis.json`` is damaged, or of another split or ``--top``.
    """
    if not any(record.representations for record in result.records):
        return []
    table, keys = result.table, layout.cell_keys(result.table)
    before = _before(folder / ANALYSIS, table.training.head_pooling)
    rows = [
        (*[NONE] * len(keys), name, NONE, *(f"{found[key]:.3g}" for key in MEASURES))
        for name, found in before.items()
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
        f"Mean ± sample std over all {table.repeated}s of the chosen combination, "
        f"each at its best validation. Rows without a number of {table.repeated}s are "
        "encoders before fine-tuning; a pooling in parentheses is not that of the runs."
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

    The result is empty if no run measured its representations.
    """
    records = [attempt.record for attempt in one.chosen_attempts if attempt.record]
    found = [record.representations for record in records if record.representations]
    if not found:
        return {}
    return {key: summary([measured[key] for measured in found]) for key in MEASURES}


_Measures: Any = msgspec.defstruct("_Measures", [(key, Finite) for key in MEASURES])


class _Model(msgspec.Struct):
    name: str
    kind: Literal["encoder", "model"]
    features: str
    measures: _Measures


class _Analysis(msgspec.Struct):
    """The part that is read from the JSON file of ``fairseq-scl analyze``."""

    SCHEMA: ClassVar[int] = 1

    models: list[_Model]
    split: str
    top: int


def _before(path: Path, pooling: str) -> Mapping[str, Mapping[str, float]]:
    if not path.is_file():
        return {}
    found = read_as(path, _Analysis)
    if (found.split, found.top) != (SPLIT, TOP):
        raise InputError(
            f"{path} has --split {found.split} --top {found.top}, but the runs were "
            f"measured with {SPLIT} and {TOP}: analyze again or move it elsewhere"
        )
    encoders = {}
    for one in found.models:
        if one.kind == "encoder":
            other = "" if one.features == pooling else f" ({one.features})"
            encoders[f"{one.name}{other}"] = msgspec.structs.asdict(one.measures)
    return encoders
