"""Timing in alternating pairs, and the resulting row of the table."""

import gc
import importlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType


@dataclass(frozen=True)
class Settings:
    """Command-line settings that apply to all benchmarks.

    Attributes:
        rounds: pairs of measurements per row.
        threads: PyTorch's threads; already set when ``rows`` is called.
        glue: folder of the GLUE tasks, if one was given.
        translation: folder of an English-German translation model, if one was given.
    """

    rounds: int = 11
    threads: int = 2
    glue: Path | None = None
    translation: Path | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        question: short description of what is compared.
        setting: sizes, data, precision.
        ours: median of our measurements, in ``unit``.
        peer: median of the peer's.
        ratio: median over the pairs of peer / ours if the target is "at least", or
            of ours / peer if it is "at most".
        low: lower quartile of the ratio over the pairs.
        high: upper quartile.
        unit: of ``ours`` and ``peer``.
        target: such as ``at least 2``; empty without a target.
        met: whether the ratio meets the target; ``None`` without a target.
    """

    question: str
    setting: str
    ours: float
    peer: float
    ratio: float
    low: float
    high: float
    unit: str
    target: str
    met: bool | None = None


@dataclass(frozen=True)
class Pairs:
    """Measurements of both sides; entries with the same index were taken together."""

    ours: tuple[float, ...]
    peer: tuple[float, ...]
    unit: str = "ms"

    def gain(self, question: str, setting: str, at_least: float | None = None) -> Row:
        """Return a row with the ratio peer / ours: how many times better ours is."""
        return self._row(question, setting, self.peer, self.ours, at_least, "at least")

    def cost(self, question: str, setting: str, at_most: float | None = None) -> Row:
        """Return a row with the ratio ours / peer: the cost relative to the peer."""
        return self._row(question, setting, self.ours, self.peer, at_most, "at most")

    def _row(
        self,
        question: str,
        setting: str,
        above: tuple[float, ...],
        below: tuple[float, ...],
        bound: float | None,
        word: str,
    ) -> Row:
        low, ratio, high = quartiles([a / b for a, b in zip(above, below, strict=True)])
        met = None
        if bound is not None:
            met = ratio >= bound if word == "at least" else ratio <= bound
        return Row(
            question=question,
            setting=setting,
            ours=statistics.median(self.ours),
            peer=statistics.median(self.peer),
            ratio=ratio,
            low=low,
            high=high,
            unit=self.unit,
            target="" if bound is None else f"{word} {bound:g}",
            met=met,
        )


class PeerMissing(Exception):
    """A peer is not installed; the message names the package to install."""


def peer_module(module: str, package: str) -> ModuleType:
    """Import a peer.

    Args:
        module: its import name.
        package: its name in the package index, for the message.

    Raises:
        PeerMissing: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise PeerMissing(
            f"{package} is not installed: install it (pip install {package}) to "
            "compare with it"
        ) from error


def paired(
    ours: Callable[[], object],
    peer: Callable[[], object],
    rounds: int,
    least_seconds: float = 0.02,
    wait: Callable[[], object] | None = None,
) -> Pairs:
    """Time two functions in alternating pairs, so that drift affects both equally.

    Each is called once to warm up. Short functions are repeated for
    ``least_seconds`` per measurement. Every second round starts with the peer.

    Args:
        ours: our side of the comparison.
        peer: the other side.
        rounds: number of pairs, at least 1.
        least_seconds: minimum length of a measurement.
        wait: called before and after each measurement, such as
            ``torch.cuda.synchronize`` for a GPU.

    Returns:
        milliseconds per call for both sides.
    """
    counts = {f: _repeats(f, least_seconds, wait) for f in (ours, peer)}
    found: dict[Callable[[], object], list[float]] = {ours: [], peer: []}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            for function in (ours, peer) if number % 2 == 0 else (peer, ours):
                seconds = _seconds(function, counts[function], wait)
                found[function].append(1000 * seconds / counts[function])
    finally:
        if collecting:
            gc.enable()
    return Pairs(tuple(found[ours]), tuple(found[peer]))


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile; a single value is all three."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def _repeats(
    function: Callable[[], object],
    least_seconds: float,
    wait: Callable[[], object] | None,
) -> int:
    _seconds(function, 1, wait)
    once = _seconds(function, 1, wait)
    return max(1, round(least_seconds / max(once, 1e-7)))


def _seconds(
    function: Callable[[], object], count: int, wait: Callable[[], object] | None
) -> float:
    if wait:
        wait()
    start = time.perf_counter()
    for _ in range(count):
        function()
    if wait:
        wait()
    return time.perf_counter() - start
