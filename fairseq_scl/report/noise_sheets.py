"""Sheets about augmented files: their noise, and Table 6's sentences."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from fairseq_scl.augment.distance import Embed, Noise, Outputs, measure
from fairseq_scl.data.files import files_in, write_json
from fairseq_scl.data.outputs import Output, read_outputs
from fairseq_scl.errors import InputError
from fairseq_scl.report.sheets import Sheet
from fairseq_scl.typed import read_as

NOISE = "noise.json"
NAME = re.compile(r"(?P<sample>.+)-bt(?P<temperature>[\d.]+(?:-[\d.]+)?)")
COSINE = (
    " cosine: mean cosine similarity of sentence embeddings (means over the tokens of "
    "the encoder's final states) with those of the source; 1 is a copy. to others: the "
    "same with the source of another example, as for unrelated sentences."
)
# Files by task, temperature and name of the sample.
Found = dict[str, dict[str, dict[str, Outputs]]]


def read_files(paths: Sequence[Path]) -> Found:
    """Read augmented files.

    Args:
        paths: files ``TASK/NAME-bt0.3.jsonl``, or folders that contain them at any
            depth.

    Returns:
        the outputs by task (the name of the file's folder), temperature (as in the
        file's name) and sample.

    Raises:
        InputError: there are no files, two have the same name and task, or a file
            cannot be read or its name lacks a temperature.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"there is no file or folder {path}")
        inside = [path]
        if path.is_dir():
            inside = files_in(path, "*-bt*.jsonl", at_any_depth=True)
        if not inside:
            raise InputError(f"{path} does not contain files NAME-bt….jsonl")
        files += inside
    found: Found = {}
    seen: dict[tuple[str, str], Path] = {}
    for file in files:
        name = NAME.fullmatch(file.stem)
        if name is None:
            raise InputError(
                f"{file} lacks a temperature in its name, which must be like "
                "NAME-bt0.3.jsonl"
            )
        task = file.absolute().parent.name
        if (other := seen.setdefault((task, file.stem), file)) is not file:
            raise InputError(
                f"{other} and {file} have the same name and task: give one of them"
            )
        of_task = found.setdefault(task, {})
        of_task.setdefault(name["temperature"], {})[name["sample"]] = read_outputs(file)
    return {
        task: dict(sorted(of_task.items(), key=lambda item: _degrees(item[0])))
        for task, of_task in found.items()
    }


def measured(
    found: Found,
    embed: Embed | None = None,
    on_done: Callable[[int], object] = lambda _: None,
) -> dict[str, dict[str, Noise]]:
    """Measure the noise of each task and temperature over all of its files.

    ``embed`` is that of :func:`~fairseq_scl.augment.distance.measure`; ``on_done`` is
    called with 1 after each temperature of a task.
    """
    noise: dict[str, dict[str, Noise]] = {}
    for task, of_task in found.items():
        noise[task] = {}
        for temperature, samples in of_task.items():
            noise[task][temperature] = measure(list(samples.values()), embed)
            on_done(1)
    return noise


def noise_sheet(noise: Mapping[str, Mapping[str, Noise]]) -> Sheet:
    """Return a sheet with the noise per task and temperature, below the sources."""
    rows = []
    meanings = any(found.cosine for of in noise.values() for found in of.values())
    for task, of_task in noise.items():
        first = next(iter(of_task.values()))
        one, two = (f"{value:.3f}" for value in first.source_distinct)
        blank = ("–",) * (6 if meanings else 4)
        rows.append((task, "original", str(first.examples), *blank, one, two, "1.00"))
        for temperature, found in of_task.items():
            one, two = (f"{value:.3f}" for value in found.distinct)
            cosine = [f"{value:.3f}" for value in found.cosine or ()]
            rows.append(
                (
                    *(task, temperature, str(found.outputs), f"{found.unchanged:.1%}"),
                    *(str(found.empty), f"{found.chrf:.1f}", f"{found.bleu:.1f}"),
                    *(*cosine, one, two, f"{found.length_ratio:.2f}"),
                )
            )
    return Sheet(
        name="noise",
        title="Back-translations against their sources",
        header=(
            *("task", "T", "examples", "unchanged", "empty", "chrF", "BLEU"),
            *(("cosine", "to others") if meanings else ()),
            *("distinct-1", "distinct-2", "length"),
        ),
        rows=tuple(rows),
        named=2,
        notes=(
            "unchanged: share of outputs equal to their source. chrF, BLEU: against the"
            " source; 100 is a copy, and changes in case or spacing count. distinct-1 "
            "and -2: distinct words and word pairs divided by all, over one copy of one"
            " sample at a time. length: number of words divided by that of the source."
            + (COSINE if meanings else ""),
        ),
    )


