"""Sample translations from the whole distribution (Edunov et al. 2018).

This is the loop over batches and steps, see ``fairseq_scl.augment.sampler``. If the
best two pieces are closer than ``TOLERANCES`` (in logits, far above rounding errors),
the decision for that row is repeated alone: one pass of fairseq's own model over the
source and the output so far, in float32 with a batch of 1.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor

from fairseq_scl.augment.sampler.gumbel_max import (
    DecodingMethod,
    gumbel_max,
    numbers_needed,
)
from fairseq_scl.augment.sampler.incremental import (
    IncrementalDecoder,
    normalized,
    start_decoding,
)
from fairseq_scl.augment.sampler.philox import ExponentialNoise, exponentials
from fairseq_scl.augment.translator import Translator
from fairseq_scl.device import without_tf32

# In logits. Measured rounding errors were 7e-6, 0.007 and 0.06.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.8}
# Source pieces in a batch. A GPU needs large batches, because a step of any size
# launches the same number of kernels.
MAX_TOKENS = {"cpu": 8192, "cuda": 65_536}
# Limits the scores of a batch to 1 GiB, since short sources make large batches.
MOST_SCORES = 1 << 28
# Finished rows are removed when they reach this share of a batch.
FINISHED_SHARE = 0.1


@dataclass(frozen=True)
class Request:
    """A source to translate, once per stream.

    Attributes:
        tokens: ids of its pieces, including ``</s>``.
        streams: the key of the random stream for each copy.
    """

    tokens: tuple[int, ...]
    streams: tuple[int, ...]


@dataclass(frozen=True)
class Hypothesis:
    """The ids of a translation's pieces, and whether it reached the maximum length."""

    tokens: tuple[int, ...]
    cut: bool = False


def translate(
    translator: Translator,
    requests: Sequence[Request],
    method: DecodingMethod,
    max_tokens: int | None = None,
    on_done: Callable[[int], object] = lambda _: None,
) -> list[list[Hypothesis]]:
    """Translate each source once per stream.

    Args:
        translator: the models.
        requests: the sources, all with the same number of streams.
        method: the decoding method.
        max_tokens: source pieces in a batch, including padding and copies; ``None``
            for the device's value in ``MAX_TOKENS``.
        on_done: called with the number of outputs after each batch.

    Returns:
        the outputs of each request, in the order of its streams. They depend neither on
        ``max_tokens`` nor on the other requests.
    """
    found: dict[int, list[Hypothesis]] = {}
    most = max_tokens or MAX_TOKENS[translator.device.type]
    for numbers in _batches(translator, requests, method, most):
        batch = [requests[number] for number in numbers]
        with torch.inference_mode():
            if method.beam:
                outputs = [_beam_search(translator, batch[0], method)]
            else:
                outputs = _Batch(translator, batch, method).run()
        found |= dict(zip(numbers, outputs, strict=True))
        on_done(sum(map(len, outputs)))
    return [found[number] for number in range(len(requests))]


