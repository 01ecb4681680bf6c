"""What a Hugging Face ``config.json`` says of an encoder, checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_scl.data.files import read_json
from fairseq_scl.errors import InputError

MODEL_TYPES = ("bert", "roberta")
SENTENCEPIECE_TYPES = ("xlm-roberta", "xlm-roberta-xl", "camembert", "albert", "xlnet")
STOCK_EPS = 1e-5


@dataclass(frozen=True)
class EncoderConfig:
    """The shape of an encoder.

    Attributes:
        model_type: ``"bert"`` or ``"roberta"``.
        layers: number of transformer layers.
        hidden: width of the hidden states.
        inner: width inside the feed-forward blocks.
        heads: attention heads.
        vocabulary_rows: rows of the embedding, at least one for each piece.
        position_rows: rows of the position table.
        position_offset: the row of the first token's position.
        layer_norm_eps: added to the variance in each layer norm.
        dropout: of hidden states.
        attention_dropout: of attention weights.
    """

    model_type: str
    layers: int
    hidden: int
    inner: int
    heads: int
    vocabulary_rows: int
    position_rows: int
    position_offset: int
    layer_norm_eps: float
    dropout: float
    attention_dropout: float

    @property
    def max_positions(self) -> int:
        """Return the longest input in tokens, special tokens included."""
        return self.position_rows - self.position_offset

    @property
    def architecture(self) -> str:
        """Return the fairseq architecture that computes the same.

        fairseq's RoBERTa has a fixed epsilon of 1e-5; ``roberta_bert``, which this
        package registers, has a flag for it.
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
    """Read a ``config.json`` and refuse what fairseq's RoBERTa cannot compute.

    Raises:
        InputError: the file is missing, a setting is missing, or has a value that
            cannot be converted; the sentence names file, setting, value and what is
            allowed.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise InputError(f"{path} is not a configuration: expected a JSON object")
    _refuse_other_models(found, path)
    eps = _fraction(found, "layer_norm_eps", 1e-12, path)
    if eps == 0:
        raise InputError(f"{path}: layer_norm_eps is 0, allowed: above 0")
    hidden = _number(found, "hidden_size", path)
    heads = _number(found, "num_attention_heads", path)
    if hidden % heads:
        raise InputError(
            f"{path}: hidden_size is {hidden}, allowed: a multiple of the {heads} "
            "num_attention_heads"
        )
    positions = _number(found, "max_position_embeddings", path)
    # RoBERTa counts positions from its padding id + 1 on, BERT from 0.
    offset = found.get("pad_token_id", 1) if found["model_type"] == "roberta" else -1
    if not isinstance(offset, int) or not -1 <= offset < positions - 1:
        raise InputError(
            f"{path}: pad_token_id is {offset!r}, allowed: a number below "
            f"{positions - 1} (max_position_embeddings - 1)"
        )
    return EncoderConfig(
        model_type=found["model_type"],
        layers=_number(found, "num_hidden_layers", path),
        hidden=hidden,
        inner=_number(found, "intermediate_size", path),
        heads=heads,
        vocabulary_rows=_number(found, "vocab_size", path),
        position_rows=positions,
        position_offset=offset + 1,
        layer_norm_eps=eps,
        dropout=_fraction(found, "hidden_dropout_prob", 0.1, path),
        attention_dropout=_fraction(found, "attention_probs_dropout_prob", 0.1, path),
    )


def _refuse_other_models(found: dict[str, Any], path: str | Path) -> None:
    kind = found.get("model_type")
    if kind in SENTENCEPIECE_TYPES:
        raise InputError(
            f"{path}: model_type {kind!r} has a sentencepiece vocabulary, read only "
            "from XLM-R and CamemBERT as fairseq publishes them; allowed: bert "
            "(WordPiece), roberta (GPT-2 BPE)"
        )
    if found.get("auto_map"):
        raise InputError(
            f"{path}: auto_map is {found['auto_map']!r}, which is code that comes with "
            "the model; allowed: BERT and RoBERTa as transformers computes them"
        )
    if kind not in MODEL_TYPES:
        raise InputError(
            f"{path}: model_type is {kind!r}, allowed: {', '.join(MODEL_TYPES)}"
        )
    # transformers may leave these out of the file, and means just these values then.
    allowed = {
        "hidden_act": "gelu",  # the exact one, with erf; gelu_new is another
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
        "is_encoder_decoder": False,
        "pruned_heads": {},
        "quantization_config": None,
    }
    for name, only in allowed.items():
        if (value := found.get(name, only)) != only:
            raise InputError(
                f"{path}: {name} is {value!r}, which fairseq's RoBERTa does not have; "
                f"allowed: {only!r}"
            )


def _number(found: dict[str, Any], name: str, path: str | Path) -> int:
    value = found.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{path}: {name} is {value!r}, allowed: a number from 1 on")
    return value


def _fraction(
    found: dict[str, Any], name: str, default: float, path: str | Path
) -> float:
    # The defaults are those of transformers, which may leave them out of the file.
    value = found.get(name, default)
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise InputError(f"{path}: {name} is {value!r}, allowed: from 0 to below 1")
    return float(value)
