"""Sheets as Markdown."""

from collections.abc import Sequence

from fairseq_scl.report.sheets import Sheet


def sheet_as_markdown(sheet: Sheet) -> str:
    """Set a sheet as a Markdown table, its title above and its notes below."""
    numbers = len(sheet.header) - sheet.named
    lines = [
        f"**{_escape(sheet.title)}**",
        "",
        _row(flat_header(sheet)),
        _row(["---"] * sheet.named + ["---:"] * numbers),
        *map(_row, sheet.rows),
    ]
    for note in sheet.notes:
        lines += ["", _escape(note)]
    return "\n".join(lines)


def report_as_markdown(
    sheets: Sequence[Sheet], verdicts: Sequence[str], remarks: Sequence[str], line: str
) -> str:
    """Set a whole report.

    Args:
        sheets: the accuracies first.
        verdicts: a sentence a cell.
        remarks: what else a reader must know.
        line: the signature.
    """
    first, *others = map(sheet_as_markdown, sheets)
    parts = [first]
    if verdicts:
        parts += ["\n".join(f"- {_escape(sentence)}" for sentence in verdicts)]
    if remarks:
        parts += ["\n".join(f"- {_escape(sentence)}" for sentence in remarks)]
    return "\n\n".join([*parts, *others, f"`{line}`"])


def flat_header(sheet: Sheet) -> list[str]:
    """Return the header with what stands above it put into each column."""
    above = [text for text, span in sheet.groups for _ in range(span)]
    if not above:
        return list(sheet.header)
    return [
        f"{group}, {text}" if group else text
        for group, text in zip(above, sheet.header, strict=True)
    ]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escape, cells))} |"


def _escape(text: str) -> str:
    r"""Keep ``|`` from ending a cell, ``*`` and the like from being markup."""
    for sign in "\\|*_`<[":
        text = text.replace(sign, f"\\{sign}")
    return text