def _batches(
    translator: Translator,
    requests: Sequence[Request],
    method: DecodingMethod,
    max_tokens: int,
) -> Iterator[list[int]]:
    """Yield numbers of requests, longest first.

    A beam search gets one request at a time, because its result would depend on the
    rounding of a larger batch.
    """
    waiting = sorted(range(len(requests)), key=lambda n: -len(requests[n].tokens))
    room = MOST_SCORES // (len(translator.target) * len(translator.models))
    while waiting:
        longest = requests[waiting[0]]
        width = len(longest.streams)
        cost = len(longest.tokens) * width
        size = 1 if method.beam else max(1, min(max_tokens // cost, room // width))
        yield waiting[:size]
        waiting = waiting[size:]


class _Batch:
    """Sampling of one batch."""

    def __init__(
        self,
        translator: Translator,
        requests: Sequence[Request],
        method: DecodingMethod,
    ) -> None:
        self._translator, self._requests, self._method = translator, requests, method
        self._device = translator.device
        self._copies = len(requests[0].streams)
        # TF32 has as many mantissa bits as float16.
        is_tf32 = translator.precision == "tf32"
        dtype = torch.float16 if is_tf32 else translator.dtype
        self._tolerance = TOLERANCES[dtype] / method.temperature
        streams = [key for request in requests for key in request.streams]
        self._streams = torch.tensor(streams, device=self._device)
        self._limits = [longest_output(translator, r, method) for r in requests]
        self._numbers = numbers_needed(len(translator.target))
        self._forbidden = forbidden_pieces(translator).to(self._device)
        self._exact: dict[int, list[object]] = {}

    def run(self) -> list[list[Hypothesis]]:
        """Return the outputs of each request."""
        eos, rows = self._translator.target.eos(), len(self._streams)
        decoders = self._start()
        limits = torch.tensor(self._limits, device=self._device)
        limits = limits.repeat_interleave(self._copies)
        longest = max(self._limits)
        tokens = torch.full((rows, longest + 2), eos, device=self._device)
        lengths = torch.zeros(rows, dtype=torch.int64, device=self._device)
        alive = torch.arange(rows, device=self._device)
        noise = ExponentialNoise(self._streams, self._numbers)
        running = torch.ones(rows, dtype=torch.bool, device=self._device)
        for step in range(longest):
            previous = tokens[alive, : step + 1]
            scores = self._scores(decoders, previous, step)
            picked = self._pick(scores, noise.at(step), alive, running, previous)
            tokens[alive, step + 1] = picked.where(running, eos)
            running &= picked.ne(eos)
            lengths[alive] += running
            running &= limits[alive] > step + 1
            left = int(running.sum())
            if left == 0:
                break
            if len(alive) - left >= FINISHED_SHARE * len(alive):
                kept = running.nonzero().view(-1)
                alive, running = alive[kept], running[kept]
                for decoder in decoders:
                    decoder.keep(kept)
                noise.keep(kept)
        cut = (lengths >= limits).tolist()
        pieces = [
            tuple(row[1 : length + 1])
            for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)
        ]
        every = [Hypothesis(p, c) for p, c in zip(pieces, cut, strict=True)]
        copies = self._copies
        return [every[i : i + copies] for i in range(0, rows, copies)]

    def _start(self) -> list[IncrementalDecoder]:
        translator, device = self._translator, self._device
        tokens = padded([r.tokens for r in self._requests], translator).to(device)
        lengths = torch.tensor([len(r.tokens) for r in self._requests], device=device)
        return [
            start_decoding(model, tokens, lengths, self._copies, max(self._limits))
            for model in translator.models
        ]

    def _scores(
        self, decoders: Sequence[IncrementalDecoder], previous: Tensor, step: int
    ) -> Tensor:
        temperature = self._method.temperature
        found = [d.scores(previous, step, temperature) for d in decoders]
        return self._allowed(averaged(found), step)

    def _allowed(self, scores: Tensor, step: int) -> Tensor:
        scores = scores.index_fill_(1, self._forbidden, float("-inf"))
        if step == 0:  # like fairseq's --min-len 1
            scores[:, self._translator.target.eos()] = float("-inf")
        return scores

    def _pick(
        self,
        scores: Tensor,
        noise: Tensor,
        alive: Tensor,
        running: Tensor,
        previous: Tensor,
    ) -> Tensor:
        """Sample a piece per row; decide rows that are too close to call alone."""
        picked, close = gumbel_max(scores, noise, self._method, self._tolerance)
        close &= running
        for row in close.nonzero().view(-1).tolist():
            number = int(alive[row])
            with without_tf32():
                exact = self._scores_alone(number, previous[row : row + 1])
            stream, step = self._streams[number : number + 1], previous.shape[1] - 1
            alone = exponentials(stream, step, 1, self._numbers)[:, 0]
            picked[row] = gumbel_max(exact, alone, self._method, 0.0)[0][0]
        return picked

    def _scores_alone(self, number: int, previous: Tensor) -> Tensor:
        """Compute one row's scores from only its source and its output so far."""
        source = number // self._copies
        models: list[Any] = list(self._translator.exact)
        if source not in self._exact:
            tokens = torch.tensor([self._requests[source].tokens], device=self._device)
            lengths = torch.tensor([tokens.shape[1]], device=self._device)
            encoded = [model.encoder(tokens, src_lengths=lengths) for model in models]
            self._exact[source] = encoded
        scores = [
            normalized(
                m, m.decoder(previous, encoder_out=encoded), self._method.temperature
            )
            for m, encoded in zip(models, self._exact[source], strict=True)
        ]
        return self._allowed(averaged(scores), previous.shape[1] - 1)


def averaged(scores: Sequence[Tensor]) -> Tensor:
    """Average the probabilities of an ensemble, as fairseq's EnsembleModel does.

    Args:
        scores: ``(R, V)`` for each model, not necessarily normalized.

    Returns:
        ``(R, V)`` log-probabilities; for a single model, its unchanged scores.
    """
    if len(scores) == 1:
        return scores[0]
    each = torch.stack([s.float().log_softmax(dim=1) for s in scores])
    return each.logsumexp(dim=0) - math.log(len(scores))


def forbidden_pieces(translator: Translator) -> Tensor:
    """Return the ids ``(N,)`` int64 of pieces that cannot be part of a text.

    fairseq only excludes padding. Here the unknown piece, the start of a sentence and
    the filler symbols of a dictionary are excluded, too.
    """
    target = translator.target
    fill = [n for n, s in enumerate(target.symbols) if s.startswith("madeupword")]
    return torch.tensor(sorted({target.bos(), target.pad(), target.unk(), *fill}))


def longest_output(
    translator: Translator, request: Request, method: DecodingMethod
) -> int:
    """Return the largest number of pieces in an output, as in fairseq-generate."""
    length = int(method.max_len_a * len(request.tokens) + method.max_len_b)
    return max(1, min(length, translator.max_target))


def padded(rows: Sequence[tuple[int, ...]], translator: Translator) -> Tensor:
    """Return sources as ``(S, L)`` int64, padded on the side used in training."""
    width, pad = max(map(len, rows)), translator.source.pad()
    blank = [[pad] * (width - len(row)) for row in rows]
    if translator.left_pad:
        return torch.tensor([[*b, *r] for b, r in zip(blank, rows, strict=True)])
    return torch.tensor([[*r, *b] for b, r in zip(blank, rows, strict=True)])


def _beam_search(
    translator: Translator, request: Request, method: DecodingMethod
) -> list[Hypothesis]:
    """Return the best hypotheses of fairseq's beam search."""
    device, copies = translator.device, len(request.streams)
    search = SequenceGenerator(
        translator.models,
        translator.target,
        beam_size=max(method.beam, copies),
        max_len=longest_output(translator, request, method) + 1,
        max_len_a=method.max_len_a,
        max_len_b=method.max_len_b,
        temperature=method.temperature,
        unk_penalty=float("inf"),
    )
    tokens = torch.tensor([request.tokens], device=device)
    lengths = torch.tensor([tokens.shape[1]], device=device)
    net_input = {"src_tokens": tokens, "src_lengths": lengths}
    found = search.generate(translator.models, {"net_input": net_input})[0][:copies]
    limit = longest_output(translator, request, method)
    pieces = [tuple(hypothesis["tokens"].tolist()[:-1]) for hypothesis in found]
    return [Hypothesis(p, len(p) >= limit) for p in pieces]
