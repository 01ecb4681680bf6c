"""Toy encoders, sentences and packages, and a run with real training.

Slow fixtures are created once per process and deleted when it ends.
"""

import functools
import io
import tarfile
import tempfile
import zipfile
from pathlib import Path

import torch
import transformers

from fairseq_scl.convert.huggingface import convert_encoder
from fairseq_scl.data.binarize import binarize, rows_of
from fairseq_scl.data.movie_reviews import FILE, INNER
from fairseq_scl.data.texts import Example
from fairseq_scl.experiments.command import Run
from fairseq_scl.experiments.results_folder import BEST, LOG
from fairseq_scl.experiments.runner import run_training
from fairseq_scl.inference.model_folder import export_classifier
from helpers import training

GOOD = ("good", "great", "fine", "gripping", "beautiful")
BAD = ("bad", "dull", "awful", "boring", "clumsy")
COMMON = ("a", "the", "film", "story", "actor", "is", "and", ",", ".", "very")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = (*SPECIAL, *GOOD, *BAD, *COMMON, *LETTERS[1:], *(f"##{c}" for c in LETTERS))
POSITIONS = 40
LOSS = {
    "criterion": "sentence_prediction_scl",
    **{"scl_lambda": 0.9, "scl_temperature": 0.3},
}


def make_bert(folder, pieces=PIECES, seed=0, **settings) -> Path:
    """Write a BERT with two layers and 16 dimensions in the format of transformers.

    Args:
        folder: where ``config.json``, ``model.safetensors``, ``vocab.txt`` and
            ``tokenizer_config.json`` are written.
        pieces: the WordPiece vocabulary.
        seed: seed of the weights.
        settings: settings of ``BertConfig`` that override the toy's.
    """
    shape = {
        "vocab_size": len(pieces),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": POSITIONS,
        "layer_norm_eps": 1e-12,
        "initializer_range": 0.2,
        **settings,
    }
    torch.manual_seed(seed)
    model = transformers.BertModel(transformers.BertConfig(**shape))
    for name, weight in model.named_parameters():
        # Small enough for a layer norm's epsilon to matter.
        if name.endswith("_embeddings.weight"):
            weight.data *= 0.01
    model.save_pretrained(folder)
    Path(folder, "vocab.txt").write_text("\n".join(pieces) + "\n", "utf-8")
    Path(folder, "tokenizer_config.json").write_text('{"do_lower_case": true}', "utf-8")
    return Path(folder)


def make_sentences(count, seed=0, labels=("negative", "positive")) -> list[Example]:
    """Create distinct sentences that are easy to label, half of each class."""
    random = torch.Generator().manual_seed(seed)
    words = {labels[0]: BAD, labels[-1]: GOOD}
    made: dict[str, Example] = {}
    while len(made) < count:
        label = labels[-1] if len(made) % 2 else labels[0]
        length = int(torch.randint(1, 6, (), generator=random))
        chosen = [_pick(words[label], random)]
        chosen += [_pick(COMMON, random) for _ in range(length)]
        text = f"{' '.join(chosen)} no {len(made)}"
        made.setdefault(text, Example((text,), label))
    return list(made.values())


def make_pairs(count, seed=0) -> list[Example]:
    """Create sentence pairs of three classes."""
    singles = make_sentences(2 * count, seed)
    names = ("entailment", "neutral", "contradiction")
    return [
        Example((*first.sentences, *second.sentences), names[i % 3])
        for i, (first, second) in enumerate(
            zip(singles[::2], singles[1::2], strict=True)
        )
    ]


def make_splits(make=make_sentences, train=16, valid=8, test=8) -> dict:
    """Create ``train``, ``valid`` and ``test`` without common sentences."""
    every = make(train + valid + test)
    return {
        "train": every[:train],
        "valid": every[train : train + valid],
        "test": every[train + valid :],
    }


