"""Sheets as Markdown."""

from collections.abc import Sequence

from fairseq_scl.report.sheets import Sheet


def sheet_as_markdown(sheet: Sheet) -> str:
    """Format a sheet as a Markdown table, with its title above and notes below."""
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
    """Format a whole report; verdicts and remarks are lists, ``line`` is the signature.

    The sheet with accuracies comes first.
    """
    first, *others = map(sheet_as_markdown, sheets)
    lists = [
        "\n".join(f"- {_escape(sentence)}" for sentence in sentences)
        for sentences in (verdicts, remarks)
        if sentences
    ]
    return "\n\n".join([first, *lists, *others, f"`{line}`"])


def flat_header(sheet: Sheet) -> list[str]:
    """Return the header with the group heading prepended to each column."""
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
    r"""Escape characters with a meaning in Markdown, such as ``|`` and ``*``."""
    for sign in "\\|*_`<[":
        text = text.replace(sign, f"\\{sign}")
    return text
