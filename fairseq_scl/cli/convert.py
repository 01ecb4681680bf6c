"""``fairseq-scl convert``."""

import argparse
from pathlib import Path

from fairseq_scl.cli.options import FILE, FOLDER, SEVERAL
from fairseq_scl.convert.encoder_config import EncoderConfig
from fairseq_scl.convert.hub import fetch_from_hub, is_hub_id
from fairseq_scl.convert.huggingface import EncoderFiles, convert_encoder
from fairseq_scl.convert.pooling import POOLINGS
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.architecture import architecture_flags
from fairseq_scl.inference.huggingface import convert_classifier


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.epilog = (
        "Supports BERT-like encoders (WordPiece) and RoBERTa-like encoders (GPT-2 BPE)."
        " Final hidden states stay the same. fairseq does not support token types, so "
        "pairs are read with all token types 0."
    )
    parser.add_argument(
        "--from",
        dest="source",
        metavar="FOLDER",
        help="model of the Hugging Face hub (OWNER/NAME) or folder with config.json, "
        "model.safetensors or pytorch_model.bin (or the .index.json of their shards), "
        "and vocab.txt, or vocab.json and merges.txt, or tokenizer.json; instead of "
        "the next three",
    )
    parser.add_argument(
        "--weights",
        **FILE,
        help="model.safetensors or pytorch_model.bin",
    )
    parser.add_argument(
        "--config",
        **FILE,
        help="config.json of the encoder",
    )
    parser.add_argument(
        "--vocab",
        **FILE,
        **SEVERAL,
        help="vocab.txt, or vocab.json and merges.txt, or tokenizer.json; tokenizer "
        "settings are read from files in the same folder",
    )
    case = parser.add_mutually_exclusive_group()
    case.add_argument(
        "--cased",
        dest="lowercase",
        action="store_false",
        default=None,
        help="keep upper case in WordPiece (default: as set in tokenizer_config.json "
        "or tokenizer.json in the same folder)",
    )
    case.add_argument(
        "--uncased",
        dest="lowercase",
        action="store_true",
        default=None,
        help="convert text to lower case",
    )
    parser.add_argument(
        "--pooling",
        choices=POOLINGS,
        help="what classification heads read: the state at <s> or the mean over the "
        "tokens (default: as set in the folder's modules.json or 1_Pooling/config.json "
        "of sentence-transformers, otherwise cls)",
    )
    parser.add_argument(
        "--to",
        required=True,
        **FOLDER,
        help="encoder folder to write: model.pt, dict.txt and the tokenizer's files; "
        "with --classifier a model folder",
    )
    parser.add_argument(
        "--classifier",
        action="store_true",
        help="with --from: keep the head and the labels of a fine-tuned classifier and "
        "write a model folder, for 'fairseq-scl predict'",
    )
    parser.add_argument(
        "--pair",
        action="store_true",
        help="with --classifier: the classifier was trained on sentence pairs",
    )


def run(arguments: argparse.Namespace) -> int:
    """Convert, and print a summary and the flags for fairseq-train."""
    source = _source(arguments)
    if arguments.pair and not arguments.classifier:
        raise InputError("--pair needs --classifier")
    if arguments.classifier and arguments.pooling is not None:
        raise InputError(
            "--pooling cannot be combined with --classifier, whose head reads <s>"
        )
    if arguments.classifier:
        return _convert_classifier(source, arguments)
    case, pooling = arguments.lowercase, arguments.pooling
    done = convert_encoder(source, arguments.to, case, pooling)
    shape = done.config
    print(
        f"wrote {arguments.to}: {done.architecture}, {_sizes(shape)}, {done.symbols} "
        f"symbols, at most {shape.max_positions} tokens"
    )
    if done.unused_rows:
        print(f"left out: {done.unused_rows} embedding rows without a token")
    if done.task_head:
        print(
            f"left out: the task head ({', '.join(done.task_head)}); --classifier "
            "keeps that of a classifier"
        )
    if added := done.tokenizer.settings.added_tokens:
        names = ", ".join(token.content for token in added)
        print(f"added tokens, which fairseq's own --bpe does not support: {names}")
    if not done.language_model_head:
        print("the source lacks a language model head: lm_head is a placeholder")
    flags = architecture_flags(arguments.to, shape.max_positions, done.pooling)
    print(f"flags for fairseq-train: {' '.join(flags)}")
    return 0


def _convert_classifier(
    source: Path | EncoderFiles, arguments: argparse.Namespace
) -> int:
    if isinstance(source, EncoderFiles):
        raise InputError("--classifier needs --from FOLDER, which has the labels")
    case, pair = arguments.lowercase, arguments.pair
    shape, trained = convert_classifier(source, arguments.to, case, pair)
    what = "sentence pairs" if trained.pair else "sentences"
    print(
        f"wrote {arguments.to}: a classifier for {what}, {_sizes(shape)}, at most "
        f"{trained.max_positions} tokens"
    )
    print(f"labels: {', '.join(trained.labels)}")
    return 0


def _sizes(shape: EncoderConfig) -> str:
    return f"{shape.layers} layers, {shape.hidden} dimensions, {shape.heads} heads"


def _folder(source: str) -> Path:
    if Path(source).exists() or not is_hub_id(source):
        return Path(source)
    try:
        return fetch_from_hub(source)
    except InputError as error:
        raise InputError(f"--from {source}: {error}") from error


def _source(arguments: argparse.Namespace) -> Path | EncoderFiles:
    parts = ("weights", "config", "vocab")
    given = [f"--{name}" for name in parts if getattr(arguments, name)]
    missing = [f"--{name}" for name in parts if not getattr(arguments, name)]
    if arguments.source and given:
        raise InputError(f"--from and {given[0]} are both given: give one of them")
    if arguments.source:
        return _folder(arguments.source)
    if missing:
        raise InputError(
            f"{missing[0]} is missing: give --from FOLDER, or all of --weights, "
            "--config and --vocab"
        )
    return EncoderFiles(arguments.weights, arguments.config, tuple(arguments.vocab))
