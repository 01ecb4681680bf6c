"""fairseq's commands with the plug-in, from the command line to the checkpoint.

A few runs import fairseq like a user's process, which takes seconds; the others run in
a fork of a process that has imported it already (see ``helpers.training``).
"""

import json
from types import SimpleNamespace

import pytest
import torch
from fairseq.models.roberta import RobertaModel

from fairseq_scl.compat.checkpoints import load_checkpoint
from fairseq_scl.losses import supervised_contrastive_floor, supervised_contrastive_loss
from helpers.checkpoints import assert_same_weights, weights
from helpers.configurations import PREDICT, hydra_arguments, trained_with_hydra
from helpers.fresh import run_fresh
from helpers.refusals import assert_command_refused
from helpers.training import (
    RESET,
    USER_DIR,
    make_data,
    run_fast,
    run_module,
    toy_model,
    train,
    train_fast,
    trained_checkpoint,
)

# The validation set does not fill its last batch.
DATA = {"sizes": {"train": 20, "valid": 10, "test": 10}, "words": None}

HEAD = "sentence_classification_head"


@pytest.fixture(scope="module")
def legacy(data, tmp_path_factory):
    """A real run of fairseq-train with our task and criterion, and what it left."""
    folder = tmp_path_factory.mktemp("a run") / "it's"
    metrics = folder.parent / "metrics.jsonl"
    done = train(
        [
            *[data, "--save-dir", folder, "--metrics-file", metrics],
            *["--valid-subset", "valid,test", "--batching", "balanced"],
        ]
    )
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(folder=folder, metrics=metrics, output=done.stdout)


# fairseq-train


def test_fairseq_train_logs_both_terms(legacy):
    lines = [x for x in legacy.output.splitlines() if "| INFO | test |" in x]
    found = json.loads(lines[-1].rpartition("| ")[2])
    for key in ("ce_loss", "scl_loss", "scl_floor", "scl_anchors", "accuracy"):
        assert float(found[f"test_{key}"]) >= 0
    assert float(found["test_scl_loss"]) >= float(found["test_scl_floor"])
    assert int(found["test_n_total"]) == 10


def test_the_metrics_file_holds_what_the_checkpoint_computes(legacy, data):
    lines = [json.loads(line) for line in legacy.metrics.read_text().splitlines()]
    assert [(x["subset"], x["update"]) for x in lines] == [
        ("valid", 5),
        ("test", 5),
        ("valid", 10),
        ("test", 10),
    ]
    toy = toy_model([data])
    toy.model.load_state_dict(weights(legacy.folder / "checkpoint_last.pt"))
    toy.model.eval()
    for line in lines[2:]:
        assert sum(line.pop("answers")) == line["n_total"]
        expected = evaluate(toy, line["subset"])
        assert line.keys() == {"subset", "update", *expected}
        assert (line["n_correct"], line["n_total"]) == (expected["n_correct"], 10)
        for key, value in expected.items():
            assert line[key] == pytest.approx(value, abs=1e-5), key


def evaluate(toy, subset):
    """Compute the numbers of a line of the metrics file without the criterion."""
    toy.task.load_dataset(subset)
    split = toy.task.dataset(subset)
    order = split.ordered_indices()
    sums = dict.fromkeys(["n_correct", "ce", "scl", "floor", "anchors"], 0.0)
    for start in range(0, len(order), 4):
        batch = split.collater([split[i] for i in order[start : start + 4]])
        tokens, labels = batch["net_input"]["src_tokens"], batch["target"].view(-1)
        with torch.no_grad():
            logits, _ = toy.model(tokens, classification_head_name=HEAD)
            cls = toy.model(tokens, features_only=True)[0][:, 0]
        sums["n_correct"] += (logits.argmax(dim=1) == labels).sum().item()
        sums["ce"] += torch.nn.functional.cross_entropy(
            logits, labels, reduction="sum"
        ).item()
        sums["scl"] += supervised_contrastive_loss(cls, labels, 0.3).item()
        sums["floor"] += supervised_contrastive_floor(labels, 0.3).item()
        sums["anchors"] += sum((labels == x).sum().item() > 1 for x in labels)
    return {
        "n_correct": sums["n_correct"],
        "n_total": 10,
        "ce_loss": sums["ce"] / 10,
        "scl_loss": sums["scl"] / 10,
        "scl_floor": sums["floor"] / 10,
        "scl_anchors": sums["anchors"] / 10,
    }


def test_help_lists_the_flags():
    done = run_fast(
        "fairseq_cli.train",
        [
            *["--user-dir", USER_DIR, "--task", "sentence_prediction_scl"],
            *["--criterion", "sentence_prediction_scl", "--help"],
        ],
    )
    assert done.returncode == 0, done.stderr
    for flag in ("lambda", "temperature", "features", "reduction"):
        assert f"--scl-{flag} SCL_{flag.upper()}" in done.stdout
    assert "--batching BATCHING" in done.stdout
    assert "--metrics-file METRICS_FILE" in done.stdout
    # A bare --temperature would be taken for that of fairseq-generate.
    assert " --temperature" not in done.stdout


