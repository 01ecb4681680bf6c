"""What back-translation made: augmented files and their records.

``NAME-bt0.3.jsonl`` holds a row per output, in the order of the input and then of the
copies: the number ``origin`` of its example (from 0), ``copy``, the ``label``, and for
each sentence ``source0`` and ``input0``, what became of it. ``NAME-bt0.3.json`` beside
it is the record: how the file was made.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from fairseq_scl.data.readers import json_rows
from fairseq_scl.errors import InputError
from fairseq_scl.typed import Count, as_type

# No NUL, and no half of a surrogate pair, which no file could hold.
Text = Annotated[str, Meta(pattern=r"^[^\x00\ud800-\udfff]*$")]


class BackTranslationRecord(msgspec.Struct):
    """The record of an augmented file.

    Attributes:
        settings: all that decides the bytes of the file.
        counts: examples, outputs, and outputs of each kind of trouble.
        origins: the numbers of the examples with each kind of trouble.
        versions: of Python and the packages that made it.
        threads: of PyTorch.
        sources: the numbers of the examples whose source has some flaw.
    """

    SCHEMA: ClassVar[int] = 1

    settings: dict[str, Any]
    counts: dict[str, Count]
    origins: dict[str, list[Count]]
    versions: dict[str, str]
    threads: Count
    sources: dict[str, list[Count]] = {}


class _Row(msgspec.Struct):
    origin: Count
    label: Text
    source0: Text
    input0: Text
    source1: Text | None = None
    input1: Text | None = None

    def __post_init__(self) -> None:
        if (self.source1 is None) != (self.input1 is None):
            raise ValueError("of source1 and input1 one is missing")


@dataclass(frozen=True)
class Output:
    """One augmented example.

    Attributes:
        origin: the number of the example that it was made from, from 0.
        label: copied from there.
        sources: the sentence or the two of that example.
        sentences: what became of them.
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
    """Read an augmented file: the outputs of each example, as many for each.

    Raises:
        InputError: a missing file, a line that is not such a row, rows that are out of
            order, examples with different numbers of outputs.
    """
    found: list[list[Output]] = []
    for number, values in json_rows(Path(path), ()):
        place = f"{path}, line {number}"
        row = as_type(values, _Row, place)
        sources, sentences = (
            tuple(text for text in texts if text is not None)
            for texts in ((row.source0, row.source1), (row.input0, row.input1))
        )
        output = Output(row.origin, row.label, sources, sentences, place)
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
