"""Distance of back-translations from their sources.

All functions are pure functions of texts. A pair counts as two sentences.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU, CHRF

from fairseq_scl.data.outputs import Output

Outputs = Sequence[Sequence[Output]]
# From N sentences to their embeddings, (N, D).
Embed = Callable[[Sequence[str]], NDArray[np.float64]]


@dataclass(frozen=True)
class Noise:
    """Measurements of the outputs at one temperature.

    Attributes:
        examples: number of source examples.
        outputs: total number of outputs.
        unchanged: share of outputs that equal their source.
        empty: number of outputs with an empty sentence.
        chrf: chrF2 of the outputs against their sources, from 0 to 100.
        bleu: BLEU of the outputs against their sources, from 0 to 100.
        distinct: distinct-1 and distinct-2 of the outputs.
        source_distinct: distinct-1 and distinct-2 of the sources.
        length_ratio: words in the outputs per word in their sources.
        cosine: mean cosine similarity, from -1 to 1, of the embeddings of outputs and
            their sources, and of outputs and the sources of other examples; ``None``
            without an encoder.
    """

    examples: int
    outputs: int
    unchanged: float
    empty: int
    chrf: float
    bleu: float
    distinct: tuple[float, float]
    source_distinct: tuple[float, float]
    length_ratio: float
    cosine: tuple[float, float] | None


def measure(files: Sequence[Outputs], embed: Embed | None = None) -> Noise:
    """Measure the outputs at one temperature.

    chrF (Popović, 2015) and BLEU are computed by sacreBLEU over all outputs as one
    corpus. Distinct-n depends on the number of sentences, so it is computed separately
    for each copy in each file, which has as many sentences as the sources, and
    averaged.

    Args:
        files: the result of :func:`~fairseq_scl.data.outputs.read_outputs` for each
            augmented file.
        embed: computes sentence embeddings, to compare meaning instead of words.
    """
    every = [output for file in files for group in file for output in group]
    found = list(itertools.chain.from_iterable(o.sentences for o in every))
    sources = list(itertools.chain.from_iterable(o.sources for o in every))
    bleu = BLEU(force=True)  # no warning of tokenized text, such as that of SST-2
    chrf = CHRF()
    copies = [copy for file in files for copy in zip(*file, strict=True)]
    cosine = None
    if embed:
        ours, theirs = embed(found), embed(sources)
        # Shifted by the sentences of one example, to the sources of the next.
        others = np.roll(theirs, sum(len(o.sources) for o in files[0][0]), axis=0)
        cosine = (mean_cosine(ours, theirs), mean_cosine(ours, others))
    return Noise(
        examples=sum(map(len, files)),
        outputs=len(every),
        unchanged=sum(output.unchanged for output in every) / len(every),
        empty=sum(not all(map(str.strip, output.sentences)) for output in every),
        chrf=chrf.corpus_score(found, [sources]).score,
        bleu=bleu.corpus_score(found, [sources]).score,
        distinct=_distinct([[s for o in copy for s in o.sentences] for copy in copies]),
        source_distinct=_distinct(
            [[s for group in file for s in group[0].sources] for file in files]
        ),
        length_ratio=length_ratio(found, sources),
        cosine=cosine,
    )


def noise_signature() -> str:
    """Return sacreBLEU's signatures of both metrics."""
    bleu, chrf = BLEU(), CHRF()
    for metric in (bleu, chrf):  # the signature needs references to be set
        metric.corpus_score(["a"], [["a"]])
    return f"BLEU: {bleu.get_signature()} chrF2: {chrf.get_signature()}"


def distinct(sentences: Iterable[str], n: int) -> float:
    """Return distinct-n, the number of different word n-grams over all n-grams.

    Li et al. (2016), "A Diversity-Promoting Objective Function for Neural Conversation
    Models". Words are separated by whitespace and case-sensitive. Larger sets of
    sentences give lower values.

    Returns:
        a value from 0 to 1; NaN if no sentence has n words.
    """
    grams = []
    for sentence in sentences:
        words = sentence.split()
        grams += [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else math.nan


def length_ratio(sentences: Sequence[str], sources: Sequence[str]) -> float:
    """Return words in the sentences per word in the sources; NaN without words."""
    words = sum(len(source.split()) for source in sources)
    if not words:
        return math.nan
    return sum(len(sentence.split()) for sentence in sentences) / words


def mean_cosine(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the mean cosine of the rows of two ``(N, D)`` arrays, pair by pair."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(((first * second).sum(axis=1) / lengths).mean())


def _distinct(sets: Sequence[Sequence[str]]) -> tuple[float, float]:
    first, second = (fmean(distinct(one, n) for one in sets) for n in (1, 2))
    return first, second
