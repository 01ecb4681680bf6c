"""What does the contrastive term add to a training step?

Compares the stock ``sentence_prediction`` criterion with ours at λ = 0.9 (hook, loss,
floor and logging) on the same model: 6 layers of width 384 as in the quick start's
encoder, random weights, 16 sentences of 32 tokens without padding, forward, backward
and Adam.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from fairseq.criterions.sentence_prediction import SentencePredictionCriterion

from benchmarks.pairs import Row, Settings, paired
from benchmarks.random_model import random_classifier
from fairseq_scl.criterions.sentence_prediction_scl import (
    SentencePredictionSCLConfig,
    SentencePredictionSCLCriterion,
)

QUESTION = "CE + SCL step, compared with a CE step of stock fairseq"
SHAPE = (6, 384, 12, 1004)  # layers, width, heads, symbols
BATCH, LENGTH = 16, 32
AT_MOST = 1.01
# Resolving one percent takes more pairs than resolving a factor of two.
MORE_ROUNDS = 5


def rows(settings: Settings) -> Iterator[Row]:
    """Yield the rows of this benchmark."""
    torch.manual_seed(0)
    model, task = random_classifier(SHAPE)
    options = SentencePredictionSCLConfig()
    ours = _step(model, SentencePredictionSCLCriterion(options, task))
    peer = _step(model, SentencePredictionCriterion(options, task))
    pairs = paired(ours, peer, settings.rounds * MORE_ROUNDS)
    setting = f"MiniLM's size, batch {BATCH} of {LENGTH} tokens"
    yield pairs.cost(QUESTION, setting, AT_MOST)


def _step(model: Any, criterion: Any) -> Callable[[], None]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(4, SHAPE[3], (BATCH, LENGTH), generator=random)
    sample = {
        "net_input": {
            "src_tokens": tokens,
            "src_lengths": torch.full((BATCH,), LENGTH),
        },
        "ntokens": BATCH * LENGTH,
        "id": torch.arange(BATCH),
        "target": torch.randint(2, (BATCH, 1), generator=random),
    }

    def step() -> None:
        optimizer.zero_grad()
        loss, size, _ = criterion(model, sample)
        (loss / size).backward()
        optimizer.step()

    return step
