"""Convert the files of a Hugging Face encoder to a fairseq encoder folder.

An encoder folder has ``model.pt``, ``dict.txt`` and the files of its tokenizer, like
``roberta.base`` as published by fairseq. ``model.pt`` has only plain values and
tensors, so that ``torch.load(weights_only=True)`` reads it without an allow-list.
"""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairseq_scl.convert.checkpoint import plain_checkpoint
from fairseq_scl.convert.encoder_config import EncoderConfig, read_config
from fairseq_scl.convert.encoder_weights import (
    INDEX,
    fairseq_weights,
    read_weights,
)
from fairseq_scl.convert.pooling import Pooling, read_pooling
from fairseq_scl.convert.source_tokenizer import TOKENIZER
from fairseq_scl.convert.vocabulary import VOCABULARY_FILES, read_vocabulary
from fairseq_scl.data.files import write_then_rename
from fairseq_scl.data.folders import ENCODER as ENCODER_FOLDER
from fairseq_scl.data.folders import folder_then_rename
from fairseq_scl.data.tokenizers import GPT2BPE, WordPiece
from fairseq_scl.errors import InputError

WEIGHT_FILES = (
    *("model.safetensors", f"model.safetensors{INDEX}"),
    *("pytorch_model.bin", f"pytorch_model.bin{INDEX}"),
)


@dataclass(frozen=True)
class EncoderFiles:
    """The files of one encoder.

    Attributes:
        weights: ``model.safetensors`` or ``pytorch_model.bin``, or their
            ``.index.json``.
        config: ``config.json``.
        vocabulary: ``vocab.txt``, or ``vocab.json`` and ``merges.txt``, or
            ``tokenizer.json``. Settings of the tokenizer are read from the same folder.
    """

    weights: Path
    config: Path
    vocabulary: tuple[Path, ...]


@dataclass(frozen=True)
class ConvertedEncoder:
    """What was written.

    Attributes:
        config: the shape of the encoder.
        symbols: size of the dictionary, including special symbols and ``<mask>``.
        unused_rows: rows of the source's embedding without a piece, which are left out.
        language_model_head: whether the source has one; otherwise ``lm_head`` is a
            placeholder that fairseq needs for loading.
        task_head: names of the weights of the source's task head, which are left out.
        tokenizer: the tokenizer that was saved.
        pooling: the recommended pooling, ``cls`` or ``mean``.
    """

    config: EncoderConfig
    symbols: int
    unused_rows: int
    language_model_head: bool
    task_head: list[str]
    tokenizer: WordPiece | GPT2BPE
    pooling: Pooling

    @property
    def architecture(self) -> str:
        """The fairseq architecture of the encoder with its head."""
        return _architecture(self.config, self.pooling)


