"""Packed batches: where each token lies, and dropout masks for a CPU."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

# 16 random bits an entry: a dropout probability is kept to within 1/131072.
_STEPS = 1 << 16


class CpuDropout:
    """Dropout whose masks take a tenth of the time of PyTorch's on a CPU.

    ``bernoulli_`` spends 6 ns an entry there, in a small encoder as much as all matrix
    products together. These masks are thresholds on 16 random bits. The seed is drawn
    from PyTorch's generator: ``torch.manual_seed``, or a random state that is restored,
    gives the same masks again.
    """

    def __init__(self) -> None:
        seed = int(torch.randint(1 << 62, ()).item())
        self._bits = np.random.SFC64(seed)

    def mask(self, size: int, p: float, dtype: torch.dtype) -> Tensor:
        """Draw factors, 0 with probability ``p`` and else 1 / (1 - p).

        Args:
            size: number of entries.
            p: from 0 to 1, rounded to a multiple of 1/65536, also in 1 / (1 - p).
            dtype: of the factors.

        Returns:
            ``(size,)``.
        """
        dropped = round(p * _STEPS)
        if dropped >= _STEPS:
            return torch.zeros(size, dtype=dtype)
        raw = self._bits.random_raw(-(-size // 4)).view(np.int16)[:size]
        kept = torch.empty(size, dtype=dtype)
        torch.ge(torch.from_numpy(raw), dropped - _STEPS // 2, out=kept)
        return kept.mul_(_STEPS / (_STEPS - dropped))

    def __call__(self, x: Tensor, p: float) -> Tensor:
        """Return ``x`` with entries dropped, the others scaled by 1 / (1 - p)."""
        return x * self.mask(x.numel(), p, x.dtype).view_as(x)


@dataclass
class Layout:
    """Where the sentences of a batch lie among the packed rows.

    Rows go sentence by sentence, sentences from the shortest to the longest.

    Attributes:
        lengths: tokens of each sentence, ascending.
        index: ``(N,)`` int64, where each row lies in the flattened ``(B, T)`` batch.
        positions: ``(N,)`` int64, place of each row in its sentence, from 0.
        padded: ``(N,)`` int64, where each row would lie in a padded batch of the
            sentences as they are ordered here, as wide as the longest.
        starts: ``(B + 1,)`` int64, first row of each sentence, then N.
        back: ``(B,)`` int64, place of each sentence of the batch in the order here.
        groups: ``(sentences, length)`` of each run of equally long sentences.
    """

    lengths: list[int]
    index: Tensor
    positions: Tensor
    padded: Tensor
    starts: Tensor
    back: Tensor
    groups: list[tuple[int, int]]
    _head_orders: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _masks: dict[torch.dtype, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, lengths: list[int], columns: int, device: torch.device) -> "Layout":
        """Lay out a batch that is padded on the right; the device is not waited for.

        Args:
            lengths: tokens of each sentence, in the order of the batch, all above 0.
            columns: of the padded batch.
            device: where the index tensors go.
        """
        given = np.asarray(lengths, dtype=np.int64)
        order = np.argsort(given, kind="stable")
        ordered = given[order]
        starts = np.concatenate([[0], np.cumsum(ordered)])
        positions = np.arange(starts[-1]) - np.repeat(starts[:-1], ordered)
        index = np.repeat(order * columns, ordered) + positions
        padded = np.repeat(np.arange(len(given)) * ordered[-1], ordered) + positions
        places = (index, positions, padded, starts, np.argsort(order, kind="stable"))
        joined = torch.from_numpy(np.concatenate(places))
        if device.type == "cuda":  # a copy from pinned memory is not waited for
            joined = joined.pin_memory()
        joined = joined.to(device, non_blocking=True)
        parts = joined.split([len(part) for part in places])
        length, count = np.unique(ordered, return_counts=True)
        return cls(
            lengths=ordered.tolist(),
            index=parts[0],
            positions=parts[1],
            padded=parts[2],
            starts=parts[3],
            back=parts[4],
            groups=list(zip(count.tolist(), length.tolist(), strict=True)),
        )

    @property
    def longest(self) -> int:
        """The length of the longest sentence."""
        return self.lengths[-1]

    @cached_property
    def starts32(self) -> Tensor:
        """``starts`` as int32, which kernels want."""
        return self.starts.to(torch.int32)

    @cached_property
    def one_each(self) -> Tensor:
        """``(B + 1,)`` int32, ``starts`` of rows of which each sentence has one."""
        return torch.arange(len(self.starts), dtype=torch.int32, device=self.device)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.starts.device

    @property
    def is_even(self) -> bool:
        """Tell whether all sentences are equally long."""
        return len(self.groups) == 1

    def mask(self, dtype: torch.dtype) -> Tensor:
        """Return what to add to the scores of a padded batch: -inf at padding, else 0.

        Made once per batch. Kernels want strides that are a multiple of 16, and would
        otherwise copy the mask in every layer.

        Returns:
            ``(B, 1, 1, T)``.
        """
        if dtype not in self._masks:
            columns = torch.arange(-self.longest // 16 * -16, device=self.device)
            padding = columns >= self.starts.diff()[:, None, None, None]
            mask = torch.zeros(padding.shape, dtype=dtype, device=self.device)
            mask = mask.masked_fill_(padding, float("-inf"))
            self._masks[dtype] = mask[..., : self.longest]
        return self._masks[dtype]

    def means(self, rows: Tensor) -> Tensor:
        """Average the rows ``(N, D)`` of each sentence: ``(B, D)``."""
        lengths = self.starts.diff()
        sentences = torch.arange(len(lengths), device=rows.device)
        sentences = sentences.repeat_interleave(lengths, output_size=len(rows))
        sums = rows.new_zeros(len(lengths), rows.shape[1])
        return sums.index_add(0, sentences, rows) / lengths[:, None].to(rows.dtype)

    def head_order(self, heads: int) -> tuple[Tensor, Tensor]:
        """Return how to go from (row, head) to (sentence, head, token), and back.

        Returns:
            two permutations, ``(N * heads,)`` int64, each other's inverse.
        """
        if heads not in self._head_orders:
            lengths = self.starts.diff()
            length = lengths.repeat_interleave(lengths)[:, None]
            start = self.starts[:-1].repeat_interleave(lengths)[:, None] * heads
            place = start + torch.arange(heads) * length + self.positions[:, None]
            back = place.flatten()
            forth = torch.empty_like(back)
            forth[back] = torch.arange(len(back))
            self._head_orders[heads] = forth, back
        return self._head_orders[heads]
