"""Sheets as LaTeX tables in the booktabs style."""

import re
from collections.abc import Sequence

from fairseq_scl.report.sheets import Sheet

SIGNS = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "λ": r"$\lambda$",
    "τ": r"$\tau$",
    "–": "--",
    "\n": " ",
}
MINUS = re.compile(r"(?<![\w)}$-])-(?=\d)")


def escape(text: str) -> str:
    """Escape plain text for LaTeX."""
    escaped = "".join(SIGNS.get(sign, sign) for sign in text)
    return MINUS.sub("$-$", escaped)


def report_as_latex(table: str, sheets: Sequence[Sheet], line: str) -> str:
    r"""Format sheets as floating tables, for ``\input`` with the booktabs package.

    Labels start with ``table``; ``line``, the signature, becomes a comment.
    """
    head = [r"% needs \usepackage{booktabs}", f"% {' '.join(line.split())}"]
    return "\n".join(head + [_table(table, sheet) for sheet in sheets]) + "\n"


def _table(table: str, sheet: Sheet) -> str:
    label = re.sub(r"[^A-Za-z0-9]+", "-", f"{table}-{sheet.name}")
    columns = "l" * sheet.named + "r" * (len(sheet.header) - sheet.named)
    caption = " ".join([f"{sheet.title}.", *sheet.notes])
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(caption)}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        *_groups(sheet),
        _row(sheet.header),
        r"\midrule",
        *map(_row, sheet.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def _groups(sheet: Sheet) -> list[str]:
    """Return the row of group headings, with a rule below each of them."""
    if not sheet.groups:
        return []
    cells, rules, column = [], [], 1
    for text, span in sheet.groups:
        align = "l" if not text else "c"
        cells.append(rf"\multicolumn{{{span}}}{{{align}}}{{{escape(text)}}}")
        if text:
            rules.append(rf"\cmidrule(lr){{{column}-{column + span - 1}}}")
        column += span
    return [" & ".join(cells) + r" \\", " ".join(rules)]


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(escape, cells)) + r" \\"
