"""Training and prediction read a sentence alike, for every encoder and command."""

import itertools
import json
import re

import pytest
import torch

from fairseq_scl.cli import main
from fairseq_scl.convert.huggingface import convert_encoder
from fairseq_scl.inference.model_folder import load_classifier
from fairseq_scl.inference.predict import encode
from helpers.configurations import hydra_arguments
from helpers.encoders import BAD, COMMON, GOOD, make_bert
from helpers.huggingface import write_source
from helpers.training import command_line, run_fast

# Five of sixteen combinations, in which every two choices meet.
CHOICES = [
    (kind, pairs, command, given)
    for kind, pairs, command, given in itertools.product(
        ("wordpiece", "gpt2"), (False, True), ("legacy", "hydra"), (False, True)
    )
    if (kind == "gpt2") + pairs + (command == "hydra") + given in (0, 3)
]
SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Return the folders of two encoders of one shape, of which one is a RoBERTa."""
    folder = tmp_path_factory.mktemp("encoders")
    make_bert(folder / "bert")
    write_source(folder / "roberta", "roberta", **SHAPE)
    for source, name in (("bert", "wordpiece"), ("roberta", "gpt2")):
        convert_encoder(folder / source, folder / name)
    return folder


def write_text(folder, pairs, sizes):
    """Write sentences with white space in all places; the label hangs on one word."""
    random = torch.Generator().manual_seed(3)

    def pick(words):
        return words[int(torch.randint(len(words), (), generator=random))]

    folder.mkdir()
    for split, size in sizes.items():
        columns = [[], []] if pairs else [[]]
        labels = []
        for i in range(size):
            labels.append("very good" if i % 2 else "bad")
            for column in columns:
                telling = pick(GOOD if i % 2 else BAD) if column is columns[-1] else "a"
                words = [telling, *(pick(COMMON) for _ in range(1 + i % 5))]
                column.append(pick(["", " ", "  "]).join(["", "  ".join(words), ""]))
        for number, column in enumerate(columns):
            (folder / f"{split}.input{number}").write_text("\n".join([*column, ""]))
        (folder / f"{split}.label").write_text("\n".join([*labels, ""]))


def train(kind, command, given, data, encoder, folder):
    """Train a little; return how many validation examples were right, by its log."""
    tokens = {"init_token": 0, "separator_token": 2 if kind == "gpt2" else None}
    pairs = (data / "input1").is_dir()
    arch = "roberta_base" if kind == "gpt2" else "roberta_bert"
    metrics = folder / "metrics.jsonl"
    if command == "hydra":
        flags = [
            *[f"task.metrics_file={metrics}", "task.max_positions=40"],
            *[f"checkpoint.restore_file={encoder}/model.pt", f"model._name={arch}"],
            *["optimization.max_update=8", "dataset.batch_size_valid=7"],
        ]
        if given:
            flags += [f"task.{name}={v}" for name, v in tokens.items() if v is not None]
        done = run_fast(
            "fairseq_cli.hydra_train", hydra_arguments(data, folder, *flags)
        )
    else:
        line = command_line(
            [
                *[data, "--arch", arch, "--max-positions", "40", "--save-dir", folder],
                *["--finetune-from-model", encoder / "model.pt", "--max-update", "8"],
                *["--metrics-file", metrics, "--shorten-method", "truncate"],
            ]
        )
        at = line.index("--init-token")
        del line[at : at + 2]
        if given:
            line += ["--init-token", "0"]
            line += ["--separator-token", "2"] if pairs and kind == "gpt2" else []
        done = run_fast("fairseq_cli.train", line)
    assert done.returncode == 0, done.stderr
    return json.loads(metrics.read_text().splitlines()[-1])


def lines_of(folder):
    """Return the validation examples as ``predict`` reads them."""
    files = sorted((folder / "text").glob("valid.input?"))
    columns = [file.read_text().splitlines() for file in files]
    return ["\t".join(row) for row in zip(*columns, strict=True)]


def exported(folder, capfd):
    """Export the last checkpoint and predict the validation examples.

    Returns how many answers are right, the classifier and the warnings of ``export``.
    """
    capfd.readouterr()
    run, model = folder / "run" / "checkpoint_last.pt", folder / "model"
    words = ["export", "--checkpoint", run, "--data", folder / "data", "--to", model]
    assert main([str(word) for word in words]) == 0
    warned = capfd.readouterr().err
    (folder / "lines.txt").write_text("\n".join(lines_of(folder)))
    words = ["predict", "--model", model, folder / "lines.txt", "--device", "cpu"]
    assert main([str(word) for word in words]) == 0
    answers = [row.split("\t")[0] for row in capfd.readouterr().out.splitlines()]
    labels = (folder / "text" / "valid.label").read_text().splitlines()
    right = sum(a == b for a, b in zip(answers, labels, strict=True))
    return right, load_classifier(model), warned


@pytest.mark.parametrize(("kind", "pairs", "command", "given"), CHOICES)
def test_predictions_have_the_counts_of_the_training_log(
    tmp_path, encoders, capfd, kind, pairs, command, given
):
    sizes = {"train": 20, "valid": 60}
    write_text(tmp_path / "text", pairs, sizes)
    data, encoder, run = tmp_path / "data", encoders / kind, tmp_path / "run"
    folders = ["--text", str(tmp_path / "text"), "--encoder", str(encoder)]
    assert main(["prepare", *folders, "--to", str(data)]) == 0
    run.mkdir()
    logged = train(kind, command, given, data, encoder, run)
    assert logged["n_total"] == sizes["valid"]
    right, classifier, _ = exported(tmp_path, capfd)
    assert right == logged["n_correct"]
    examples = [tuple(row.split("\t")) for row in lines_of(tmp_path)]
    (row,) = encode(classifier, examples[:1])[0]
    assert row[0] == 0
    assert (row == 2).sum() == 1 + pairs + (pairs and kind == "gpt2")


def test_our_criterion_records_the_reading_of_the_stock_task(tmp_path, encoders, capfd):
    """Even that of a run without ``<s>``, which the data folder asks for."""
    write_text(tmp_path / "text", False, {"train": 20, "valid": 60})
    data, encoder, run = tmp_path / "data", encoders / "gpt2", tmp_path / "run"
    folders = ["--text", str(tmp_path / "text"), "--encoder", str(encoder)]
    assert main(["prepare", *folders, "--to", str(data)]) == 0
    line = command_line(
        [
            *[data, "--task", "sentence_prediction", "--max-positions", "40"],
            *["--finetune-from-model", encoder / "model.pt", "--max-update", "8"],
            *["--save-dir", run],
        ]
    )
    at = line.index("--init-token")
    del line[at : at + 2]
    done = run_fast("fairseq_cli.train", line)
    assert done.returncode == 0, done.stderr
    logged = re.findall(r'"valid_n_correct": "?(\d+)', done.stdout + done.stderr)
    right, classifier, warned = exported(tmp_path, capfd)
    assert right == int(logged[-1])
    assert classifier.init_token is None
    assert "does not record" not in warned
