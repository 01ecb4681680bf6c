"""The task: labels and pairs, the file of metrics, and the counts in it."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from fairseq.data import Dictionary, indexed_dataset
from fairseq.logging import metrics

from fairseq_scl.errors import InputError
from fairseq_scl.input_format import label_names
from fairseq_scl.tasks.counts import ClassNumbers, answers_of
from helpers.objectives import objective_case
from helpers.packed import HEAD
from helpers.refusals import refused
from helpers.training import draw_weights, make_data, toy_model, write_rows

# The last batch of four is smaller.
DATA = {"sizes": {"train": 22, "valid": 10}, "words": None, "weights": (3, 1)}


# Labels


@pytest.mark.parametrize("weights", [(8, 1, 1), (1, 1, 8)])
def test_class_ids_and_names_go_together_when_classes_are_skewed(tmp_path, weights):
    """fairseq-preprocess sorts labels by frequency, so ids differ between samples."""
    folder = make_data(tmp_path / "bin", {"train": 40}, classes=3, weights=weights)
    truth = _label_words(folder)
    dictionary = Dictionary()
    for word in truth:
        dictionary.add_symbol(word)
    dictionary.finalize(padding_factor=8)
    dictionary.save(str(folder / "label" / "dict.txt"))
    rows = [[dictionary.index(word)] for word in truth]
    write_rows(folder / "label" / "train", rows, dictionary)

    task = toy_model([folder, "--num-classes", "3"]).task
    names = label_names(task.label_dictionary.symbols)
    assert names == [word for word, _ in Counter(sorted(truth)).most_common()]
    plain = task.load_dataset("train").dataset
    found = [names[plain[i]["target"].item()] for i in range(len(plain))]
    assert found == truth


def _label_words(folder):
    dictionary = Dictionary.load(str(folder / "label" / "dict.txt"))
    rows = indexed_dataset.make_dataset(str(folder / "label" / "train"), impl="mmap")
    return [dictionary[int(rows[i][0])] for i in range(len(rows))]


def test_pairs_are_joined(tmp_path):
    folder = make_data(tmp_path / "bin", {"train": 8}, pairs=True)
    batch = toy_model([folder, "--separator-token", "2"]).batch(8)
    tokens = batch["net_input"]["src_tokens"]
    assert (tokens[:, 0] == 0).all()
    assert ((tokens == 2).sum(dim=1) == 3).all()  # a </s> </s> b </s>


# The file of metrics


def write_metrics(task, subset, n_correct):
    """Do what fairseq does after it has validated a subset."""
    task.dataset(subset)
    meters = {
        "n_correct": SimpleNamespace(sum=torch.tensor(n_correct)),
        "n_total": SimpleNamespace(sum=10),
        "scl_loss": SimpleNamespace(avg=torch.tensor(1.25)),
        "loss": SimpleNamespace(avg=torch.tensor(3.0)),
    }
    task.post_validate(None, {"num_updates": 7}, meters)


def test_each_validation_appends_a_line(data, tmp_path):
    file = tmp_path / "a folder" / "metrics.jsonl"
    file.parent.mkdir()
    task = toy_model([data, "--metrics-file", file]).task
    for split in ("train", "valid"):
        task.load_dataset(split)
    assert file.read_text() == ""
    write_metrics(task, "valid", 6)
    write_metrics(task, "train", 9)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    common = {"n_total": 10, "scl_loss": 1.25, "update": 7}
    assert lines == [
        {"subset": "valid", "n_correct": 6, **common},
        {"subset": "train", "n_correct": 9, **common},
    ]


def test_no_file_is_written_without_the_flag(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = toy_model([data]).task
    task.load_dataset("valid")
    write_metrics(task, "valid", 6)
    assert not list(tmp_path.iterdir())


def test_a_metrics_file_that_cannot_be_written_is_named_before_training(data, tmp_path):
    file = tmp_path / "missing" / "metrics.jsonl"
    task = toy_model([data, "--metrics-file", file]).task
    with refused("--metrics-file", file, "No such file or directory"):
        task.load_dataset("train")


# Counts of a validation


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--criterion", "sentence_prediction"],
        objective_case(
            "multi_exit",
            [
                *["--criterion", "sentence_prediction_multi_exit", "--packed"],
                *["--arch", "roberta_multi_exit", "--exit-layers", "1,2"],
            ],
        ),
    ],
)
def test_a_validation_is_counted_for_every_criterion(data, flags):
    toy = toy_model([data, *flags])
    draw_weights(toy.model)
    batch = toy.batch(10, "valid")
    log = toy.task.valid_step(batch, toy.model, toy.criterion)[2]
    with metrics.aggregate() as logged:
        toy.task.reduce_metrics([log, log], toy.criterion)
    assert logged["n_total"].sum == 20
    assert logged["n_correct"].sum == 2 * log["ncorrect"]
    logits = toy.model(**batch["net_input"], classification_head_name=HEAD)[0]
    found = logits.argmax(1).bincount(minlength=2)
    assert found.all()
    assert answers_of(logged) == (2 * found).tolist()
    ce = torch.nn.functional.cross_entropy(logits, batch["target"].flatten())
    assert float(logged["ce_loss"].avg) == pytest.approx(ce.item(), rel=1e-5)


@pytest.mark.parametrize(
    "criterion", ["sentence_prediction", "sentence_prediction_scl"]
)
def test_mcc_and_f1_use_the_class_ids_for_any_labels(data, criterion):
    flags = ["--criterion", criterion, "--report-mcc"]
    flags += ["--report-acc-and-f1"]
    toy = toy_model([data, *flags])
    draw_weights(toy.model)
    batch = toy.batch(10, "valid")
    log = toy.task.valid_step(batch, toy.model, toy.criterion)[2]
    assert log["targ"] == batch["target"].flatten().tolist()
    assert sum(map(int.__eq__, log["pred"], log["targ"])) == log["ncorrect"]
    with metrics.aggregate() as logged:
        toy.task.reduce_metrics([log], toy.criterion)
    hits = sum(p and t for p, t in zip(log["pred"], log["targ"], strict=True))
    f1 = 200 * hits / max(1, sum(log["pred"]) + sum(log["targ"]))
    assert logged.get_smoothed_values()["f1"] == pytest.approx(f1, abs=0.06)


def test_labels_that_are_0_and_1_keep_their_numbers():
    assert ClassNumbers(["1", "0"]).string(torch.tensor([0, 1, 1])) == "1 0 0"
    assert ClassNumbers(["no", "yes"]).string(torch.tensor([0, 1, 1])) == "0 1 1"


def test_f1_of_three_classes_is_refused(tmp_path):
    folder = make_data(tmp_path / "bin", {"train": 4}, classes=3)
    flags = ["--num-classes", "3", "--report-acc-and-f1"]
    with pytest.raises(InputError, match=r"--report-acc-and-f1 .* the data has 3"):
        toy_model([folder, *flags])
