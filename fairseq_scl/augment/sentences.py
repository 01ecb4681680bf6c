"""Translate texts, and handle those that are too long or cannot be translated."""

import html
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from fairseq_scl.augment.sampler.decoding import Hypothesis, Request, translate
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
    """The models of one direction with the segmenters of both languages."""

    translator: Translator
    source: Segmenter
    target: Segmenter


@dataclass(frozen=True)
class Translation:
    """A text with its problems, members of ``TROUBLES``."""

    text: str
    trouble: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Part:
    """A part of a text that is translated as a whole."""

    text: str
    tokens: tuple[int, ...]
    trouble: frozenset[str]


def translate_texts(
    direction: Direction,
    texts: Sequence[str],
    names: Sequence[Sequence[StreamName]],
    method: DecodingMethod,
    max_tokens: int | None = None,
    on_done: Callable[[int], object] = lambda _: None,
) -> list[list[Translation]]:
    """Translate each text once per named random stream.

    Texts longer than the models' positions are split at the ends of sentences, and
    sentences that are still too long are truncated. A text without a translation is
    kept as it is. So is an unreadable one, which has unknown pieces and no letter in
    the known ones.

    Texts have no line feeds, and all have the same number of streams. The other
    arguments are those of :func:`~fairseq_scl.augment.sampler.decoding.translate`.

    Returns:
        the translations of each text.
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
    """Split a text into parts that fit; a text without pieces has no parts."""
    pieces = _encode(direction, text)
    if pieces is None:
        return []
    limit = direction.translator.max_source
    if len(pieces.tokens) <= limit:
        return [pieces]
    parts: list[_Part] = []
    for sentence in SENTENCE_END.split(text):
        longer = f"{parts[-1].text} {sentence}" if parts else sentence
        joined = _encode(direction, longer)
        if parts and joined is not None and len(joined.tokens) <= limit:
            parts[-1] = joined
        elif (alone := _encode(direction, sentence)) is not None:
            parts.append(alone)
    mark = {SPLIT} if len(parts) > 1 else set()
    for number, part in enumerate(parts):
        trouble, tokens = part.trouble | mark, part.tokens
        if len(tokens) > limit:
            trouble, tokens = trouble | {TRUNCATED}, (*tokens[: limit - 1], tokens[-1])
        parts[number] = replace(part, tokens=tokens, trouble=trouble)
    return parts


def _encode(direction: Direction, text: str) -> _Part | None:
    dictionary = direction.translator.source
    pieces = direction.source.encode(text)
    if not pieces:
        return None
    tokens = (*(dictionary.index(piece) for piece in pieces), dictionary.eos())
    known = [p for p in pieces if dictionary.index(p) != dictionary.unk()]
    # Moses escapes a quote as &quot;, whose letters do not count.
    letters = any(map(str.isalpha, html.unescape(" ".join(known))))
    unreadable = len(known) < len(pieces) and not letters
    return _Part(text, tokens, frozenset({UNKNOWN} if unreadable else ()))


def has_unknown_pieces(direction: Direction, text: str) -> bool:
    """Return whether a text has pieces that are unknown to the models."""
    unk = direction.translator.source.unk()
    part = _encode(direction, text)
    return part is not None and unk in part.tokens


def has_entities(text: str) -> bool:
    """Return whether a text has HTML entities, such as ``&#39;`` or ``&amp;``."""
    return any(html.unescape(found) != found for found in ENTITY.findall(text))
