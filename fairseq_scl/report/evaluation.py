"""The evaluation of a classifier as sheets, a figure and one HTML page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from fairseq_scl.data.files import write_json, write_then_rename
from fairseq_scl.data.folders import list_files
from fairseq_scl.inference.evaluation import ClassScores, Evaluation
from fairseq_scl.report.figures import save_figure
from fairseq_scl.report.html import page_of_sheets
from fairseq_scl.report.markdown import report_as_markdown
from fairseq_scl.report.numbers import NONE
from fairseq_scl.report.sheets import Sheet

SUFFIXES = (".json", ".md", ".html", ".png")
# With more classes, the matrix is listed by its largest entries and drawn without
# numbers.
WIDEST_MATRIX = 20
CONFUSIONS = 20
LONGEST_TEXT = 300


def write_evaluation(
    found: Evaluation, title: str, line: str, made: Mapping[str, Any], path: Path
) -> None:
    """Write JSON, Markdown, one HTML page and a PNG of the confusion matrix.

    All get the name of the JSON file ``path``. ``line`` is the signature, and ``made``
    says in the JSON file how the result was made.
    """
    list_files(path.with_suffix(suffix) for suffix in SUFFIXES)
    picture = path.with_suffix(".png")
    save_figure(draw_confusion(found), picture)
    caption = "confusion matrix: share of each label's examples by answer"
    page = page_of_sheets(
        title, evaluation_sheets(found), line, found.warnings(), {caption: picture}
    )
    text = evaluation_as_markdown(found, line)
    for suffix, content in ((".md", f"{text}\n"), (".html", page)):
        with write_then_rename(path.with_suffix(suffix)) as file:
            file.write(content)
    write_json(path, {"schema": 1, **asdict(found), **made})


def evaluation_as_markdown(found: Evaluation, line: str) -> str:
    """Format an evaluation as Markdown; ``line`` is the signature."""
    return report_as_markdown(evaluation_sheets(found), [], found.warnings(), line)


def evaluation_sheets(found: Evaluation) -> list[Sheet]:
    """Return the sheets: summary, classes, confusions, thresholds and mistakes."""
    many = len(found.classes) > WIDEST_MATRIX
    sheets = [
        _summary(found),
        _classes(found.classes),
        _confusions(found) if many else _matrix(found),
        _thresholds(found),
    ]
    return sheets + ([_mistakes(found)] if found.mistakes else [])


def _summary(found: Evaluation) -> Sheet:
    low, high = found.accuracy_interval
    return Sheet(
        name="summary",
        title="Summary",
        header=("measure", "value"),
        rows=(
            ("examples", str(found.examples)),
            ("accuracy", f"{found.accuracy:.1%} ({found.correct} right)"),
            ("95% interval of the accuracy", f"{low:.1%} to {high:.1%}"),
            ("macro-F1", f"{found.macro_f1:.3f}"),
            ("Matthews correlation", f"{found.mcc:.3f}"),
            ("mean probability of the answer", f"{found.mean_probability:.1%}"),
            ("expected calibration error", f"{found.calibration_error:.3f}"),
        ),
        notes=(
            "Interval: Wilson. macro-F1: mean F1 of the classes that occur among labels"
            " or answers. Expected calibration error: 15 equally wide bins. A mean "
            "probability above the accuracy means that the model is overconfident.",
        ),
    )


def _classes(classes: Sequence[ClassScores]) -> Sheet:
    return Sheet(
        name="classes",
        title="Classes",
        header=("class", "examples", "answers", "precision", "recall", "F1"),
        rows=tuple(
            (
                one.label,
                str(one.examples),
                str(one.answers),
                *(
                    NONE if score is None else f"{score:.3f}"
                    for score in (one.precision, one.recall, one.f1)
                ),
            )
            for one in classes
        ),
    )


def _matrix(found: Evaluation) -> Sheet:
    labels = [one.label for one in found.classes]
    return Sheet(
        name="confusion",
        title="Confusion matrix: labels in rows, answers in columns",
        header=("label", *labels),
        rows=tuple(
            (label, *map(str, row))
            for label, row in zip(labels, found.confusion, strict=True)
        ),
    )


def _confusions(found: Evaluation) -> Sheet:
    matrix = np.array(found.confusion)
    np.fill_diagonal(matrix, 0)
    largest = np.argsort(-matrix, axis=None, kind="stable")[:CONFUSIONS]
    places = [divmod(int(place), len(matrix)) for place in largest]
    return Sheet(
        name="confusion",
        title="Most frequent confusions",
        header=("label", "answer", "examples"),
        rows=tuple(
            (found.classes[i].label, found.classes[j].label, str(matrix[i, j]))
            for i, j in places
            if matrix[i, j]
        ),
        named=2,
    )


def _thresholds(found: Evaluation) -> Sheet:
    return Sheet(
        name="thresholds",
        title="Answers above a probability, as with 'predict --threshold'",
        header=("threshold", "answered", "share", "right", "accuracy"),
        rows=tuple(
            (
                f"{one.threshold:g}",
                str(one.answered),
                f"{one.answered / found.examples:.1%}",
                str(one.correct),
                f"{one.correct / one.answered:.1%}" if one.answered else NONE,
            )
            for one in found.answered
        ),
    )


def _mistakes(found: Evaluation) -> Sheet:
    rows = []
    for one in found.mistakes:
        text, place = " // ".join(one.sentences), one.origin.rpartition(", ")[2]
        shown = text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"
        rows.append((f"{one.probability:.3f}", one.answer, one.label, place, shown))
    return Sheet(
        name="mistakes",
        title="Most confident mistakes",
        header=("probability", "answer", "label", "example", "text"),
        rows=tuple(rows),
        named=5,
        prose=True,
    )


def draw_confusion(found: Evaluation) -> Figure:
    """Draw the confusion matrix; colors are shares of the examples of each label."""
    labels = [one.label for one in found.classes]
    counts = np.array(found.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(2.5 + 0.35 * len(labels), 30)
    with mpl.rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(labels)), labels, rotation=90)
        axes.set_yticks(range(len(labels)), labels)
        axes.set(xlabel="answer", ylabel="label")
        if len(labels) <= WIDEST_MATRIX:
            for (i, j), count in np.ndenumerate(counts):
                color = "white" if shares[i, j] > 0.5 else "black"
                axes.text(j, i, str(count), ha="center", va="center", color=color)
    return figure