def convert_encoder(
    source: str | Path | EncoderFiles,
    target: str | Path,
    lowercase: bool | None = None,
    pooling: Pooling | None = None,
) -> ConvertedEncoder:
    """Convert a BERT- or RoBERTa-shaped encoder into a fairseq encoder folder.

    ``fairseq-train --restore-file TARGET/model.pt --reset-optimizer --reset-dataloader
    --reset-meters`` and ``RobertaModel.from_pretrained(TARGET)`` load the result. Its
    final hidden states equal those of ``transformers``, for pairs with token type 0
    everywhere: fairseq does not have token types, so type 0 is folded into the
    positions.

    ``from_pretrained`` gives an encoder of token ids. For ``encode`` on text, install
    the package that the tokenizer needs and pass, for example,
    ``bpe={"_name": "gpt2", "gpt2_encoder_json": …, "gpt2_vocab_bpe": …}``.

    Args:
        source: a folder with ``config.json``, the weights and the vocabulary, or these
            files.
        target: the encoder folder to write; an existing encoder folder is replaced once
            the new one is complete.
        lowercase: whether a WordPiece vocabulary is uncased; ``None`` takes
            ``do_lower_case`` from the source's ``tokenizer_config.json``, or the
            setting in its ``tokenizer.json``.
        pooling: recorded as the encoder's ``head_pooling``; ``None`` takes it from the
            source's sentence-transformers files, and ``cls`` without these.

    Returns:
        what was written.

    Raises:
        InputError: files are missing or damaged, or the encoder or its tokenizer is not
            supported.
    """
    inputs: list[str | Path] = []
    if not isinstance(source, EncoderFiles):
        inputs.append(source)
        pooling = pooling or read_pooling(Path(source))
        source = find_encoder_files(source)
    pooling = pooling or "cls"
    config = read_config(source.config)
    tokenizer, symbols, rows = read_vocabulary(source.vocabulary, config, lowercase)
    weights, has_head, task_head = fairseq_weights(
        read_weights(source.weights), config, rows, source.weights
    )
    inputs += [source.weights, source.config, *source.vocabulary]
    with folder_then_rename(target, ENCODER_FOLDER, inputs) as folder:
        with write_then_rename(folder / "model.pt", "wb") as file:
            torch.save(encoder_checkpoint(weights, config, pooling), file)
        with write_then_rename(folder / "dict.txt") as file:
            # The counts are unknown; fairseq uses them only to sort a new dictionary.
            file.writelines(f"{symbol} 1\n" for symbol in symbols)
        tokenizer.save(folder)
    return ConvertedEncoder(
        config=config,
        symbols=len(rows),
        unused_rows=config.vocabulary_rows - len(rows),
        language_model_head=has_head,
        task_head=task_head,
        tokenizer=tokenizer,
        pooling=pooling,
    )


def find_encoder_files(folder: str | Path) -> EncoderFiles:
    """Find the files of an encoder in a folder written by Hugging Face's libraries.

    Raises:
        InputError: the folder or one of the files is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"missing folder: {folder}")
    config = read_config(folder / "config.json")
    weights = [folder / name for name in WEIGHT_FILES if (folder / name).is_file()]
    if not weights:
        raise InputError(
            f"{folder} has neither model.safetensors nor pytorch_model.bin, nor an "
            f"{INDEX} that lists their parts"
        )
    names = VOCABULARY_FILES[config.model_type]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing and (folder / TOKENIZER).is_file():
        names = (TOKENIZER,)
    elif missing:
        raise InputError(
            f"missing vocabulary of a {config.model_type}: {folder / missing[0]}, or "
            f"{TOKENIZER} instead"
        )
    return EncoderFiles(
        weights=weights[0],
        config=folder / "config.json",
        vocabulary=tuple(folder / name for name in names),
    )


def _architecture(config: EncoderConfig, pooling: Pooling) -> str:
    # The heads of the stock architectures always read the state at <s>.
    return "roberta_bert" if pooling == "mean" else config.architecture


def encoder_checkpoint(
    weights: "OrderedDict[str, Tensor]", config: EncoderConfig, pooling: Pooling = "cls"
) -> dict[str, Any]:
    """Return the checkpoint of an encoder, for ``model.pt``."""
    architecture = _architecture(config, pooling)
    model: dict[str, Any] = {
        "_name": architecture,
        "encoder_layers": config.layers,
        "encoder_embed_dim": config.hidden,
        "encoder_ffn_embed_dim": config.inner,
        "encoder_attention_heads": config.heads,
        "max_positions": config.max_positions,
        "activation_fn": "gelu",
        "pooler_activation_fn": "tanh",
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": 0.0,
        "pooler_dropout": 0.0,
        "untie_weights_roberta": False,
    }
    if architecture == "roberta_bert":
        model["layer_norm_eps"] = config.layer_norm_eps
    if pooling != "cls":
        model["head_pooling"] = pooling
    return plain_checkpoint(model, encoder_task(config.max_positions), weights)


def encoder_task(max_positions: int) -> dict[str, Any]:
    """Return the task in the checkpoint of an encoder, which needs no labels."""
    settings = {"data": ".", "tokens_per_sample": max_positions, "seed": 1}
    return {"_name": "masked_lm", **settings}
