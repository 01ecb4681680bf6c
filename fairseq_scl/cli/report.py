"""``fairseq-scl report``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from fairseq_scl.cli.options import FOLDER
from fairseq_scl.data.files import write_then_rename
from fairseq_scl.data.folders import list_files
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.command import Run
from fairseq_scl.experiments.plan import narrowed, planned_runs
from fairseq_scl.experiments.results import TableResult, collect, summarize
from fairseq_scl.experiments.results_folder import read_table
from fairseq_scl.experiments.tables import load_table
from fairseq_scl.report.csv_rows import as_csv, attempt_rows, cell_rows
from fairseq_scl.report.latex import report_as_latex
from fairseq_scl.report.markdown import report_as_markdown
from fairseq_scl.report.representation_sheets import representation_sheets
from fairseq_scl.report.sheets import sheets
from fairseq_scl.report.signature import table_signature
from fairseq_scl.report.words import remarks, verdicts

OUTPUTS = Path("outputs")
PAGE = "report.html"
FILES = ("table.md", "table.tex", "table.csv", "runs.csv", PAGE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "table",
        metavar="TABLE",
        help="name of a table with results in outputs/TABLE, or a results folder",
    )
    parser.add_argument(
        "--results",
        **FOLDER,
        help="results folder of 'fairseq-scl run' (default: outputs/TABLE)",
    )
    parser.add_argument(
        "--to",
        **FOLDER,
        help="output folder (default: the results folder)",
    )
    parser.add_argument(
        "--html",
        action="store_true",
        help="also write report.html, a self-contained page with figures; without it, "
        "a page that is there already is still renewed",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write and print the report; return 1 if no run has finished."""
    folder = _results_folder(arguments.table, arguments.results)
    table, _, _ = read_table(folder)
    if arguments.results and table.name not in (
        arguments.table,
        Path(arguments.table).stem,
    ):
        raise InputError(
            f"{folder} holds results of {table.name!r}, not of {arguments.table!r}"
        )
    return write_report(folder, arguments.to or folder, arguments.html)


def write_report(
    folder: Path, target: Path, as_html: bool, only: Sequence[Run] | None = None
) -> int:
    """Print the table of a results folder and write its files to another folder.

    With ``only``, print the places and losses of these runs; files have all of them.

    Returns:
        1 if no run has finished, else 0.
    """
    table, data, models = read_table(folder)
    attempts = collect(folder, planned_runs(table, data, models))
    result = summarize(table, attempts)
    found = sheets(result) + representation_sheets(result, folder)
    line = table_signature(table, result.records)
    text = _as_text(result, folder)
    files = {
        "table.md": f"{text}\n",
        "table.tex": report_as_latex(table.name, found, line),
        "table.csv": as_csv(cell_rows(result)),
        "runs.csv": as_csv(attempt_rows(result)),
    }
    if as_html or (target / PAGE).is_file():  # no page of other numbers stays
        from fairseq_scl.report.html import page  # matplotlib takes a second to load

        files[PAGE] = page(result, folder)
    list_files(target / name for name in files)
    if only is not None:
        names = {run.name for run in only}
        chosen = [attempt for attempt in attempts if attempt.run.name in names]
        text = _as_text(summarize(narrowed(table, only), chosen), folder)
    for name, content in files.items():
        with write_then_rename(target / name) as file:
            file.write(content)
    print(text, end="\n\n")
    for name in files:
        print(f"wrote {target / name}")
    return 0 if result.records else 1


def _as_text(result: TableResult, folder: Path) -> str:
    found = sheets(result) + representation_sheets(result, folder)
    line = table_signature(result.table, result.records)
    said = [sentence for _, sentence in verdicts(result)]
    return report_as_markdown(found, said, remarks(result), line)


def _results_folder(name: str, given: Path | None) -> Path:
    if given is not None:
        if not given.is_dir():
            raise InputError(f"--results {given} is not a folder")
        return given
    named = OUTPUTS / Path(name).stem if name.endswith((".yaml", ".yml")) else None
    for folder in (Path(name), named or OUTPUTS / name):
        if folder.is_dir():
            return folder
    load_table(name)
    raise InputError(
        f"there are no results in {named or OUTPUTS / name}: create them with "
        f"'fairseq-scl run {name} …', or set another folder with --results"
    )
