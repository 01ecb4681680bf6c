"""Translating texts: pieces in and out, and what to do with texts that do not fit."""

import html
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from fairseq_scl.augment.sampler.decoding import (
    MAX_TOKENS,
    Hypothesis,
    Request,
    translate,
)
from fairseq_scl.augment.sampler.gumbel_max import DecodingMethod
from fairseq_scl.augment.sampler.philox import stream_key
from fairseq_scl.augment.segment import Segmenter
from fairseq_scl.augment.translator import Translator

EMPTY, SPLIT, TRUNCATED = "empty", "split", "truncated"
UNTRANSLATED, UNKNOWN = "untranslated", "unknown"
TROUBLES = (EMPTY, SPLIT, TRUNCATED, UNTRANSLATED, UNKNOWN)
SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|(?<=[.!?…][\"'”’)\]])\s+")
ENTITY = re.compile(r"&#?\w+;")

StreamName = tuple[int | str, ...]


@dataclass(frozen=True)
class Direction:
    """Models of one direction, and how texts of both languages are cut."""

    translator: Translator
    source: Segmenter
    target: Segmenter


@dataclass(frozen=True)
class Translation:
    """A text, and what was not in order with it (of ``TROUBLES``)."""

    text: str
    trouble: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Part:
    """What is translated at once of a text."""

    text: str
    tokens: tuple[int, ...]
    trouble: frozenset[str]


def translate_texts(
    direction: Direction,
    texts: Sequence[str],
    names: Sequence[Sequence[StreamName]],
    method: DecodingMethod,
    max_tokens: int = MAX_TOKENS,
    on_done: Callable[[int], object] = lambda _: None,
) -> list[list[Translation]]:
    """Translate texts, each as often as it has names of random streams.

    A text that is longer than the models' positions is split at the ends of its
    sentences, and a sentence that is still too long is truncated. What has no
    translation stays as it is, and so does what cannot be read: a text with unknown
    pieces of whose known ones none has a letter.

    Args:
        direction: models and segmenters.
        texts: to translate, without line feeds.
        names: for each text the names of its streams, the same number for all.
        method: how outputs are chosen.
        max_tokens: pieces in a batch.
        on_done: called with the number of translations as they are done.

    Returns:
        for each text its translations.
    """
    parts = [_parts(direction, text) for text in texts]
    requests = [
        Request(part.tokens, tuple(stream_key(*name, number) for name in names[text]))
        for text, pieces in enumerate(parts)
        for number, part in enumerate(pieces)
        if UNKNOWN not in part.trouble
    ]
    found = iter(translate(direction.translator, requests, method, max_tokens, on_done))
    return [
        _joined(direction, text, pieces, found, len(streams))
        for text, pieces, streams in zip(texts, parts, names, strict=True)
    ]


def _joined(
    direction: Direction,
    text: str,
    parts: Sequence[_Part],
    found: Iterator[Sequence[Hypothesis]],
    copies: int,
) -> list[Translation]:
    if not parts:
        return [Translation(text, frozenset({EMPTY}))] * copies
    if all(UNKNOWN in part.trouble for part in parts):
        return [Translation(text, frozenset({UNKNOWN}))] * copies
    outputs = [None if UNKNOWN in part.trouble else next(found) for part in parts]
    translations = []
    for copy in range(copies):
        of_parts = [
            Translation(part.text, part.trouble - {UNKNOWN})
            if output is None
            else _text(direction, part, output[copy])
            for part, output in zip(parts, outputs, strict=True)
        ]
        trouble = frozenset().union(*(t.trouble for t in of_parts))
        translations.append(Translation(" ".join(t.text for t in of_parts), trouble))
    return translations


def _text(direction: Direction, part: _Part, output: Hypothesis) -> Translation:
    symbols = direction.translator.target.symbols
    text = direction.target.decode([symbols[token] for token in output.tokens])
    text = " ".join(text.split())
    trouble = part.trouble | ({TRUNCATED} if output.cut else set())
    if text:
        return Translation(text, trouble)
    return Translation(part.text, trouble | {UNTRANSLATED})


def _parts(direction: Direction, text: str) -> list[_Part]:
    """Cut a text so that each part fits; no part of a text that has no pieces."""
    pieces = _encode(direction, text)
    if pieces is None:
        return []
    if _fits(direction, pieces):
        return [pieces]
    parts: list[_Part] = []
    for sentence in SENTENCE_END.split(text):
        longer = f"{parts[-1].text} {sentence}" if parts else sentence
        joined = _encode(direction, longer)
        if parts and joined is not None and _fits(direction, joined):
            parts[-1] = joined
        elif (alone := _encode(direction, sentence)) is not None:
            parts.append(alone)
    limit = direction.translator.max_source
    mark = frozenset({SPLIT}) if len(parts) > 1 else frozenset()
    for number, part in enumerate(parts):
        trouble = (
            part.trouble | mark | (set() if _fits(direction, part) else {TRUNCATED})
        )
        tokens = (*part.tokens[: limit - 1], part.tokens[-1])
        tokens = part.tokens if _fits(direction, part) else tokens
        parts[number] = replace(part, tokens=tokens, trouble=trouble)
    return parts


def _encode(direction: Direction, text: str) -> _Part | None:
    dictionary = direction.translator.source
    pieces = direction.source.encode(text)
    if not pieces:
        return None
    tokens = (*(dictionary.index(piece) for piece in pieces), dictionary.eos())
    known = [p for p in pieces if dictionary.index(p) != dictionary.unk()]
    # Moses writes a quote as &quot;, whose letters are not a word.
    letters = any(map(str.isalpha, html.unescape(" ".join(known))))
    unreadable = len(known) < len(pieces) and not letters
    return _Part(text, tokens, frozenset({UNKNOWN} if unreadable else ()))


def has_unknown_pieces(direction: Direction, text: str) -> bool:
    """Tell whether a text has pieces that the models do not know."""
    unk = direction.translator.source.unk()
    part = _encode(direction, text)
    return part is not None and unk in part.tokens


def has_entities(text: str) -> bool:
    """Tell whether a text has HTML entities, as ``&#39;`` or ``&amp;``."""
    return any(html.unescape(found) != found for found in ENTITY.findall(text))


def _fits(direction: Direction, part: _Part) -> bool:
    return len(part.tokens) <= direction.translator.max_source
