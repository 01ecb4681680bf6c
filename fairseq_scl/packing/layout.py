"""Packed batches: the position of each token, and dropout masks for a CPU."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fairseq_scl.losses.shared import at_least_float32

# 16 random bits per entry: a dropout probability is exact to within 1/131072.
_STEPS = 1 << 16


class CpuDropout:
    """Dropout whose masks take a tenth of the time of PyTorch's on a CPU.

    ``bernoulli_`` takes 6 ns per entry there, which in a small encoder adds up to as
    much as all matrix products. These masks threshold 16 random bits instead. The seed
    is drawn from PyTorch's generator with the first mask, so ``torch.manual_seed`` or a
    restored random state reproduces the masks, and passes without dropout draw nothing.
    """

    @cached_property
    def _bits(self) -> np.random.SFC64:
        return np.random.SFC64(int(torch.randint(1 << 62, ()).item()))

    def mask(self, size: int, p: float, dtype: torch.dtype) -> Tensor:
        """Draw factors that are 0 with probability ``p`` and 1 / (1 - p) otherwise.

        Args:
            size: number of factors.
            p: from 0 to 1; rounded to a multiple of 1/65536, also in 1 / (1 - p).
            dtype: dtype of the factors.

        Returns:
            the factors, ``(size,)``.
        """
        dropped = round(p * _STEPS)
        if dropped >= _STEPS:
            return torch.zeros(size, dtype=dtype)
        raw = self._bits.random_raw(-(-size // 4)).view(np.int16)[:size]
        kept = torch.empty(size, dtype=dtype)
        torch.ge(torch.from_numpy(raw), dropped - _STEPS // 2, out=kept)
        return kept.mul_(_STEPS / (_STEPS - dropped))

    def __call__(self, x: Tensor, p: float) -> Tensor:
        """Drop entries of ``x`` and scale the others by 1 / (1 - p)."""
        return x * self.mask(x.numel(), p, x.dtype).view_as(x)


@dataclass
class Layout:
    """The positions of a batch's sentences among the packed rows.

    Rows are ordered by sentence, and sentences from the shortest to the longest.

    Attributes:
        lengths: number of tokens of each sentence, ascending.
        index: ``(N,)`` int64, index of each row in the flattened ``(B, T)`` batch.
        positions: ``(N,)`` int64, position of each row in its sentence, from 0.
        padded: ``(N,)`` int64, index of each row in a padded batch of the sentences in
            this order, as wide as the longest sentence.
        starts: ``(B + 1,)`` int64, first row of each sentence, then N.
        back: ``(B,)`` int64, index in this order of each sentence of the batch.
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
        """Lay out a batch that is padded on the right, without a device sync.

        Args:
            lengths: number of tokens of each sentence of the batch, all above 0.
            columns: number of columns of the padded batch.
            device: device of the index tensors.
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
        if device.type == "cuda":  # copies from pinned memory are asynchronous
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
        """``starts`` as int32, which kernels need."""
        return self.starts.to(torch.int32)

    @cached_property
    def one_each(self) -> Tensor:
        """``(B + 1,)`` int32, ``starts`` for one row per sentence."""
        return torch.arange(len(self.starts), dtype=torch.int32, device=self.device)

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.starts.device

    @property
    def is_even(self) -> bool:
        """Whether all sentences are equally long."""
        return len(self.groups) == 1

    def mask(self, dtype: torch.dtype) -> Tensor:
        """Return the additive mask of a padded batch: -inf for padding, otherwise 0.

        It is created once per batch. Its strides are multiples of 16, because kernels
        would otherwise copy it in every layer.

        Returns:
            the mask, ``(B, 1, 1, T)``.
        """
        if dtype not in self._masks:
            columns = torch.arange(-self.longest // 16 * -16, device=self.device)
            padding = columns >= self.starts.diff()[:, None, None, None]
            mask = torch.zeros(padding.shape, dtype=dtype, device=self.device)
            mask = mask.masked_fill_(padding, float("-inf"))
            self._masks[dtype] = mask[..., : self.longest]
        return self._masks[dtype]

    def means(self, rows: Tensor) -> Tensor:
        """Average the rows ``(N, D)`` of each sentence.

        Returns:
            ``(B, D)`` in the dtype of the rows; the sum is at least float32.
        """
        lengths = self.starts.diff()
        sentences = torch.arange(len(lengths), device=rows.device)
        sentences = sentences.repeat_interleave(lengths, output_size=len(rows))
        terms = at_least_float32(rows)
        sums = terms.new_zeros(len(lengths), rows.shape[1])
        sums = sums.index_add(0, sentences, terms)
        return (sums / lengths[:, None].to(sums.dtype)).to(rows.dtype)

    def head_order(self, heads: int) -> tuple[Tensor, Tensor]:
        """Return the permutation from (row, head) to (sentence, head, token), and back.

        Returns:
            two permutations, ``(N * heads,)`` int64, which are inverses of each other.
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
