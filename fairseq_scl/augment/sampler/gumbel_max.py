"""Gumbel-max sampling of the next piece, with a test for decisions too close to call.

``argmax(log p + G)`` with independent Gumbel noise ``G`` is a sample from ``p``. With
``G = -log E``, where ``E`` is exponential noise, it is ``argmax(p / E)``, which is
computed here. It takes two rounds, among blocks of the vocabulary and within the block
that won: the same distribution, with a few hundred random numbers instead of one per
piece.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Pieces in a block. Another size gives other outputs for the same seed.
BLOCK = 128


@dataclass(frozen=True)
class DecodingMethod:
    """How outputs are chosen: sampling or beam search.

    Attributes:
        temperature: divisor of the logits, above 0.
        top_k: sample only from the k best pieces; 0 for all pieces.
        top_p: sample from the smallest set of pieces with at least this probability; 0
            for all pieces.
        beam: beam size of a beam search instead of sampling; 0 for sampling.
        max_len_a: the maximum number of output pieces is ``max_len_a`` times that of
            the source, including its end, plus ``max_len_b``; defaults as in fairseq.
        max_len_b: see ``max_len_a``.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    beam: int = 0
    max_len_a: float = 0.0
    max_len_b: int = 200


def numbers_needed(pieces: int) -> int:
    """Return how many random numbers are needed to sample from this many pieces."""
    return -(-pieces // BLOCK) + BLOCK


def gumbel_max(
    scores: Tensor, noise: Tensor, method: DecodingMethod, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Sample one piece per row.

    Args:
        scores: ``(R, V)`` logits divided by the temperature, at least one finite per
            row; overwritten.
        noise: ``(R, numbers_needed(V))`` float32 from the exponential distribution.
        method: ``top_k`` and ``top_p`` restrict the pieces.
        tolerance: the smallest safe gap between the best two, in units of ``scores``.

    Returns:
        the pieces ``(R,)`` int64, and ``(R,)`` bool: whether rounding of the scores
        within the tolerance could change the result.
    """
    scores = scores.float()
    close = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    if method.top_k or method.top_p:
        scores, close = _narrowed(scores, method, tolerance)
    masses = scores.sub_(scores.amax(dim=1, keepdim=True)).exp_()
    masses = F.pad(masses, (0, -masses.shape[1] % BLOCK))
    blocks = masses.view(len(masses), -1, BLOCK)
    reach = math.exp(-tolerance)
    first, near = _largest(blocks.sum(dim=2), noise[:, BLOCK:], reach)
    rows = torch.arange(len(first), device=first.device)
    second, near_within = _largest(blocks[rows, first], noise[:, :BLOCK], reach)
    return first * BLOCK + second, close | near | near_within


def _largest(masses: Tensor, noise: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """Return the argmax per row of ``(R, N)``, and whether the second is close."""
    quotients = masses / noise
    if masses.shape[1] == 1:
        winners = torch.zeros(len(masses), dtype=torch.int64, device=masses.device)
        return winners, winners.bool()
    best = quotients.topk(2, dim=1)
    return best.indices[:, 0], best.values[:, 1] > best.values[:, 0] * reach


def _narrowed(
    scores: Tensor, method: DecodingMethod, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Apply ``top_k`` or ``top_p``; also return whether the cutoff is close."""
    best, order = scores.sort(dim=1, descending=True, stable=True)
    if method.top_k:
        size = min(method.top_k, scores.shape[1])
        count = torch.full((len(scores), 1), size, device=scores.device)
    else:
        before = best.softmax(dim=1).cumsum(dim=1)
        # Includes the piece that reaches the probability.
        count = (before < method.top_p).sum(dim=1, keepdim=True) + 1
    ranks = torch.arange(scores.shape[1], device=scores.device)
    kept = torch.where(ranks < count, best, float("-inf"))
    inside = best.gather(1, count - 1)
    outside = best.gather(1, count.clamp(max=best.shape[1] - 1))
    close = (inside - outside < tolerance) & (count < best.shape[1])
    close = close.view(-1)
    if method.top_p:
        # A sum of probabilities changes by at most a quarter of a change in logits.
        close |= ((before - method.top_p).abs() < tolerance / 4).any(dim=1)
    return torch.empty_like(scores).scatter_(1, order, kept), close