def test_training_brings_scl_near_its_floor_and_the_labels_right(tmp_path):
    data = make_data(tmp_path / "bin", {"train": 40, "valid": 20})
    metrics = tmp_path / "metrics.jsonl"
    flags = ["--max-epoch", "6", "--lr", "0.01", "--metrics-file", metrics, "--no-save"]
    done = train_fast([data, *flags, "--save-dir", tmp_path])
    assert done.returncode == 0, done.stderr
    first, *_, last = (
        json.loads(line.rpartition("| ")[2])
        for line in done.stdout.splitlines()
        if "| INFO | train | " in line
    )
    above_floor = [
        float(x["train_scl_loss"]) - float(x["train_scl_floor"]) for x in (first, last)
    ]
    assert 0 <= above_floor[1] < 0.25 * above_floor[0]
    first, *_, last = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert last["n_correct"] > first["n_correct"]


@pytest.mark.parametrize(
    ("dtype", "flags"),
    [
        (torch.float16, ["--fp16", "--fp16-no-flatten-grads"]),
        (torch.float16, ["--fp16", "--memory-efficient-fp16"]),
        (torch.bfloat16, ["--bf16"]),
    ],
)
def test_half_precision_trains_on_a_cpu(data, tmp_path, dtype, flags):
    """Plain --fp16 gathers its gradients on a GPU, whatever --cpu says."""
    flags = [*flags, "--scl-temperature", "0.05", "--fp16-init-scale", "4"]
    done = train_fast([data, "--save-dir", tmp_path, *flags])
    assert done.returncode == 0, done.stderr
    assert ('"train_loss_scale"' in done.stdout) == (dtype == torch.float16)
    # fairseq stores the weights in float32.
    for name, value in weights(tmp_path / "checkpoint_last.pt").items():
        assert value.isfinite().all(), name
        assert torch.equal(value.to(dtype).float(), value), name


# The stock task, and fairseq without the plug-in


@pytest.fixture(scope="module")
def stock(data, tmp_path_factory):
    """The checkpoint of our criterion with the stock task."""
    folder = tmp_path_factory.mktemp("stock")
    flags = ["--task", "sentence_prediction", "--valid-subset", "valid,test"]
    return trained_checkpoint(data, folder, *flags)


def test_fixed_batches_train_as_the_stock_task_does(data, stock, tmp_path):
    flags = ["--batching", "fixed", "--valid-subset", "valid,test"]
    assert_same_weights(stock, trained_checkpoint(data, tmp_path, *flags))


def test_lambda_zero_trains_to_the_weights_of_the_stock_criterion(data, tmp_path):
    name = "sentence_prediction"
    stock, ours = (
        trained_checkpoint(data, tmp_path / folder, *flags)
        for folder, flags in (
            ("stock", ["--criterion", name, "--task", name]),
            ("ours", ["--scl-lambda", "0"]),
        )
    )
    assert_same_weights(stock, ours)


def test_the_checkpoint_loads_where_fairseq_alone_is_installed(data, stock, tmp_path):
    result = tmp_path / "result.pt"
    done = run_fresh(
        *[PREDICT, stock.parent, stock.name, data, result],
        cwd=tmp_path,
        # Stands for the older PyTorch that fairseq alone needs to load a checkpoint.
        env={"PATH": "", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},
    )
    assert done.returncode == 0, done.stderr
    model = RobertaModel.from_pretrained(
        str(stock.parent), stock.name, str(data), bpe=None
    ).eval()
    tokens = torch.tensor([[0, 4, 5, 6, 2], [0, 9, 8, 2, 1]])
    torch.testing.assert_close(torch.load(result), model.predict(HEAD, tokens))


# Resuming


@pytest.mark.parametrize("batching", ["fixed", "balanced"])
def test_a_run_resumed_in_an_epoch_ends_as_an_uninterrupted_one(
    data, tmp_path, batching
):
    common = [data, "--batching", batching, "--max-epoch", "3"]
    for folder, updates in (("whole", 13), ("parts", 7), ("parts", 13)):
        done = train_fast(
            [*common, "--save-dir", tmp_path / folder, "--max-update", updates]
        )
        assert done.returncode == 0, done.stderr
    assert "Loaded checkpoint" in done.stdout
    assert "(epoch 2 @ 7 updates)" in done.stdout
    assert_same_weights(
        tmp_path / "whole" / "checkpoint_last.pt",
        tmp_path / "parts" / "checkpoint_last.pt",
    )


def test_a_run_resumes_from_its_last_checkpoint(legacy, data, tmp_path):
    flags = ["--batching", "balanced", "--valid-subset", "valid,test"]
    flags += ["--max-epoch", "3"]
    done = train_fast([data, "--save-dir", legacy.folder, *flags])
    assert done.returncode == 0, done.stderr
    assert "(epoch 3 @ 10 updates)" in done.stdout
    last = legacy.folder / "checkpoint_last.pt"
    assert_same_weights(last, trained_checkpoint(data, tmp_path, *flags))


