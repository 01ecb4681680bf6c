"""A toy table: two losses, three samples, runs with a few updates."""

import csv
import json
from pathlib import Path

from fairseq_scl.data.binarize import binarize
from helpers.encoders import make_sentences, toy_encoder

TOY_TABLE = """
protocol: 1
caption: Toy table
selection: few-shot
repetitions: 3
tasks: [toy]
sizes: [8]
batch_sizes: [8]
losses:
  CE: {scl_lambda: 0}
  CE+SCL: {scl_lambda: [0.5, 0.9], scl_temperature: [0.3]}
training:
  learning_rate: 1e-2
  updates: 6
  validations: 2
  batching: reshuffled
"""


def write_toy_table(folder: Path, text: str = TOY_TABLE) -> Path:
    """Write the YAML file of a toy table."""
    path = folder / "toy.yaml"
    path.write_text(text, "utf-8")
    return path


def make_toy_samples(folder: Path, samples: int = 3) -> Path:
    """Write data folders of small samples, named as by ``fairseq-scl prepare``."""
    every = make_sentences(16 + samples * 8)
    for number in range(samples):
        start = 16 + number * 8
        splits = {"train": every[start : start + 8]}
        splits |= {"valid": every[:8], "test": every[8:16]}
        binarize(splits, toy_encoder(), folder / "toy" / f"n8-sample{number}")
    return folder


def write_labeled(path, examples, names=None):
    """Write labeled texts as .csv, .tsv or .jsonl; by default, with usual names."""
    texts = ["sentence1", "sentence2"] if len(examples[0].sentences) > 1 else ["text"]
    names = names or [*texts, "label"]
    rows = [(*example.sentences, example.label) for example in examples]
    if path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
        path.write_text("\n".join([*lines, ""]), "utf-8")
    else:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([names, *rows])
    return path
