"""What does the contrastive term add to a training step?

Compares the stock ``sentence_prediction`` criterion with ours at λ = 0.9 (hook, loss,
floor and logging) on the same model: 6 layers of width 384 as in the quick start's
encoder, random weights, 16 sentences of 32 tokens without padding, forward, backward
and Adam.
"""

from argparse import Namespace
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from fairseq.criterions.sentence_prediction import SentencePredictionCriterion
from fairseq.data import Dictionary
from fairseq.models.roberta import RobertaModel

from benchmarks.pairs import Row, Settings, paired
from fairseq_scl.criterions.sentence_prediction_scl import (
    SentencePredictionSCLConfig,
    SentencePredictionSCLCriterion,
)

QUESTION = "CE + SCL step, compared with a CE step of stock fairseq"
HEAD = "sentence_classification_head"
WORDS, BATCH, LENGTH = 1000, 16, 32
AT_MOST = 1.01
# Resolving one percent takes more pairs than resolving a factor of two.
MORE_ROUNDS = 5


def rows(settings: Settings) -> Iterator[Row]:
    """Yield the rows of this benchmark."""
    torch.manual_seed(0)
    words, labels = Dictionary(), Dictionary()
    for number in range(WORDS):
        words.add_symbol(f"word{number}")
    for name in ("negative", "positive"):
        labels.add_symbol(name)
    task = SimpleNamespace(
        cfg=SimpleNamespace(num_classes=2),
        source_dictionary=words,
        label_dictionary=labels,
    )
    model = _model(task)
    options = SentencePredictionSCLConfig()
    ours = _step(model, SentencePredictionSCLCriterion(options, task), len(words))
    peer = _step(model, SentencePredictionCriterion(options, task), len(words))
    pairs = paired(ours, peer, settings.rounds * MORE_ROUNDS)
    setting = f"MiniLM's size, batch {BATCH} of {LENGTH} tokens"
    yield pairs.cost(QUESTION, setting, AT_MOST)


def _model(task: Any) -> RobertaModel:
    sizes = Namespace(
        encoder_layers=6,
        encoder_embed_dim=384,
        encoder_ffn_embed_dim=1536,
        encoder_attention_heads=12,
        tokens_per_sample=512,
    )
    model = RobertaModel.build_model(sizes, task)
    model.register_classification_head(HEAD, num_classes=2)
    return model.train()


def _step(model: Any, criterion: Any, words: int) -> Callable[[], None]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(4, words, (BATCH, LENGTH), generator=random)
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