def test_the_stock_criterion_is_counted_and_reports_mcc_and_f1(data, tmp_path):
    flags = ["--criterion", "sentence_prediction", "--report-mcc"]
    flags += ["--report-acc-and-f1", "--metrics-file", tmp_path / "metrics.jsonl"]
    flags += ["--best-checkpoint-metric", "n_correct", "--max-update", "3"]
    done = train_fast(
        [data, "--save-dir", tmp_path, "--maximize-best-checkpoint-metric", *flags]
    )
    assert done.returncode == 0, done.stderr
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert row["n_total"] == sum(row["answers"]) == 10
    assert '"valid_mcc"' in done.stdout
    assert '"valid_f1"' in done.stdout
    assert load_checkpoint(tmp_path / "checkpoint_best.pt")["task_state"]["answers"]


# fairseq-hydra-train


def test_fairseq_hydra_train_runs_the_shipped_configuration(data, stock, tmp_path):
    flags = [f"task.metrics_file={tmp_path}/metrics.jsonl", "task.batching=balanced"]
    start = f"checkpoint.restore_file={stock}"
    arguments = hydra_arguments(data, tmp_path, start, *flags)
    done = run_module("fairseq_cli.hydra_train", arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["n_total"] == 10
    state = load_checkpoint(tmp_path / "checkpoint_last.pt")
    assert state["cfg"]["criterion"]["scl_lambda"] == 0.9
    assert state["cfg"]["task"]["batching"] == "balanced"
    assert state["optimizer_history"][-1]["num_updates"] == 4


def test_both_commands_train_to_the_same_weights(data, stock, tmp_path):
    start = f"checkpoint.restore_file={stock}"
    hydra = trained_with_hydra(data, tmp_path / "hydra", start)
    legacy = trained_checkpoint(
        *[data, tmp_path / "legacy", "--restore-file", stock, *RESET],
        *["--adam-betas", "(0.9, 0.98)", "--adam-eps", "1e-6"],
        *["--weight-decay", "0.1", "--lr-scheduler", "polynomial_decay"],
        *["--warmup-updates", "1", "--total-num-update", "4", "--max-update", "4"],
        *["--dropout", "0.1", "--attention-dropout", "0.1", "--batch-size", "4"],
    )
    assert_same_weights(hydra, legacy)


# Bad input


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Data folders and files that do not fit the toy's settings."""
    folder = tmp_path_factory.mktemp("others")
    words = make_data(folder / "words", words=40)
    torch.save({"model": {}, "args": print}, folder / "hostile.pt")
    (folder / "text.pt").write_text("<!DOCTYPE html>")
    return SimpleNamespace(folder=folder, words=words)


RESTORE = ["--reset-optimizer", "--reset-dataloader", "--restore-file"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["{data}", "--scl-lambda", "1.5"], "--scl-lambda; 1.5"),
        (["{data}", "--lr", "1e30"], "diverged; --lr"),
        (["{data}", "--scl-views"], "--scl-views; view0/input0/train.idx is missing"),
        (
            ["{data}", "--packed", "--quant-noise-pq", "0.1"],
            "--packed cannot be combined with --quant-noise-pq",
        ),
        (
            ["{data}", "--optimizer", "fused_adam", "--fp16-adam-stats"],
            "--fp16-adam-stats; --optimizer fused_adam",
        ),
        (["{others}"], "missing; {others}/input0/dict.txt; fairseq-scl prepare"),
        (["{data}", "--valid-subset", "dev"], "missing; {data}/input0/dev.bin"),
        (
            ["{data}", *RESTORE, "{others}/missing.pt"],
            "--restore-file is {others}/missing.pt",
        ),
        (["{data}", *RESTORE, "{others}/text.pt"], "{others}/text.pt is damaged"),
        (
            ["{data}", *RESTORE, "{others}/hostile.pt"],
            "{others}/hostile.pt was not loaded; print; trusted=True",
        ),
        (
            ["{others}/words", *RESTORE, "{checkpoint}"],
            "the checkpoint has 20 symbols; 45; fairseq-scl prepare --encoder",
        ),
    ],
)
def test_bad_input_ends_with_one_sentence(data, stock, others, tmp_path, flags, words):
    names = {"data": data, "others": others.folder, "checkpoint": stock}
    done = train_fast([*[f.format(**names) for f in flags], "--save-dir", tmp_path])
    assert_command_refused(done, *words.format(**names).split("; "))


def test_bad_input_ends_hydra_with_the_same_sentence(data, stock, tmp_path):
    flags = [f"checkpoint.restore_file={stock}", "criterion.scl_features=first"]
    arguments = hydra_arguments(data, tmp_path, *flags)
    done = run_fast("fairseq_cli.hydra_train", arguments)
    assert_command_refused(done, "--scl-features is 'first'", "cls, pooled, mean")
