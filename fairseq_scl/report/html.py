"""A self-contained HTML page with the whole report."""

import base64
import html
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import msgspec

from fairseq_scl.experiments.results import FAILED, TOP, CellResult, TableResult
from fairseq_scl.experiments.tables import FEW_SHOT
from fairseq_scl.report.charts import (
    curves,
    flip_curves,
    heat_map,
    paired_dots,
    with_prefix,
)
from fairseq_scl.report.figures import CURVES
from fairseq_scl.report.noise_sheets import NOISE, read_noise
from fairseq_scl.report.representation_sheets import representation_sheets
from fairseq_scl.report.sheets import Sheet, sheets
from fairseq_scl.report.signature import table_signature
from fairseq_scl.report.style import STYLE
from fairseq_scl.report.words import cell_name, remarks, verdicts
from fairseq_scl.typed import Finite, read_as

FIGURES = "figures"
LONGEST_LIST = 200


def page(result: TableResult, folder: Path) -> str:
    """Return a whole report as HTML, with the t-SNE figures in ``folder/figures``.

    Raises:
        InputError: a figure's JSON file is damaged.
    """
    first, *others = sheets(result) + representation_sheets(result, folder)
    done, total = len(result.records), len(result.attempts)
    seconds = sum(record.seconds for record in result.records)
    said = [f'<li class="{kind}">{_text(text)}</li>' for kind, text in verdicts(result)]
    parts = [
        f"<h1>{_text(result.table.name)}: {_text(result.table.caption)}</h1>",
        f'<p class="soft">{done} of {total} planned runs have finished, '
        f"{seconds / 3600:.1f} hours of training in all. Wide tables scroll sideways."
        "</p>",
        "<h2>Did it help?</h2>",
        f'<ul class="verdicts">{"".join(said)}</ul>',
        "<h2>Accuracies</h2>",
        sheet_as_html(first),
        _charts("f", flip_curves(result)),
        _list(remarks(result)),
        _titled(others),
        _cells(result),
        _features(folder),
        _noise(folder),
        _failures(result),
        _made(result),
    ]
    return whole_page(result.table.name, parts)


def page_of_sheets(
    title: str,
    sheets: Sequence[Sheet],
    line: str,
    remarks: Sequence[str] = (),
    pictures: Mapping[str, Path] | None = None,
) -> str:
    """Return a page with some sheets as HTML; ``line`` is the signature.

    Remarks are shown above the sheets, and PNG files, given by caption, below them.
    """
    parts = [f"<h1>{_text(title)}</h1>", _list(remarks), _titled(sheets)]
    parts += [
        _picture(path, caption, caption) for caption, path in (pictures or {}).items()
    ]
    return whole_page(title, [*parts, f'<div class="line">{_text(line)}</div>'])


def whole_page(title: str, parts: Sequence[str]) -> str:
    """Join parts of HTML, some of which may be empty, into a page."""
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n"
        f"</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def sheet_as_html(sheet: Sheet) -> str:
    """Format a sheet as a table that scrolls if it is wider than the screen."""
    rows = []
    if sheet.groups:
        cells = (
            f'<th colspan="{span}" scope="colgroup">{_text(text)}</th>'
            for text, span in sheet.groups
        )
        rows.append(f'<tr class="groups">{"".join(cells)}</tr>')
    rows.append(_row(sheet, sheet.header, "th"))
    body = "\n".join(_row(sheet, row, "td") for row in sheet.rows)
    notes = "\n".join(f'<p class="soft">{_text(note)}</p>' for note in sheet.notes)
    head = "\n".join(rows)
    prose = ' class="prose"' if sheet.prose else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" '
        f'aria-label="{_text(sheet.title)}"><table{prose}>\n<thead>\n{head}\n</thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>\n{notes}"
    )


def _row(sheet: Sheet, cells: Sequence[str], tag: str) -> str:
    found = []
    for number, text in enumerate(cells):
        name = ' class="name"' if number < sheet.named else ""
        found.append(f"<{tag}{name}>{_text(text)}</{tag}>")
    return f"<tr>{''.join(found)}</tr>"


def _charts(prefix: str, charts: Sequence[tuple[str, str]]) -> str:
    """Place SVG charts and their titles side by side; ``prefix`` makes ids unique."""
    figures = "\n".join(
        f"<figure>{with_prefix(svg, f'{prefix}{number}-')}"
        f"<figcaption>{_text(title)}</figcaption></figure>"
        for number, (title, svg) in enumerate(charts)
    )
    return f'<div class="charts">\n{figures}\n</div>' if figures else ""


def _cells(result: TableResult) -> str:
    found = [_cell(result, cell, number) for number, cell in enumerate(result.cells)]
    if not any(found):
        return ""
    explained = (
        "Runs of the chosen combination of each loss. Lines connect runs of the same "
        f"{result.table.repeated}. Filled dots are the runs that the paper's rule "
        "reports, and the short line is the mean of all runs. Thin curves are runs, "
        "thick curves their mean. The SCL term does not go to 0: the dashed line is "
        "its floor. Values at different τ are not comparable."
    )
    return f'<h2>Runs</h2>\n<p class="soft">{explained}</p>\n' + "\n".join(found)


