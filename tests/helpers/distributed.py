"""Train in several processes, each of which writes a checkpoint."""

import socket

import torch
from fairseq.trainer import Trainer

from helpers.training import command_line, run_command, start_fast

UPDATES = 6


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def train_and_save(arguments):
    """Run fairseq-train in a process that saves a checkpoint regardless of its rank."""
    Trainer.should_save_checkpoint_on_current_rank = property(lambda _: True)
    run_command("fairseq_cli.train", arguments)


def train_together(data, folder, workers, *flags):
    """Train with several processes; return the checkpoint of each, by rank."""
    port = free_port()
    running = []
    for rank in range(workers):
        save_dir = folder / f"rank{rank}"
        save_dir.mkdir(parents=True)  # fairseq only creates that of the first process
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
            start_fast(train_and_save, command_line(list(map(str, arguments))))
        )
    return [process.wait() for process in running]


def join(folder, rank, workers):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=workers
    )


def run_workers(function, workers, folder, *arguments):
    """Run a function in several processes; return what each saved, by rank."""
    running = [
        start_fast(function, str(folder), rank, workers, *arguments)
        for rank in range(workers)
    ]
    for process in [worker.wait() for worker in running]:
        assert process.returncode == 0, process.stderr[-3000:]
    return [torch.load(folder / f"found{rank}.pt") for rank in range(workers)]


def batch_of(toy, numbers):
    toy.task.load_dataset("train")
    examples = toy.task.dataset("train")
    return examples.collater([examples[number] for number in numbers])


def numbers_of(sizes, rank):
    counts = [size or 0 for size in sizes]
    start = sum(counts[:rank])
    return range(start, start + counts[rank])