@functools.cache
def scratch() -> Path:
    """Return a folder for this process whose path has spaces and a quote."""
    folder = tempfile.TemporaryDirectory(prefix="it's a toy ")
    _KEPT.append(folder)
    return Path(folder.name)


_KEPT: list[tempfile.TemporaryDirectory] = []


@functools.cache
def toy_bert() -> Path:
    """Return the folder of a toy BERT."""
    return make_bert(scratch() / "bert")


@functools.cache
def toy_encoder() -> Path:
    """Return the encoder folder of a toy BERT with the architecture roberta_bert."""
    convert_encoder(toy_bert(), scratch() / "encoder")
    return scratch() / "encoder"


@functools.cache
def toy_data(pairs=False) -> Path:
    """Return a data folder of sentences or pairs."""
    folder = scratch() / ("pairs" if pairs else "singles")
    make = make_pairs if pairs else make_sentences
    binarize(make_splits(make), toy_encoder(), folder)
    return folder


def ids_in(folder, part, split="train"):
    """Return the ids of each example in one part of a data folder, as lists."""
    rows = rows_of(folder, part, split)
    return [rows[i].tolist() for i in range(len(rows))]


def toy_run(**settings) -> Run:
    """Return a run of a few updates on the toy data.

    Args:
        settings: fields of the run, or of its loss where ``LOSS`` has them.
    """
    loss = {key: settings.pop(key, value) for key, value in LOSS.items()}
    defaults = {
        "name": "toy",
        "data": toy_data(),
        "encoder": toy_encoder(),
        "seed": 1,
        "updates": 30,
        "validations": 2,
        "batch_size": 8,
        "learning_rate": 0.01,
        "batching": "reshuffled",
        "keep_checkpoint": True,
    }
    return Run(**{**defaults, "loss": loss, **settings})


@functools.cache
def trained(pairs=False):
    """Train on the toy data; return the run, its folder and its record."""
    run = toy_run(data=toy_data(pairs))
    folder = scratch() / f"run of {run.data.name}"
    return run, folder, run_training(run, folder)


@functools.cache
def toy_model(pairs=False) -> Path:
    """Return the model folder of the trained run."""
    run, folder, _ = trained(pairs)
    target = scratch() / f"model of {run.data.name}"
    export_classifier(folder / BEST, run.data, target)
    return target


def train_in_fork(run, argv, folder):
    """Run the printed command, in a fresh process that need not import fairseq."""
    ended = training.start_fast(
        training.run_command, "fairseq_cli.train", argv[1:]
    ).wait()
    Path(folder, LOG).write_text(ended.stdout + ended.stderr, "utf-8")
    return ended.returncode


def make_encoder_wheel(path, inner) -> Path:
    """Write a wheel with the toy BERT in its folder ``inner``, and other files."""
    with zipfile.ZipFile(path, "w") as wheel:
        for file in toy_bert().iterdir():
            wheel.write(file, f"{inner}{file.name}")
        wheel.writestr("a_package/__init__.py", "raise SystemExit('not to be run')")
    return Path(path)


def make_review_archive(path, lines, inner=INNER, file=FILE) -> Path:
    """Write rated sentences in the format of the package's archive.

    Args:
        path: path of the archive.
        lines: ``(rating, text)`` pairs, or the bytes of the whole file.
        inner: name of the inner archive.
        file: name of the text file in it.
    """
    if not isinstance(lines, bytes):
        rows = [f"{i}\t{rating}\t{text}\n" for i, (rating, text) in enumerate(lines)]
        lines = "".join(rows).encode("latin-1")
    buffer = io.BytesIO()
    _write_tar(buffer, file, lines)
    _write_tar(path, inner, buffer.getvalue())
    return Path(path)


def _write_tar(target, name, content):
    where = {"fileobj": target} if isinstance(target, io.BytesIO) else {"name": target}
    with tarfile.open(mode="w:gz", **where) as tar:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def _pick(words, random):
    return words[int(torch.randint(len(words), (), generator=random))]
