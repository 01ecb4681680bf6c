"""Read and check the shape of an encoder in a Hugging Face ``config.json``."""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

from fairseq_scl.errors import InputError
from fairseq_scl.typed import Positive, as_type, read_json

SENTENCEPIECE_TYPES = ("xlm-roberta", "xlm-roberta-xl", "camembert", "albert", "xlnet")
STOCK_EPS = 1e-5
# Settings that must have these values, which are also their defaults in transformers.
ONLY: dict[str, Any] = {
    "hidden_act": "gelu",  # with erf; gelu_new is an approximation
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "pruned_heads": {},
    "quantization_config": None,
}
Share = Annotated[float, Meta(ge=0, lt=1)]


class EncoderConfig(msgspec.Struct, frozen=True):
    """The shape of an encoder; defaults are those of transformers.

    Attributes:
        model_type: ``"bert"`` or ``"roberta"``.
        layers: number of transformer layers.
        hidden: width of the hidden states.
        inner: width of the feed-forward layers.
        heads: number of attention heads.
        vocabulary_rows: rows of the embedding, at least one per piece.
        position_rows: rows of the position embedding.
        padding: RoBERTa counts positions from this id + 1, BERT from 0.
        layer_norm_eps: added to the variance in each layer norm.
        dropout: probability for hidden states.
        attention_dropout: probability for attention weights.
    """

    model_type: Literal["bert", "roberta"]
    layers: Positive = field(name="num_hidden_layers")
    hidden: Positive = field(name="hidden_size")
    inner: Positive = field(name="intermediate_size")
    heads: Positive = field(name="num_attention_heads")
    vocabulary_rows: Positive = field(name="vocab_size")
    position_rows: Positive = field(name="max_position_embeddings")
    padding: int | None = field(name="pad_token_id", default=1)
    layer_norm_eps: Annotated[float, Meta(gt=0, lt=1)] = 1e-12
    dropout: Share = field(name="hidden_dropout_prob", default=0.1)
    attention_dropout: Share = field(name="attention_probs_dropout_prob", default=0.1)

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise ValueError(
                f"hidden_size is {self.hidden}, allowed: a multiple of the "
                f"{self.heads} num_attention_heads"
            )
        most = self.position_rows - 1
        padding = -2 if self.padding is None else self.padding
        if self.model_type == "roberta" and not -1 <= padding < most:
            raise ValueError(
                f"pad_token_id is {self.padding}, allowed: a number below {most} "
                "(max_position_embeddings - 1)"
            )

    @property
    def position_offset(self) -> int:
        """Return the row of the first token's position."""
        if self.model_type == "bert" or self.padding is None:
            return 0
        return self.padding + 1

    @property
    def max_positions(self) -> int:
        """Return the longest input in tokens, including special tokens."""
        return self.position_rows - self.position_offset

    @property
    def architecture(self) -> str:
        """Return the equivalent fairseq architecture.

        fairseq's RoBERTa has a fixed epsilon of 1e-5; ``roberta_bert`` of this package
        has a flag for it.
        """
        if self.layer_norm_eps != STOCK_EPS:
            return "roberta_bert"
        shape = (self.layers, self.hidden, self.inner, self.heads)
        known = {
            (12, 768, 3072, 12): "roberta_base",
            (24, 1024, 4096, 16): "roberta_large",
        }
        return known.get(shape, "roberta")


def read_config(path: str | Path) -> EncoderConfig:
    """Read a ``config.json``; refuse settings that fairseq's RoBERTa does not have.

    Raises:
        InputError: the file or a setting is missing, or a value cannot be converted;
            the message names the file, the setting, its value and what is allowed.
    """
    found = read_json(path)
    if isinstance(found, dict):
        kind = found.get("model_type")
        if kind in SENTENCEPIECE_TYPES:
            raise InputError(
                f"{path}: model_type {kind!r} has a sentencepiece vocabulary, which "
                "works only for XLM-R and CamemBERT as published by fairseq; allowed: "
                "bert (WordPiece), roberta (GPT-2 BPE)"
            )
        if found.get("auto_map"):
            raise InputError(
                f"{path}: auto_map is {found['auto_map']!r}, which is code that comes "
                "with the model; allowed: the BERT and RoBERTa of transformers"
            )
        for name, only in ONLY.items():
            if (value := found.get(name, only)) != only:
                raise InputError(
                    f"{path}: {name} is {value!r}, which fairseq's RoBERTa lacks; "
                    f"allowed: {only!r}"
                )
    return as_type(found, EncoderConfig, str(path))
