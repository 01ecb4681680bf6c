"""Two processes train one model through fairseq-train: gloo on the CPU."""

import json

import pytest
import torch

from fairseq_scl.compat.checkpoints import load_checkpoint
from helpers.checkpoints import assert_same_weights
from helpers.distributed import UPDATES, train_together
from helpers.objectives import objective_case
from helpers.training import RESET, make_data, trained_checkpoint
from helpers.views import add_views

NO_DROPOUT = ["--dropout", "0", "--attention-dropout", "0"]


@pytest.fixture(scope="module")
def together(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    done = train_together(data, folder, 2)
    return folder, done


def test_two_processes_train_to_the_end(together):
    folder, done = together
    for process in done:
        assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    files = [folder / f"rank{rank}" / "checkpoint_last.pt" for rank in range(2)]
    assert_same_weights(*files)
    first = load_checkpoint(files[0])
    assert first["optimizer_history"][-1]["num_updates"] == UPDATES
    for name, weight in first["model"].items():
        assert torch.isfinite(weight).all(), name


def test_counts_are_added_over_the_processes_and_written_once(together):
    folder, _ = together
    lines = (folder / "metrics0.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert {row["subset"] for row in rows} == {"valid", "test"}
    assert all(row["n_total"] == 10 for row in rows)
    assert rows[-1]["update"] == UPDATES
    assert (folder / "metrics1.jsonl").read_text() == ""


def test_two_workers_are_one_with_twice_the_update_frequency(data, together, tmp_path):
    """Both add up the terms of two batches of four: SCL does not reach across them."""
    flags = ["--update-freq", "2", "--max-update", UPDATES, "--max-epoch", "99"]
    flags += ["--batching", "reshuffled", *NO_DROPOUT]
    alone = trained_checkpoint(data, tmp_path, *flags)
    shared = together[0] / "rank0" / "checkpoint_last.pt"
    assert_same_weights(alone, shared, atol=2e-4, rtol=1e-3)


def test_a_restored_run_ends_as_an_uninterrupted_one(data, together, tmp_path):
    """Stopped in the middle of an epoch, with all that the checkpoint holds."""
    last = tmp_path / "first" / "rank0" / "checkpoint_last.pt"
    for name, more in (
        ("first", ["--max-update", "3"]),
        ("second", ["--restore-file", last]),
    ):
        done = train_together(data, tmp_path / name, 2, *more)
        for process in done:
            assert process.returncode == 0, process.stderr[-3000:]
    whole, folders = together[0], (tmp_path / "second", tmp_path / "first")
    expected, found, half = (
        load_checkpoint(folder / "rank0" / "checkpoint_last.pt")
        for folder in (whole, *folders)
    )
    assert half["optimizer_history"][-1]["num_updates"] == 3
    assert found["optimizer_history"][-1]["num_updates"] == UPDATES
    exact = {"rtol": 0, "atol": 0}
    torch.testing.assert_close(found["model"], expected["model"], **exact)
    states = [one["last_optimizer_state"]["state"] for one in (found, expected)]
    torch.testing.assert_close(*states, **exact)


DEFAULT = ["--ddp-backend", "pytorch_ddp"]  # fairseq's own default
# Flags of both, those of the two workers, and those of the one process that is to give
# the same: with two micro-batches per update, or with the batch of both workers.
MICRO = ["--update-freq", "2"]
WHOLE = ["--contrastive-batch", "27"]
EVERYTHING = [
    pytest.param(
        [],
        [*DEFAULT, "--gather-features", "--contrastive-batch", "14"],
        WHOLE,
        id="scl",
    ),
    pytest.param(
        ["--curriculum", "99"],  # consecutive batches of four are one of eight
        [*DEFAULT, "--gather-features"],
        ["--batch-size", "8"],
        id="scl-dummy",
    ),
    pytest.param(["--scl-views"], DEFAULT, MICRO, id="views"),
    pytest.param(  # in each epoch, a batch and a dummy in one update
        ["--report-mcc", "--best-checkpoint-metric", "mcc"],
        ["--update-freq", "2"],
        ["--update-freq", "4"],
        id="micro-dummy",
    ),
    objective_case(
        "capcort",
        [
            *["--criterion", "sentence_prediction_capcort", "--capcort-lambda", "1"],
            *["--capcort-targets", "stored", "--capcort-map", "mlp"],
        ],
        ["--contrastive-batch", "4", "--chunk", "2"],
        MICRO,
    ),
    objective_case(
        "acl",
        ["--criterion", "sentence_prediction_acl", "--acl-embed", "--acl-grad"],
        [*DEFAULT, "--gather-features", "--contrastive-batch", "14"],
        WHOLE,
    ),
    objective_case(
        "multi_exit",
        [
            *["--criterion", "sentence_prediction_multi_exit", "--acl-cl", "0.5"],
            *["--arch", "roberta_multi_exit"],
        ],
        DEFAULT,
        MICRO,
    ),
]


@pytest.fixture(scope="module")
def with_views(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views") / "bin"
    sizes = {"train": 27, "valid": 60, "test": 10}
    return add_views(make_data(folder, sizes, words=30))


def learned(folder, rank):
    """Return the weights of a worker's model and criterion."""
    state = load_checkpoint(folder / f"rank{rank}" / "checkpoint_last.pt")
    return state["model"] | (state["criterion"] or {})


@pytest.mark.parametrize(("both", "workers", "alone"), EVERYTHING)
def test_a_whole_run_of_two_workers_is_that_of_one(
    with_views, stock, both, workers, alone, tmp_path
):
    """From a restored encoder, with a validation after every second update.

    Seven batches of four: the second worker gets a dummy batch in every epoch, after a
    validation that saw 60 examples where training has 27. With SGD, because Adam hides
    the size of a gradient and amplifies the rounding of one that is zero.
    """
    flags = [*both, "--restore-file", stock, *RESET, "--optimizer", "sgd", "--lr", 0.05]
    flags += ["--validate-interval-updates", "2", "--batch-size-valid", "30"]
    for count, more in ((2, workers), (1, alone)):
        folder = tmp_path / str(count)
        done = train_together(with_views, folder, count, *flags, *more)
        errors = "\n".join(process.stderr[-3000:] for process in done)
        assert not any(process.returncode for process in done), errors
        turned_on = "--find-unused-parameters is turned on" in done[0].stdout
        assert turned_on == ("pytorch_ddp" in more)
    found = []
    for folder in (tmp_path / "1", tmp_path / "2"):
        lines = (folder / "metrics0.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert {2, 4, 6} <= {row["update"] for row in rows}
        assert {(row["subset"], row["n_total"]) for row in rows} == {
            ("valid", 60),
            ("test", 10),
        }
        state = load_checkpoint(folder / "rank0" / "checkpoint_last.pt")
        best = state["extra_state"]["val_loss"]  # the metric of the best checkpoint
        found.append((rows, learned(folder, 0), best))
    (rows, one, best), (other_rows, two, other_best) = found
    assert other_best == pytest.approx(best, abs=0.002)
    assert best > 0
    for row, other in zip(rows, other_rows, strict=True):
        assert other["ce_loss"] == pytest.approx(row["ce_loss"], abs=1e-5)
    torch.testing.assert_close(two, one, atol=1e-5, rtol=0)
    torch.testing.assert_close(learned(tmp_path / "2", 1), two, atol=0, rtol=0)
