"""Classifiers between our model folders and those of ``transformers``, both ways."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
from torch import Tensor

from fairseq_scl.convert.classifier_head import classifier_weights, reads_token_types
from fairseq_scl.convert.encoder_config import EncoderConfig, read_config
from fairseq_scl.convert.encoder_weights import fairseq_weights, read_weights
from fairseq_scl.convert.huggingface import encoder_checkpoint, find_encoder_files
from fairseq_scl.convert.huggingface_tokenizer import new_vocabulary, write_tokenizer
from fairseq_scl.convert.to_huggingface import (
    MODEL_TYPES,
    encoder_shape,
    huggingface_config,
    huggingface_weights,
)
from fairseq_scl.convert.to_sentence_transformers import write_modules, write_weights
from fairseq_scl.convert.vocabulary import read_vocabulary
from fairseq_scl.data.files import (
    explained,
    read_json,
    sha256,
    write_json,
    write_then_rename,
)
from fairseq_scl.data.folders import (
    HUGGING_FACE,
    MODEL,
    check_replaceable,
    folder_then_rename,
    naming,
    verify,
)
from fairseq_scl.data.renames import temporary
from fairseq_scl.data.texts import class_names
from fairseq_scl.data.tokenizers import GPT2BPE, WordPiece
from fairseq_scl.errors import InputError
from fairseq_scl.inference.model_card import model_card
from fairseq_scl.inference.model_folder import (
    LoadedModel,
    ModelSettings,
    export_classifier,
    load_classifier,
    write_model_files,
)
from fairseq_scl.inference.stock_checkpoint import stock_checkpoint
from fairseq_scl.input_format import BOS, EOS, HEAD, InputFormat, dictionary_checksum
from fairseq_scl.models.pooling import head_pooling
from fairseq_scl.rows import load_dictionary
from fairseq_scl.typed import read_as


def export_huggingface(
    model: str | Path, target: str | Path, inputs: Iterable[str | Path] = ()
) -> None:
    """Write a folder that ``AutoModelForSequenceClassification`` loads.

    It computes the logits of the model folder, from the same text: BERT for WordPiece,
    RoBERTa for GPT-2's BPE. It has ``config.json``, ``model.safetensors``, the
    tokenizer's files and a model card, ``README.md``. If the head reads the mean over
    the tokens, it is a folder for ``SentenceTransformer`` instead, see
    :mod:`fairseq_scl.convert.to_sentence_transformers`.

    A folder that was written to ``target`` before is replaced. ``inputs`` are files and
    folders that the model folder was made from; ``target`` must not overlap with them.

    Raises:
        InputError: the model has what ``transformers`` does not (several exits, a
            sentencepiece tokenizer, another activation), ``target`` has other content,
            or the disk is full.
    """
    model = Path(model)
    classifier = load_classifier(model)
    verify(model)
    _refuse_foreign(classifier, model)
    state: Mapping[str, Tensor] = classifier.model.state_dict()
    if classifier.temperature != 1:  # so that softmax gives our probabilities
        last = f"classification_heads.{classifier.head}.out_proj."
        state = {
            name: tensor / classifier.temperature if name.startswith(last) else tensor
            for name, tensor in state.items()
        }
    tokenizer: Any = classifier.tokenizer
    vocabulary = new_vocabulary(tokenizer, classifier.dictionary, model)
    separator = classifier.separator_token
    if not classifier.pair:  # how the encoder joins two, for whoever tries
        separator = EOS if tokenizer.pair_separator else None
    starts = [
        vocabulary.of_fairseq(n, model) for n in (classifier.init_token, separator)
    ]
    template = (starts[0], [vocabulary.special[2]], starts[1])
    shape = encoder_shape(
        classifier.model,
        MODEL_TYPES[tokenizer.kind],
        vocabulary.rows,
        vocabulary.ids[vocabulary.special[1]],
        model,
    )
    longest = min(classifier.max_positions, shape.max_positions)
    tensors = huggingface_weights(state, shape, vocabulary.rows, classifier.head, model)
    config = huggingface_config(shape, classifier.labels)
    reads_mean = head_pooling(classifier.model) == "mean"
    with folder_then_rename(target, HUGGING_FACE, [model, *inputs]) as folder:
        write_tokenizer(folder, tokenizer, vocabulary, template, longest)
        if reads_mean:
            write_modules(folder, config, tensors, shape, longest)
        else:
            write_json(folder / "config.json", config)
            write_weights(folder, tensors)
        card = model_card(
            title=Path(target).resolve().name,
            labels=classifier.labels,
            pair=classifier.pair,
            reads_mean=reads_mean,
            max_positions=longest,
            training=classifier.training,
            checksums={
                name: sha256(model / name)
                for name in ("model.pt", "input0/dict.txt", *tokenizer.file_names)
            },
        )
        with write_then_rename(folder / "README.md") as file:
            file.write(card)


def export_checkpoint(
    checkpoint: str | Path,
    data: str | Path,
    target: str | Path,
    encoder: str | Path | None = None,
    noted: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write a Hugging Face folder from a training checkpoint and its data folder.

    Arguments, warnings and errors are those of
    :func:`~fairseq_scl.inference.model_folder.export_classifier` and
    :func:`export_huggingface`. Nothing stays of the model folder between them.
    """
    target = Path(target)
    check_replaceable(target, HUGGING_FACE)
    with explained(target), temporary(target.parent, folder=True) as (own, _):
        model = own / "model"
        with naming(target, model):
            remarks = export_classifier(checkpoint, data, model, encoder, noted)
        with naming(checkpoint, model):
            export_huggingface(model, target, [checkpoint, data])
    return remarks