def _cell(result: TableResult, cell: CellResult, number: int) -> str:
    """Draw a cell, if any of its runs has finished."""
    if not any(one.chosen_attempts for one in cell.losses.values()):
        return ""
    best = min(TOP, result.table.repetitions)
    by = f", by its best {best} runs," if result.table.selection == FEW_SHOT else ""
    charts = [("test accuracy of each run", paired_dots(cell))]
    charts += [(title, curves(cell, key)) for key, title in CURVES.items()]
    for one in cell.losses.values():
        if drawn := heat_map(one):
            title = f"{one.loss}: mean validation accuracy (number of runs)"
            counts = {len(c.runs) for c in one.selection.candidates if c.runs}
            if len(counts) > 1:
                title += "; means of different numbers of runs are not comparable"
            charts.append((f"{title}. The chosen one{by} is framed.", drawn))
    name = _text(cell_name(result, cell))
    return f"<h3>{name}</h3>\n{_charts(f'c{number}-', charts)}"


def _features(folder: Path) -> str:
    """Show the figures of ``fairseq-scl figure`` and their silhouette scores."""
    parts = []
    for path in sorted((folder / FIGURES).glob("*.png")):
        caption = path.stem
        scores = path.with_suffix(".json")
        if scores.is_file():
            caption += f": {_silhouettes(scores)}"
        parts.append(_picture(path, f"t-SNE, {path.stem}", caption))
    return "\n".join(["<h2>Features (t-SNE)</h2>", *parts]) if parts else ""


def _picture(path: Path, described: str, caption: str) -> str:
    """Embed a PNG file; ``described`` is for readers who cannot see it."""
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure class="wide"><img src="data:image/png;base64,{data}" '
        f'alt="{_text(described)}"><figcaption>{_text(caption)}</figcaption></figure>'
    )


class _Panel(msgspec.Struct):
    row: str
    name: str
    silhouette: Finite


class _Picture(msgspec.Struct):
    """The part that is read from the JSON file of ``fairseq-scl figure``."""

    SCHEMA: ClassVar[int] = 1

    panels: list[_Panel]


def _silhouettes(path: Path) -> str:
    scores = [
        f"{' '.join(filter(None, (one.row, one.name)))} {one.silhouette:.3f}"
        for one in read_as(path, _Picture).panels
    ]
    return f"silhouette {', '.join(scores)}"


def _noise(folder: Path) -> str:
    """Show the output of ``fairseq-scl noise``, if it is in the results folder."""
    if not (folder / NOISE).is_file():
        return ""
    found, line = read_noise(folder / NOISE)
    return f'{_titled(found)}\n<div class="line">{_text(line)}</div>'


def _titled(sheets: Sequence[Sheet]) -> str:
    return "\n".join(
        f"<h2>{_text(sheet.title)}</h2>\n{sheet_as_html(sheet)}" for sheet in sheets
    )


def _failures(result: TableResult) -> str:
    failed = [attempt for attempt in result.attempts if attempt.state == FAILED]
    if not failed:
        return ""
    items = "".join(
        f"<li><code>{_text(attempt.run.name)}</code>: {_text(attempt.error or '')}</li>"
        for attempt in failed[:LONGEST_LIST]
    )
    more = len(failed) - LONGEST_LIST
    rest = f"<p>and {more} more, see runs.csv</p>" if more > 0 else ""
    return f"<h2>Failed runs</h2>\n<ul>{items}</ul>\n{rest}"


def _made(result: TableResult) -> str:
    """Show how the results were made: commands, versions and the signature."""
    parts = ["<h2>How it was made</h2>"]
    for loss in result.table.losses:
        runs = [r for r in result.records if r.settings["cell"]["loss"] == loss]
        if runs:
            command = _text(shlex.join(runs[0].argv))
            parts += [f"<p>One run with {_text(loss)}:</p>", f"<pre>{command}</pre>"]
    origins = set()
    for record in result.records:
        made = {key: record.origin.get(key) for key in ("commit", "machine", "python")}
        pairs = sorted({**record.origin["versions"], **made}.items())
        origins.add(", ".join(f"{name} {value}" for name, value in pairs if value))
    parts += [f'<p class="soft">{_text(text)}</p>' for text in sorted(origins)]
    line = table_signature(result.table, result.records)
    return "\n".join([*parts, f'<div class="line">{_text(line)}</div>'])


def _list(sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{_text(sentence)}</li>" for sentence in sentences)
    return f'<ul class="soft">{items}</ul>' if items else ""


def _text(text: str) -> str:
    return html.escape(str(text), quote=True)
