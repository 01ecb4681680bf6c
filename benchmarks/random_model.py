"""A RoBERTa classifier with random weights, and the stock task that it belongs to."""

from argparse import Namespace
from typing import Any

from fairseq.data import Dictionary
from fairseq.models.roberta import RobertaModel
from fairseq.tasks.sentence_prediction import (
    SentencePredictionConfig,
    SentencePredictionTask,
)

HEAD = "sentence_classification_head"


def random_classifier(
    shape: tuple[int, int, int, int], **settings: float
) -> tuple[Any, SentencePredictionTask]:
    """Build a classifier of two classes in training mode.

    Args:
        shape: layers, width, heads and symbols of the encoder.
        settings: further settings of the model.

    Returns:
        the model and its task.
    """
    layers, width, heads, count = shape
    words, labels = Dictionary(), Dictionary()
    for number in range(count - words.nspecial):
        words.add_symbol(f"word{number}")
    for name in ("negative", "positive"):
        labels.add_symbol(name)
    cfg = SentencePredictionConfig(data="no data folder", num_classes=2, init_token=0)
    task = SentencePredictionTask(cfg, words, labels)
    sizes = Namespace(
        encoder_layers=layers,
        encoder_embed_dim=width,
        encoder_ffn_embed_dim=4 * width,
        encoder_attention_heads=heads,
        tokens_per_sample=512,
        **settings,
    )
    model = RobertaModel.build_model(sizes, task)
    model.register_classification_head(HEAD, num_classes=2)
    return model.train(), task
