"""Augmented files, the outputs of back-translation, and their records.

``NAME-bt0.3.jsonl`` has one row per output, ordered by input example and then by copy:
``origin`` (the number of the example, from 0), ``copy``, ``label``, and for each
sentence ``source0`` and its back-translation ``input0``. The record
``NAME-bt0.3.json`` next to it describes how the file was created.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from fairseq_scl.data.readers import json_rows
from fairseq_scl.errors import InputError
from fairseq_scl.typed import Count, as_type

# No NUL and no lone surrogate, which UTF-8 cannot encode.
Text = Annotated[str, Meta(pattern=r"^[^\x00\ud800-\udfff]*$")]


class BackTranslationRecord(msgspec.Struct):
    """The record of an augmented file.

    Attributes:
        settings: every setting that changes the bytes of the file.
        counts: number of examples, of outputs, and of outputs with each problem.
        origins: the numbers of the examples with each problem.
        versions: versions of Python and of the packages.
        threads: number of PyTorch threads.
        sources: the numbers of the examples with each problem in their source.
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
            raise ValueError("source1 and input1 must occur together")


@dataclass(frozen=True)
class Output:
    """One augmented example.

    Attributes:
        origin: the number of the original example, from 0.
        label: label of the original example.
        sources: the one or two sentences of the original example.
        sentences: their back-translations.
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
    """Read the outputs of each example from an augmented file.

    Raises:
        InputError: the file is missing or has no rows, a line is not an output, rows
            are out of order, or examples have different numbers of outputs.
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
                f"{output.place}: origin is {output.origin}, but must be "
                f"{' or '.join(map(str, allowed))}: use the file as 'fairseq-scl "
                "backtranslate' writes it"
            )
        if output.origin == len(found):
            found.append([])
        first = found[0][0] if found[0] else output
        if len(output.sentences) != len(first.sentences):
            raise InputError(
                f"{output.place}: the number of sentences differs from the first row"
            )
        found[-1].append(output)
    if not found:
        raise InputError(f"{path} has no rows")
    for outputs in found:
        if len(outputs) != len(found[0]):
            raise InputError(
                f"{outputs[-1].place}: example {outputs[0].origin} has "
                f"{len(outputs)} outputs, but the first has {len(found[0])}"
            )
    return found