def _refuse_foreign(classifier: LoadedModel, model: Path) -> None:
    if len(classifier.exits) > 1:
        layers = ", ".join(map(str, classifier.exits))
        raise InputError(
            f"{model} has exits after the layers {layers}, and a Hugging Face "
            "classifier has one, after the last: train without --arch "
            "roberta_multi_exit to export it"
        )
    if not isinstance(classifier.tokenizer, WordPiece | GPT2BPE):
        raise InputError(
            f"{model} has a {classifier.tokenizer.kind} tokenizer, which cannot be "
            "written for transformers; allowed: WordPiece, GPT-2 BPE"
        )


def convert_classifier(
    source: str | Path,
    target: str | Path,
    lowercase: bool | None = None,
    pair: bool = False,
) -> tuple[EncoderConfig, InputFormat]:
    """Convert a fine-tuned Hugging Face classifier to a model folder.

    Args:
        source: a folder of ``BertForSequenceClassification`` or
            ``RobertaForSequenceClassification`` with its weights in ``safetensors``.
        target: the model folder to write.
        lowercase: as for :func:`fairseq_scl.convert.huggingface.convert_encoder`.
        pair: whether it was trained on sentence pairs.

    Returns:
        the shape of the encoder, and how text is read, with the labels.

    Raises:
        InputError: files are missing or damaged, the model lacks a head with labels, or
            reads pairs by token types.
    """
    source = Path(source)
    files = find_encoder_files(source)
    if ".safetensors" not in files.weights.name:
        raise InputError(
            f"{files.weights} is a pickle; a classifier is read from model.safetensors "
            "only, as save_pretrained of transformers writes it"
        )
    config = read_config(files.config)
    labels = read_as(files.config, _Classes).labels()
    class_names(labels)  # refuses what fairseq's dictionary cannot hold
    tokenizer, symbols, rows = read_vocabulary(files.vocabulary, config, lowercase)
    tensors = read_weights(files.weights)
    if pair and reads_token_types(tensors, config.model_type):
        raise InputError(
            f"--pair: {source} marks the second sentence with token type 1, which "
            "fairseq's RoBERTa does not have; allowed: single sentences, or a RoBERTa"
        )
    head = classifier_weights(tensors, config, len(labels), HEAD, files.weights)
    weights, _, _ = fairseq_weights(tensors, config, rows, files.weights)
    separator = EOS if pair and tokenizer.pair_separator else None
    plain = stock_checkpoint(
        encoder_checkpoint(weights, config), type(weights)(weights | head), HEAD
    )
    longest = _longest(source, config.max_positions)
    plain["cfg"]["task"] |= {
        "num_classes": len(labels),
        "regression_target": False,
        "classification_head_name": HEAD,
        "max_positions": longest,
        "init_token": BOS,
        "separator_token": separator,
    }
    with folder_then_rename(target, MODEL, [source]) as folder:
        for part, words in (("input0", symbols), ("label", labels)):
            with write_then_rename(folder / part / "dict.txt") as file:
                file.writelines(f"{word} 1\n" for word in words)
        tokenizer.save(folder)
        dictionary = load_dictionary(folder / "input0" / "dict.txt")
        trained = InputFormat(
            init_token=BOS,
            separator_token=separator,
            pair=pair,
            max_positions=longest,
            head=HEAD,
            labels=labels,
            dictionary=dictionary_checksum(dictionary.symbols),
            tokenizer={name: sha256(folder / name) for name in tokenizer.file_names},
        )
        settings = ModelSettings(trained)
        write_model_files(folder, plain, settings)
    return config, trained


class _Classes(msgspec.Struct):
    """The labels in ``config.json``; without them transformers makes up two."""

    id2label: dict[str, str] | None = None
    problem_type: Literal["single_label_classification"] | None = None

    def labels(self) -> list[str]:
        """Return the labels in the order of their ids."""
        names = self.id2label or {"0": "LABEL_0", "1": "LABEL_1"}
        return [names[str(number)] for number in range(len(names))]

    def __post_init__(self) -> None:
        names = self.id2label or {}
        if set(names) != {str(number) for number in range(len(names))}:
            raise ValueError(f"id2label is {names}, allowed: ids from 0 on")
        if len(set(names.values())) < len(names):
            raise ValueError(f"id2label is {names}, allowed: each label once")


def _longest(source: Path, positions: int) -> int:
    """Return the longest input in tokens: the tokenizer may cut it sooner."""
    path = source / "tokenizer_config.json"
    found = read_json(path) if os.path.lexists(path) else {}
    limit = found.get("model_max_length")
    return min(limit, positions) if type(limit) is int and limit > 0 else positions
