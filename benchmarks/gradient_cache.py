"""What does gradient caching cost, and how much memory does it take?

For a step of 256 sentences, 16 at a time (``--contrastive-batch 256 --chunk 16``), the
time is compared with that of the same 256 at once, and the peak memory with that of a
plain batch of 16. A step is forward, backward and ``fused_adam``, with dropout, on
sentences with SST-2's lengths and random weights. Memory is the peak of a separate
process, including PyTorch, that takes two steps over 256 sentences, or 32 over 16.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.loss import own_peak_mebibytes
from benchmarks.pairs import Pairs, Row, Settings, paired
from benchmarks.random_model import random_classifier
from fairseq_scl.criterions.sentence_prediction_scl import (
    SentencePredictionSCLConfig,
    SentencePredictionSCLCriterion,
)
from fairseq_scl.errors import InputError
from fairseq_scl.large_batch.gradient_cache import cached_step
from fairseq_scl.optim.fused_adam import FusedAdam
from fairseq_scl.packing.encoder import LENGTHS, pack
from fairseq_scl.packing.memory import keep_memory

QUESTION = "gradient caching, 256 sentences in chunks of 16"
BATCH, CHUNK = 256, 16
PAD = 1  # in every fairseq dictionary
SLOWER, LARGER = 1.45, 1.15
# MiniLM's layers, width, heads, symbols.
SHAPE = (6, 384, 12, 30_522)
# Packed or padded, and the maximum number of timed pairs; a padded step takes too long
# to be timed.
CASES = (("packed", 7), ("padded", 0))
# Length in tokens at every 10% quantile of SST-2's training sentences (WordPiece).
TENTHS = (3, 4, 6, 7, 8, 10, 13, 16, 20, 27, 66)


def rows(settings: Settings) -> Iterator[Row]:
    """Yield the rows of this benchmark.

    Raises:
        InputError: a measuring process failed, for example for lack of memory.
    """
    for kind, most_rounds in CASES:
        name = f"MiniLM's size, {kind}"
        if rounds := min(settings.rounds, most_rounds):
            times = _child(kind, "time", settings.threads, rounds)
            setting = f"{name}: time, compared with all at once"
            yield Pairs(**times).cost(QUESTION, setting, SLOWER)
        peaks = {
            side: _child(kind, side, settings.threads, 1) for side in ("ours", "peer")
        }
        setting = f"{name}: peak memory, compared with batch {CHUNK}"
        yield Pairs(**peaks, unit="MiB").cost(QUESTION, setting, LARGER)


def _child(kind: str, what: str, threads: int, rounds: int) -> Any:
    arguments = [kind, what, str(threads), str(rounds)]
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.gradient_cache", *arguments],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode != 0:
        raise InputError(
            f"the process for {kind}, {what} ended with status "
            f"{child.returncode}: {child.stderr.strip().splitlines()[-1:]}"
        )
    return json.loads(child.stdout.splitlines()[-1])


def _measure(kind: str, what: str, rounds: int) -> Any:
    """Return milliseconds for both sides, or the peak memory of one in MiB."""
    side = _Side(packed=kind == "packed")
    if what == "time":
        found = paired(lambda: side.step(CHUNK), lambda: side.step(BATCH), rounds, 0)
        return {"ours": found.ours, "peer": found.peer}
    for _ in range(2):
        if what == "ours":
            side.step(CHUNK)
        else:
            side.small_steps()
    return [own_peak_mebibytes()]


class _Side:
    def __init__(self, packed: bool) -> None:
        torch.manual_seed(0)
        self.model, task = random_classifier(SHAPE)
        if packed:
            pack(self.model)
            keep_memory()  # as the task does
        options = SentencePredictionSCLConfig()
        self.criterion = SentencePredictionSCLCriterion(options, task)
        self.adam = FusedAdam(self.model.parameters(), lr=1e-5, weight_decay=0.1)
        self.sample = _batch(packed)

    def step(self, chunk: int) -> None:
        """Take a step over the whole batch, in chunks if ``chunk`` is smaller."""
        self.adam.zero_grad(set_to_none=True)
        if chunk < BATCH:
            optimizer = SimpleNamespace(backward=lambda loss: loss.backward())
            cached_step(self.sample, self.model, self.criterion, optimizer, chunk)
        else:
            self.criterion(self.model, self.sample)[0].backward()
        self.adam.step()

    def small_steps(self) -> None:
        """Take one step per ``CHUNK`` sentences of the batch."""
        for start in range(0, BATCH, CHUNK):
            part = slice(start, start + CHUNK)
            net_input = {k: v[part] for k, v in self.sample["net_input"].items()}
            longest = int(net_input["src_lengths"].max())
            net_input["src_tokens"] = net_input["src_tokens"][:, :longest]
            small = {"net_input": net_input, "target": self.sample["target"][part]}
            self.adam.zero_grad(set_to_none=True)
            self.criterion(self.model, {**self.sample, **small})[0].backward()
            self.adam.step()


def _batch(packed: bool) -> dict[str, Any]:
    random = np.random.default_rng(0)
    places = np.linspace(0, 1, len(TENTHS))
    lengths = np.interp(random.random(BATCH), places, TENTHS).round().astype(int)
    tokens = torch.from_numpy(random.integers(4, SHAPE[3], (BATCH, lengths.max())))
    tokens[torch.arange(lengths.max()) >= torch.from_numpy(lengths)[:, None]] = PAD
    net_input = {"src_tokens": tokens, "src_lengths": torch.from_numpy(lengths)}
    if packed:
        net_input[LENGTHS] = lengths.tolist()
    return {
        "net_input": net_input,
        "ntokens": int(lengths.sum()),
        "target": torch.from_numpy(random.integers(2, size=(BATCH, 1))),
    }


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    print(json.dumps(_measure(sys.argv[1], sys.argv[2], int(sys.argv[4]))))
