"""Back-translation of labeled examples (section 5.2 of Gunel et al. 2021).

Each example gives ``copies`` new examples with the same label: it is translated to
another language and back by sampling. The file is written in chunks, and each complete
chunk is renamed, so that a killed process loses at most one chunk.
"""

import json
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from fairseq_scl.augment.sampler.gumbel_max import DecodingMethod
from fairseq_scl.augment.sentences import (
    EMPTY,
    TROUBLES,
    UNKNOWN,
    UNTRANSLATED,
    Direction,
    StreamName,
    Translation,
    has_entities,
    has_unknown_pieces,
    translate_texts,
)
from fairseq_scl.compat.versions import installed_version
from fairseq_scl.data.files import write_json, write_then_rename
from fairseq_scl.data.folders import check_holds_only, hold
from fairseq_scl.data.outputs import BackTranslationRecord
from fairseq_scl.data.renames import discard, remove_leftovers
from fairseq_scl.data.texts import Example
from fairseq_scl.errors import InputError
from fairseq_scl.typed import read_as

SETTINGS = "settings.json"
LOCK = "lock"
VERSIONS = ("torch", "fairseq", "fairseq-fixed", "sacremoses", "sentencepiece")
EXAMPLES_AT_ONCE = 512
STAYS = {EMPTY, UNTRANSLATED, UNKNOWN}
ENTITIES = "with HTML entities (&#39; &amp; …), which are best unescaped first"
UNKNOWN_PIECES = "with pieces that the models do not know"


@dataclass(frozen=True)
class Plan:
    """Every setting that changes the bytes of an augmented file.

    Each example gives ``copies`` new ones; ``about`` has models, precision and input.
    """

    seed: int
    copies: int
    forward: DecodingMethod
    backward: DecodingMethod
    about: Mapping[str, Any]

    def settings(self) -> dict[str, Any]:
        """Return all settings as plain values."""
        found = {"schema": BackTranslationRecord.SCHEMA, **vars(self), **self.about}
        del found["about"]
        settings: dict[str, Any] = msgspec.to_builtins(found)
        return settings


def name_of(name: str, forward: float, backward: float | None = None) -> str:
    """Return the name of the augmented file: ``NAME-bt0.3.jsonl``."""
    temperatures = f"{forward:g}"
    if backward is not None and backward != forward:
        temperatures += f"-{backward:g}"
    return f"{name}-bt{temperatures}.jsonl"


def finished(target: Path, plan: Plan) -> bool:
    """Return whether an augmented file exists and was created with this plan.

    Raises:
        InputError: it, or the leftover of a killed process, has another plan.
    """
    record, partial = target.with_suffix(".json"), partial_folder(target)
    if record.exists():
        _check_same(plan, read_as(record, BackTranslationRecord).settings, record)
    allowed = (LOCK, SETTINGS, "[0-9]*-[0-9]*.jsonl")
    check_holds_only(partial, allowed if (partial / SETTINGS).exists() else (LOCK,))
    if (partial / SETTINGS).exists():
        _check_same(plan, read_as(partial / SETTINGS, dict[str, Any]), partial)
    if target.exists() and not record.exists() and not partial.exists():
        raise InputError(
            f"{target} exists without {record.name}, which records its settings: "
            "choose another folder or delete it"
        )
    return target.exists() and record.exists() and not partial.exists()


def partial_folder(target: Path) -> Path:
    """Return the folder of the chunks of an incomplete file."""
    return target.with_name(f"{target.name}.partial")


def backtranslate(
    examples: Sequence[Example],
    forward: Direction,
    backward: Direction,
    plan: Plan,
    target: Path,
    max_tokens: int | None = None,
    on_done: Callable[[int], object] = lambda _: None,
) -> BackTranslationRecord:
    """Write an augmented file and its record, resuming an interrupted call.

    Args:
        examples: single sentences or pairs.
        forward: models that translate to the other language.
        backward: models that translate back.
        plan: the settings.
        target: the file, ``NAME-bt0.3.jsonl``; its record is ``NAME-bt0.3.json``.
        max_tokens: pieces in a batch, ``None`` for the device's default; does not
            change the file.
        on_done: called with the number of finished translations after each batch.

    Returns:
        the record.

    Raises:
        InputError: there is a file, or chunks of one, with other settings; another
            process is writing it; or the disk is full.
    """
    partial, record = partial_folder(target), target.with_suffix(".json")
    remove_leftovers(target.parent)
    if not finished(target, plan):
        with hold(partial, target, LOCK):
            if not record.exists():
                write_json(partial / SETTINGS, plan.settings())
                if not target.exists():
                    ways = (forward, backward)
                    _write_rows(target, examples, ways, plan, max_tokens, on_done)
                write_json(record, describe(target, plan, examples, forward))
            discard(partial)
    return read_as(record, BackTranslationRecord)


