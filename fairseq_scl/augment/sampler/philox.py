"""Philox: random numbers that depend only on the example, not on its batch.

Each output has its own stream, identified by a 64-bit key. Philox is a counter-based
generator: a number is a function of key, step and position, independent of the order of
computation and of the batch size.
"""

import hashlib

import torch
from torch import Tensor

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
LOW = 0xFFFFFFFF
AT_ONCE = 1 << 16


def stream_key(*parts: int | str) -> int:
    """Return the key of a stream, a signed 64-bit hash of its name."""
    name = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little", signed=True)


def philox(counters: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Compute Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers").

    Args:
        counters: four int64 tensors with 32-bit numbers that broadcast together.
        key: two such tensors.

    Returns:
        four int64 tensors of random 32-bit numbers.
    """
    a, b, c, d = counters
    first, second = key
    for _ in range(ROUNDS):
        # A product of two 32-bit numbers may wrap around in int64, but its bits are
        # correct.
        left, right = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = (
            (right >> 32) & LOW ^ b ^ first,
            right & LOW,
            (left >> 32) & LOW ^ d ^ second,
            left & LOW,
        )
        first, second = (first + WEYL[0]) & LOW, (second + WEYL[1]) & LOW
    return [a, b, c, d]


def exponentials(keys: Tensor, first: int, steps: int, count: int) -> Tensor:
    """Draw from the exponential distribution of rate 1.

    Args:
        keys: ``(R,)`` int64, the stream of each row.
        first: number of the first decoding step.
        steps: number of steps.
        count: numbers per row and step.

    Returns:
        ``(R, steps, count)`` float32, above 0; about one in 2^24 is infinite.
    """
    places = torch.arange((count + 3) // 4, device=keys.device)
    times = torch.arange(first, first + steps, device=keys.device)[:, None]
    zero = torch.zeros_like(places[:1])
    keys = keys[:, None, None]
    words = philox((places, times, zero, zero), (keys & LOW, (keys >> 32) & LOW))
    numbers = torch.stack(words, dim=-1).flatten(2)[:, :, :count]
    # The argmax depends on small numbers, and -log(1 - u) is accurate for small u.
    uniform = numbers.to(torch.float32).add_(0.5).mul_(2.0**-32)
    return uniform.neg_().log1p_().neg_()


class ExponentialNoise:
    """Exponential noise for the rows of a batch, computed several steps ahead."""

    def __init__(self, keys: Tensor, count: int) -> None:
        """Take the streams, ``(R,)`` int64, and the count of numbers per step."""
        self._keys, self._count = keys, count
        self._first = 0
        self._drawn = torch.empty(len(keys), 0, count, device=keys.device)

    def at(self, step: int) -> Tensor:
        """Return the numbers of a step: ``(R, count)`` float32."""
        if step >= self._first + self._drawn.shape[1]:
            # The cost is mostly per call, so compute several steps at once.
            steps = max(1, min(16, AT_ONCE // (len(self._keys) * self._count)))
            self._drawn = exponentials(self._keys, step, steps, self._count)
            self._first = step
        return self._drawn[:, step - self._first]

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows."""
        self._keys, self._drawn = self._keys[rows], self._drawn[rows]
