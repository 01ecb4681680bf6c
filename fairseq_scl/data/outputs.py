"""What back-translation made: augmented files.

``NAME-bt0.3.jsonl`` holds a row an output, in the order of the input and then of the
copies: the number ``origin`` of its example (from 0), ``copy``, the ``label``, and of
each sentence ``source0`` and ``input0``, what came of it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_scl.data.readers import json_rows, text_of
from fairseq_scl.errors import InputError
from fairseq_scl.typed import Count, as_type


@dataclass(frozen=True)
class Output:
    """One augmented example.

    Attributes:
        origin: the number of the example that it was made of, from 0.
        label: copied from there.
        sources: the sentence or the two of that example.
        sentences: what came of them.
        place: file and line, for messages.
    """

    origin: int
    label: str
    sources: tuple[str, ...]
    sentences: tuple[str, ...]
    place: str

    @property
    def unchanged(self) -> bool:
        """Whether every sentence equals its source."""
        return self.sentences == self.sources


def read_outputs(path: str | Path) -> list[list[Output]]:
    """Read an augmented file: of each example its outputs, as many for each.

    Raises:
        InputError: a missing file, a line that is no such row, rows that are out of
            order, examples with unlike numbers of outputs.
    """
    found: list[list[Output]] = []
    for number, row in json_rows(Path(path), ("origin", "label", "source0", "input0")):
        output = _output(row, f"{path}, line {number}")
        allowed = [n for n in (len(found) - 1, len(found)) if n >= 0]
        if output.origin not in allowed:
            raise InputError(
                f"{output.place}: origin is {output.origin}, it must be "
                f"{' or '.join(map(str, allowed))}: the file is not as 'fairseq-scl "
                "backtranslate' writes it"
            )
        if output.origin == len(found):
            found.append([])
        first = found[0][0] if found[0] else output
        if len(output.sentences) != len(first.sentences):
            raise InputError(f"{output.place}: some rows are pairs and some are not")
        found[-1].append(output)
    for outputs in found:
        if len(outputs) != len(found[0]):
            raise InputError(
                f"{outputs[-1].place}: the example {outputs[0].origin} has "
                f"{len(outputs)} outputs, the first has {len(found[0])}"
            )
    return found


def _output(row: dict[str, Any], place: str) -> Output:
    names = ("0", "1") if "input1" in row or "source1" in row else ("0",)
    for name in (f"{kind}{n}" for kind in ("source", "input") for n in names):
        if name not in row:
            raise InputError(f"{place}: there is no {name!r}")
    return Output(
        as_type(row["origin"], Count, f"{place}: origin"),
        text_of(row, "label", place),
        tuple(text_of(row, f"source{n}", place) for n in names),
        tuple(text_of(row, f"input{n}", place) for n in names),
        place,
    )