def _write_rows(
    target: Path,
    examples: Sequence[Example],
    directions: tuple[Direction, Direction],
    plan: Plan,
    max_tokens: int | None,
    on_done: Callable[[int], object],
) -> None:
    """Write the missing chunks, then the file."""
    names = stream_names(examples, plan.seed)
    chunks = []
    for start in range(0, len(examples), EXAMPLES_AT_ONCE):
        chunk = examples[start : start + EXAMPLES_AT_ONCE]
        streams = names[start : start + EXAMPLES_AT_ONCE]
        path = partial_folder(target) / f"{start}-{start + len(chunk)}.jsonl"
        chunks.append(path)
        if path.exists():
            on_done(2 * plan.copies * sum(len(e.sentences) for e in chunk))
            continue
        rows = backtranslated(
            chunk, streams, directions, plan, max_tokens, on_done, first=start
        )
        with write_then_rename(path) as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with write_then_rename(target) as file:
        for path in chunks:
            file.write(path.read_text(encoding="utf-8"))


def backtranslated(
    examples: Sequence[Example],
    names: Sequence[StreamName],
    directions: tuple[Direction, Direction],
    plan: Plan,
    max_tokens: int | None,
    on_done: Callable[[int], object],
    first: int,
) -> list[dict[str, Any]]:
    """Return the rows of an augmented file, ``plan.copies`` for each example.

    The arguments are those of :func:`backtranslate`, with the ``names`` of the random
    streams and the number of the ``first`` example.
    """
    copies, forward, backward = range(plan.copies), plan.forward, plan.backward
    fields = [(n, f) for n, e in enumerate(examples) for f in range(len(e.sentences))]
    texts = [examples[n].sentences[f] for n, f in fields]
    streams = [[("forward", *names[n], f, c) for c in copies] for n, f in fields]
    away = translate_texts(directions[0], texts, streams, forward, max_tokens, on_done)
    pivots = [pivot.text for pivots in away for pivot in pivots]
    streams = [[("backward", *names[n], f, c)] for n, f in fields for c in copies]
    home = iter(
        translate_texts(directions[1], pivots, streams, backward, max_tokens, on_done)
    )
    outputs = {place: [next(home)[0] for _ in copies] for place in fields}
    ways = dict(zip(fields, away, strict=True))
    rows = []
    for n, example in enumerate(examples):
        places = [(n, field) for field in range(len(example.sentences))]
        for c in copies:
            found = [(ways[place][c], outputs[place][c]) for place in places]
            rows.append(_row(first + n, c, example, found))
    return rows


def stream_names(examples: Sequence[Example], seed: int) -> list[StreamName]:
    """Name the random streams of examples by seed and text.

    An example has the same outputs at any position in any file. If a text occurs
    several times in a file, each occurrence has its own outputs.
    """
    seen: Counter[tuple[str, ...]] = Counter()
    names: list[StreamName] = []
    for example in examples:
        names.append((seed, seen[example.sentences], *example.sentences))
        seen[example.sentences] += 1
    return names


def describe(
    target: Path, plan: Plan, examples: Sequence[Example], forward: Direction
) -> dict[str, Any]:
    """Return the record of an augmented file, with counts taken from the file."""
    counts = Counter(dict.fromkeys(("outputs", "unchanged", *TROUBLES), 0))
    origins: dict[str, list[int]] = {}
    with target.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            row = json.loads(line)
            counts.update(["outputs", *row.get("trouble", [])])
            counts["unchanged"] += row["unchanged"]
            for trouble in row.get("trouble", []):
                if row["origin"] not in origins.setdefault(trouble, [])[-1:]:
                    origins[trouble].append(row["origin"])
    flaws = {
        UNKNOWN_PIECES: lambda text: has_unknown_pieces(forward, text),
        ENTITIES: has_entities,
    }
    versions = {name: v for name in VERSIONS if (v := installed_version(name))}
    return {
        "schema": BackTranslationRecord.SCHEMA,
        "settings": plan.settings(),
        "counts": {"examples": len(examples), "copies": plan.copies, **counts},
        "origins": origins,
        "versions": {"python": platform.python_version(), **versions},
        "threads": torch.get_num_threads(),
        "sources": {
            name: [n for n, e in enumerate(examples) if any(map(has_flaw, e.sentences))]
            for name, has_flaw in flaws.items()
        },
    }


def _row(
    number: int,
    copy: int,
    example: Example,
    found: Sequence[tuple[Translation, Translation]],
) -> dict[str, Any]:
    row: dict[str, Any] = {"origin": number, "copy": copy, "label": example.label}
    trouble: set[str] = set()
    changed = False
    for field, (pivot, output) in enumerate(found):
        source = example.sentences[field]
        kept = pivot.trouble | output.trouble
        # Keep the source if there was nothing to translate or no translation.
        text = source if kept & STAYS else output.text
        row[f"source{field}"], row[f"pivot{field}"] = source, pivot.text
        row[f"input{field}"] = text
        only = pivot.trouble & {EMPTY, UNKNOWN}
        trouble |= only or kept
        changed |= text != source
    row["unchanged"] = not changed
    if trouble:
        row["trouble"] = [name for name in TROUBLES if name in trouble]
    return row


def _check_same(plan: Plan, found: Mapping[str, Any], place: Path) -> None:
    wanted = plan.settings()
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            raise InputError(
                f"{place} was made with {name} = {json.dumps(found.get(name))}, but "
                f"now it is {json.dumps(wanted.get(name))}: choose another folder or "
                "delete it"
            )
