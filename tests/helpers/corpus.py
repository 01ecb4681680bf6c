"""Files of every kind for the fuzzer to damage, and commands that read them."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from fairseq_scl.experiments.results_folder import BEST
from helpers.encoders import (
    make_splits,
    toy_bert,
    toy_data,
    toy_encoder,
    toy_model,
    trained,
)
from helpers.huggingface import write_source
from helpers.outputs import rows_of, write_outputs
from helpers.results import make_table, random_attempts, write_results
from helpers.tables import make_toy_samples, write_toy_table
from helpers.tasks import write_sst2
from helpers.texts import write_split
from helpers.translation import toy_models

PYTHON = "Classifier.load"  # not a verb: called from Python with a model folder
# What prediction reads of a model folder.
WITHOUT_MANIFEST = ("model/*/*", "model/[!m]*", "model/model.pt")


@dataclass(frozen=True)
class Command:
    """A command that succeeds on the corpus and writes only to ``out…``.

    Attributes:
        argv: the command line; ``@`` stands for the corpus folder.
        files: patterns of the files that it reads, to be damaged.
    """

    argv: tuple[str, ...]
    files: tuple[str, ...]


def _command(line, *files):
    return Command(tuple(line.split()), files)


COMMANDS = [
    _command(
        "predict --model @/model @/lines.txt --device cpu",
        *WITHOUT_MANIFEST,
    ),
    _command(
        "predict --model @/model @/table.csv --columns text --echo label --device cpu",
        "table.csv",
    ),
    _command(
        f"export --checkpoint @/run/{BEST} --data @/data --to @/out",
        f"run/{BEST}",
        "data/**/*",
    ),
    _command("convert --from @/bert --to @/out", "bert/*"),
    _command("convert --from @/roberta --to @/out", "roberta/*"),
    _command(
        "prepare --text @/text --encoder @/encoder --to @/out",
        "text/*",
        "encoder/[!m]*",
    ),
    *[
        _command(
            f"prepare --table @/table.{kind} --columns text label --size-valid 4 "
            "--size-test 4 --full --encoder @/encoder --to @/out",
            f"table.{kind}",
        )
        for kind in ("csv", "tsv", "jsonl")
    ],
    _command(
        "prepare --task SST-2 --from @/glue --partial --few-shot 8 --samples 2 "
        "--size-valid 8 --size-test 8 --max-unknown 1 --encoder @/encoder --to @/out",
        "glue/SST-2/*",
    ),
    _command(
        "report table4 --results @/results --to @/out",
        "results/table.json",
        "results/runs/*/*",
    ),
    _command(
        "run @/toy.yaml --data @/samples --model @/encoder --results @/out --jobs 1 "
        "--device cpu --only loss=CE,sample=0",
        "toy.yaml",
        "samples/toy/n8-sample0/**/*",
        "encoder/*",
    ),
    _command(
        "analyze --data @/data --model a=@/model --to @/out.md --device cpu",
        "model/**/*",
        "data/**/*",
    ),
    _command(
        "figure --data @/data --model a=@/model --to @/out.png --perplexity 2 "
        "--device cpu",
        "model/**/*",
        "data/**/*",
    ),
    _command("noise @/pairs-bt0.7.jsonl --to @/out.csv", "pairs-bt0.7.jsonl"),
    _command(
        "backtranslate --table @/words.tsv --columns text label --forward @/en-de "
        "--backward @/de-en --to @/out --temperature 0.7 --copies 1 --device cpu",
        "words.tsv",
        "en-de/*",
        "de-en/*",
    ),
    _command(
        "train @/table.csv --to @/out --encoder @/encoder --updates 2 --device cpu",
        "table.csv",
        "encoder/*",
    ),
    _command(
        "compare @/table.tsv --to @/out --encoder @/encoder --objectives ce "
        "--samples 2 --updates 2 --device cpu",
        "table.tsv",
        "encoder/*",
    ),
    _command(
        "evaluate --model @/model @/table.jsonl --to @/out.json --device cpu",
        "table.jsonl",
        "model/**/*",
    ),
    _command(
        "export --format huggingface --model @/model --to @/out",
        "model/**/*",
    ),
    _command("convert --classifier --from @/classifier --to @/out", "classifier/*"),
    _command(f"{PYTHON} @/model", *WITHOUT_MANIFEST),
]


def make_corpus(folder: Path) -> None:
    """Write all files read by the commands."""
    for name, made in (
        ("bert", toy_bert()),
        ("encoder", toy_encoder()),
        ("data", toy_data()),
        ("model", toy_model()),
        ("run", trained()[1]),
        ("en-de", toy_models()),
        ("de-en", toy_models("de", "en")),
    ):
        shutil.copytree(made, folder / name)
    for pair in ("en-de", "de-en"):
        (folder / pair / "bpecodes").write_text("#version: 0.2\nz z\n")
    write_outputs(folder / "pairs-bt0.7.jsonl", rows_of(make_splits()["train"]))
    write_source(folder / "roberta", "roberta")
    write_source(folder / "classifier", "bert", "BertForSequenceClassification")
    write_toy_table(folder)
    make_toy_samples(folder / "samples", 1)
    table = make_table()
    write_results(folder / "results", table, random_attempts(table))
    write_sst2(folder / "glue")
    splits = make_splits()
    for split, examples in splits.items():
        write_split(folder / "text", split, examples)
    rows = [(e.sentences[0], e.label) for part in splits.values() for e in part]
    texts = [f"{text}\n" for text, _ in rows]
    (folder / "lines.txt").write_text("".join(texts), "utf-8")
    for suffix, mark in ((".csv", ","), (".tsv", "\t")):
        lines = [f'"{text}"{mark}{label}' for text, label in rows]
        made = "\n".join([f"text{mark}label", *lines, ""])
        (folder / "table").with_suffix(suffix).write_text(made, "utf-8")
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    (folder / "table.jsonl").write_text("\n".join([*lines, ""]), "utf-8")
    words = ["a b c\tyes", "d e\tno", "f g h\tyes", "k l\tno"]
    (folder / "words.tsv").write_text("\n".join(["text\tlabel", *words, ""]), "utf-8")
