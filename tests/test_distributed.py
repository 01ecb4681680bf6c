"""Two processes train one model through fairseq-train: gloo on the CPU."""

import json
import socket

import pytest
import torch
from toy import command_line, make_data, own_weights, run_command, start_fast

from fairseq_scl.compat import load_checkpoint

UPDATES = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    # Sizes that two workers do not share evenly: one of them gets a dummy batch.
    folder = tmp_path_factory.mktemp("distributed") / "bin"
    return make_data(folder, {"train": 27, "valid": 10, "test": 10})


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def train_together(data, folder, workers, *flags):
    """Train with as many processes; return the checkpoint of each, by rank."""
    port = free_port()
    running = []
    for rank in range(workers):
        save_dir = folder / f"rank{rank}"
        distributed = [
            *["--distributed-init-method", f"tcp://127.0.0.1:{port}"],
            *["--distributed-world-size", str(workers), "--distributed-no-spawn"],
            *["--distributed-rank", str(rank), "--distributed-backend", "gloo"],
            *["--ddp-backend", "legacy_ddp"],
        ]
        arguments = [
            *[data, "--save-dir", save_dir, "--max-update", UPDATES, "--max-epoch", 99],
            *["--valid-subset", "valid,test", "--dropout", 0, "--attention-dropout", 0],
            *["--metrics-file", folder / f"metrics{rank}.jsonl", "--batching"],
            *["reshuffled", *(distributed if workers > 1 else []), *flags],
        ]
        running.append(
            start_fast(
                run_command,
                "fairseq_cli.train",
                command_line(list(map(str, arguments))),
            )
        )
    return [process.wait() for process in running]


@pytest.fixture(scope="module")
def together(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    done = train_together(data, folder, 2)
    return folder, done


def test_two_processes_train_to_the_end(together):
    folder, done = together
    for process in done:
        assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    # Only the first one saves.
    state = load_checkpoint(folder / "rank0" / "checkpoint_last.pt")
    assert state["optimizer_history"][-1]["num_updates"] == UPDATES
    assert not list((folder / "rank1").glob("*.pt"))
    for name, weight in own_weights(state["model"]).items():
        assert torch.isfinite(weight).all(), name


def test_counts_are_added_over_the_processes_and_written_once(together):
    folder, _ = together
    lines = (folder / "metrics0.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert {row["subset"] for row in rows} == {"valid", "test"}
    assert all(row["n_total"] == 10 for row in rows)
    assert rows[-1]["update"] == UPDATES
    assert (folder / "metrics1.jsonl").read_text() == ""


def test_the_processes_log_the_same_losses(together):
    """Gradients and statistics are shared, so both print the same epochs."""
    _, done = together
    epochs = []
    for process in done:
        found = [
            json.loads(line.split(" | ")[-1])
            for line in (process.stdout + process.stderr).splitlines()
            if "| train | {" in line
        ]
        epochs.append([(e["epoch"], e["train_loss"], e["train_gnorm"]) for e in found])
    assert epochs[0]
    # fairseq lets only the first process print; the second stays silent.
    assert epochs[1] in ([], epochs[0])


def test_cross_entropy_of_two_workers_is_that_of_one_with_twice_the_batch(
    data, tmp_path
):
    """With λ = 0 only the sum counts; both see all 27 examples in each update."""
    one = train_together(
        data, tmp_path / "one", 1, "--scl-lambda", "0", "--batch-size", "27"
    )
    two = train_together(
        data, tmp_path / "two", 2, "--scl-lambda", "0", "--batch-size", "14"
    )
    for process in [*one, *two]:
        assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    first, second = (
        own_weights(
            load_checkpoint(tmp_path / kind / "rank0" / "checkpoint_last.pt")["model"]
        )
        for kind in ("one", "two")
    )
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, atol=2e-4, rtol=1e-3, msg=name)