def sentences_sheet(
    found: Found, temperatures: Sequence[str] | None = None, examples: int = 2
) -> Sheet:
    """Return a sheet of sentences like Table 6 of Gunel et al. (2021).

    Examples are evenly spaced over the first sample that has all temperatures, and each
    is shown with its first copy.

    Args:
        found: from :func:`read_files`.
        temperatures: temperatures to show; ``None`` for the lowest and the highest
            available, in the paper 0.3 and 0.9.
        examples: number of examples per task.

    Raises:
        InputError: no task has a sample with all of these temperatures.
    """
    if temperatures is None:
        every = sorted({t for of_task in found.values() for t in of_task}, key=_degrees)
        temperatures = list(dict.fromkeys((every[0], every[-1])))
    rows: list[tuple[str, ...]] = []
    for task, of_task in found.items():
        samples = [of_task.get(temperature, {}) for temperature in temperatures]
        shared = sorted(set.intersection(*map(set, samples)))
        if not shared:
            continue
        files = [of_sample[shared[0]] for of_sample in samples]
        count = min(map(len, files))
        for i in range(min(examples, count)):
            number = i * count // min(examples, count)
            original = files[0][number][0]
            rows.append((task, "Original", _joined(original.sources)))
            for temperature, file in zip(temperatures, files, strict=True):
                output: Output = file[number][0]
                if output.sources != original.sources:
                    raise InputError(
                        f"{output.place}: its source differs from that of "
                        f"{original.place}: the files must be of the same sample"
                    )
                kind = f"Augmented (T={temperature})"
                rows.append((task, kind, _joined(output.sentences)))
    if not rows:
        raise InputError(
            f"--temperatures is {' '.join(temperatures)}: it must be temperatures that "
            "a sample has files of"
        )
    return Sheet(
        name="sentences",
        title="Originals and their back-translations, as in Table 6",
        header=("Dataset", "Type", "Sentence"),
        rows=tuple(rows),
        named=3,
        notes=(
            "Evenly spaced examples of the sample, not chosen by their content, and the"
            " first copy of each. // separates the sentences of a pair.",
        ),
        prose=True,
    )


def noise_rows(noise: Mapping[str, Mapping[str, Noise]]) -> list[dict[str, Any]]:
    """Return one CSV row per task and temperature, in full precision."""
    rows = []
    for task, of_task in noise.items():
        for temperature, found in of_task.items():
            row = {"task": task, "temperature": temperature, **asdict(found)}
            for name in ("distinct", "source_distinct"):
                row[f"{name}_1"], row[f"{name}_2"] = row.pop(name)
            row["cosine"], row["cosine_to_others"] = row["cosine"] or (None, None)
            rows.append(row)
    return rows


class _Noise(msgspec.Struct, forbid_unknown_fields=True):
    SCHEMA: ClassVar[int] = 1

    sheets: list[Sheet]
    signature: str

    def __post_init__(self) -> None:
        for sheet in self.sheets:
            if any(len(row) != len(sheet.header) for row in sheet.rows):
                raise ValueError(
                    f"rows of {sheet.name!r} must have the length of its header"
                )


def write_noise(path: Path, sheets: Sequence[Sheet], line: str) -> None:
    """Write sheets and signature, to be shown on the page of a table."""
    found = [asdict(sheet) for sheet in sheets]
    write_json(path, {"schema": _Noise.SCHEMA, "sheets": found, "signature": line})


def read_noise(path: Path) -> tuple[list[Sheet], str]:
    """Read a file written by :func:`write_noise`.

    Raises:
        InputError: the file is damaged or of another version.
    """
    found = read_as(path, _Noise)
    return found.sheets, found.signature


def _degrees(temperature: str) -> tuple[float, ...]:
    return tuple(map(float, temperature.split("-")))


def _joined(sentences: Sequence[str]) -> str:
    return " // ".join(sentences)
