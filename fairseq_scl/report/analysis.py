"""The tables and files of ``fairseq-scl analyze``."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fairseq_scl.data.files import sha256, write_json, write_then_rename
from fairseq_scl.data.folders import list_files
from fairseq_scl.experiments.architecture import encoder_pooling
from fairseq_scl.experiments.frozen import kind_of
from fairseq_scl.experiments.geometry import MEASURES, TOP
from fairseq_scl.experiments.probe import STRENGTHS, Probe
from fairseq_scl.report.markdown import sheet_as_markdown
from fairseq_scl.report.representation_sheets import MEASURED
from fairseq_scl.report.sheets import Sheet


def analysis_sheets(
    split: str,
    found: Mapping[str, Mapping[str, float]],
    probes: Mapping[str, Mapping[str, Probe]],
    top: int = TOP,
) -> list[Sheet]:
    """Return a sheet of measures, one row per model, and one of probes, if any.

    Args:
        split: the split that was measured.
        found: measures by model.
        probes: probes by data folder and model; a column per data folder.
        top: number of largest singular values that were averaged.
    """
    rows = [
        (name, *(f"{one[key]:.3g}" for key in MEASURES)) for name, one in found.items()
    ]
    sheets = [
        Sheet(
            name="representations",
            title=f"Representations of the {split} examples",
            header=("model", *MEASURES.values()),
            rows=tuple(rows),
            notes=(MEASURED.format(top=top),),
        )
    ]
    if probes:
        by_model = [
            (name, *(f"{of_data[name].accuracy:.1f}" for of_data in probes.values()))
            for name in found
        ]
        tried = ", ".join(f"{c:g}" for c in STRENGTHS)
        sheets.append(
            Sheet(
                name="probes",
                title="Linear probes of the frozen encoder, test accuracy in percent",
                header=("model", *probes),
                rows=tuple(by_model),
                notes=(
                    "Logistic regression (L2) on the same features, standardized on "
                    f"the training set; C from {tried} by validation accuracy.",
                ),
            )
        )
    return sheets


def write_analysis(
    path: Path,
    sheets: Sequence[Sheet],
    made: Mapping[str, Any],
    models: Mapping[str, Path],
    found: Mapping[str, Mapping[str, float]],
    probes: Mapping[str, Mapping[str, Probe]],
) -> str:
    """Write the sheets as Markdown, and the numbers as JSON next to it.

    The arguments are those of :func:`analysis_sheets`, the ``models`` by name, and what
    else affects the numbers (``made``): split, top, pooling, checksums of the data
    and of the probes' data.

    Returns:
        the Markdown.
    """
    list_files([path, path.with_suffix(".json")])
    text = "\n\n".join(map(sheet_as_markdown, sheets))
    with write_then_rename(path) as file:
        file.write(f"{text}\n")
    rows = [
        {
            "name": name,
            "kind": kind_of(folder),
            "folder": str(folder),
            "sha256": sha256(folder / "model.pt"),
            "features": made["pooling"] or encoder_pooling(folder),
            "measures": dict(found[name]),
            "probes": {
                data: {**asdict(of_data[name]), "accuracy": of_data[name].accuracy}
                for data, of_data in probes.items()
            },
        }
        for name, folder in models.items()
    ]
    content = {"schema": 1, **made, "models": rows}
    write_json(path.with_suffix(".json"), content)
    return text
