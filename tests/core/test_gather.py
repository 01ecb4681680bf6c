"""Workers that contrast with each other give what one process gives: gloo, on CPUs."""

import time

import pytest
import torch
import torch.distributed as dist
from fairseq.distributed import ModuleProxyWrapper
from torch.nn.parallel import DistributedDataParallel

from fairseq_scl.large_batch.gather import (
    contrastive_batch,
    data_parallel_group,
    gather_features,
)
from fairseq_scl.losses import supervised_contrastive_loss
from helpers import distributed
from helpers.distributed import (
    batch_of,
    join,
    numbers_of,
    run_workers,
    train_and_save,
    train_together,
)
from helpers.gradients import OFF, HalfOptimizer, build, gradients
from helpers.training import start_fast, toy_model

# Validation: three batches for two workers.
DATA = {"sizes": {"train": 27, "valid": 20, "test": 10}}

# Examples of each worker; None: a filled-in batch, which is not to count.
SIZES = {2: [(5, 2), (1, 0), (4, 4)], 3: [(4, 0, 3), (1, 1, 1), (0, 6, 2)]}
# In chunks of 3, a worker with up to 3 examples computes them in one pass.
STEPS = {2: [(8, 5), (7, 2)], 3: [(7, 1, None), (None, 6, 4)]}
# Through λ = 1 everything is in float64; CE is in float32 in the stock criterion.
KINDS = {
    "pooled": (["--scl-lambda", "1", "--scl-features", "pooled"], 1e-9),
    "paper": (
        ["--scl-lambda", "1", "--scl-features", "pooled", "--scl-reduction", "paper"],
        1e-9,
    ),
    "both terms": (["--scl-lambda", "0.7", "--scl-reduction", "paper"], 1e-6),
    "cross-entropy": (["--scl-lambda", "0"], 1e-6),
}
KINDS_OF = {2: tuple(KINDS), 3: ("pooled", "both terms")}
CHUNKS = (0, 3)


def rows_of(count, seed):
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 6, generator=random, dtype=torch.float64)
    return features, torch.randint(2, (count,), generator=random)


def gather_as_worker(folder, rank, workers):
    join(folder, rank, workers)
    found = []
    for sizes in SIZES[workers]:
        features, labels = (part.split(sizes)[rank] for part in rows_of(sum(sizes), 0))
        features.requires_grad_()
        everything = gather_features(features, labels, data_parallel_group())
        loss = supervised_contrastive_loss(*everything, 0.3, anchors=len(features))
        loss.backward()
        found.append((*(part.detach() for part in everything), loss, features.grad))
    torch.save(found, f"{folder}/found{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("workers", SIZES)
def test_gradient_is_that_of_one_process(workers, tmp_path):
    found = run_workers(gather_as_worker, workers, tmp_path)
    for case, sizes in enumerate(SIZES[workers]):
        features, labels = rows_of(sum(sizes), 0)
        features.requires_grad_()
        whole = supervised_contrastive_loss(features, labels, 0.3)
        whole.backward()
        of_case = [found[rank][case] for rank in range(workers)]
        torch.testing.assert_close(sum(loss for _, _, loss, _ in of_case), whole)
        gradient = torch.cat([gradient for *_, gradient in of_case])
        torch.testing.assert_close(gradient, features.grad, rtol=1e-9, atol=1e-12)
        for rank, (rows, classes, _, _) in enumerate(of_case):
            ranks = [rank, *(r for r in range(workers) if r != rank)]
            for all_rows, own in ((features, rows), (labels, classes)):
                parts = all_rows.detach().split(sizes)
                assert torch.equal(own, torch.cat([parts[r] for r in ranks]))


def flags_of(kind, chunk):
    return [*OFF, *KINDS[kind][0], "--gather-features", "--chunk", str(chunk)]


def step_as_worker(folder, rank, workers, data):
    join(folder, rank, workers)
    found = {}
    for kind in KINDS_OF[workers]:
        for chunk in CHUNKS:
            for case, sizes in enumerate(STEPS[workers]):
                toy = build(data, chunk, *flags_of(kind, chunk))
                model = ModuleProxyWrapper(
                    DistributedDataParallel(toy.model, find_unused_parameters=True)
                )
                ignored = sizes[rank] is None
                numbers = range(5) if ignored else numbers_of(sizes, rank)
                batch = batch_of(toy, numbers)
                _, _, log = toy.task.train_step(
                    batch, model, toy.criterion, HalfOptimizer(128.0), 0, ignored
                )
                if not ignored:
                    log = {key: float(value) for key, value in log.items()}
                found[kind, chunk, case] = gradients(toy.model), log, ignored
    if rank == 0:  # alone: in validation nobody else is asked
        with torch.no_grad():
            toy.criterion(toy.model.eval(), batch)
    torch.save(found, f"{folder}/found{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("workers", STEPS)
def test_steps_of_workers_are_one_large_step(data, workers, tmp_path):
    found = run_workers(step_as_worker, workers, tmp_path, data)
    alone = {}
    for (kind, chunk, case), (first, _, _) in found[0].items():
        sizes = STEPS[workers][case]
        if (kind, case) not in alone:
            toy = build(data, 0, *flags_of(kind, 0))
            batch = batch_of(toy, range(sum(size or 0 for size in sizes)))
            _, _, log = toy.task.train_step(
                batch, toy.model, toy.criterion, HalfOptimizer(128.0), 0
            )
            alone[kind, case] = gradients(toy.model), log
        (wanted, log), within = alone[kind, case], KINDS[kind][1]
        largest = max(gradient.abs().max() for gradient in wanted.values())
        for name, gradient in wanted.items():
            # fairseq multiplies DDP's mean by the number of workers.
            error = (workers * first[name] - gradient).abs().max()
            bound = within * max(gradient.abs().max(), 1e-3 * largest)
            assert error <= bound, (kind, chunk, case, name)
        of_case = [found[rank][kind, chunk, case] for rank in range(workers)]
        logs = [log for _, log, ignored in of_case if not ignored]
        for key in ("loss", "scl_loss", "scl_floor", "scl_anchors", "ncorrect"):
            assert sum(own[key] for own in logs) == pytest.approx(float(log[key])), key


def train_until_memory_is_short(arguments, rank):
    """Train; the second update of the second worker runs out of memory."""
    from fairseq.models.roberta import RobertaModel

    forward, calls = RobertaModel.forward, []

    def failing(self, *args, **kwargs):
        calls.append(1)
        if rank == 1 and len(calls) == 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, *args, **kwargs)

    RobertaModel.forward = failing
    train_and_save(arguments)


def test_out_of_memory_on_one_worker_ends_all(data, tmp_path, monkeypatch):
    def start(function, arguments):
        rank = int(arguments[arguments.index("--distributed-rank") + 1])
        return start_fast(train_until_memory_is_short, arguments, rank)

    monkeypatch.setattr(distributed, "start_fast", start)
    begin = time.monotonic()
    first, second = train_together(data, tmp_path, 2, "--gather-features")
    assert time.monotonic() - begin < 120  # a collective waits for half an hour
    assert second.returncode == 2
    last = second.stderr.splitlines()[-1]
    assert last.startswith("fairseq-scl: error: out of memory with --batch-size")
    assert last.endswith("CUDA out of memory. Tried to allocate 2.00 GiB")
    assert first.returncode != 0
    assert "Connection closed by peer" in first.stderr or "gloo" in first.stderr


def test_alone_it_changes_nothing(data):
    flags = ["--scl-reduction", "paper", *OFF]
    plain, gathering = (
        toy_model([data, *flags, *more]) for more in ([], ["--gather-features"])
    )
    found = [
        toy.criterion(toy.model.train(), toy.batch(9)) for toy in (plain, gathering)
    ]
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][2].keys() == found[1][2].keys()


def test_half_precision_is_gathered_in_float32():
    """Gradients of several workers would be rounded when they are added."""
    sample = {"target": torch.tensor([0, 1])}
    rows, _, _ = contrastive_batch(torch.ones(2, 3).half(), sample, gathers=True)
    assert rows.dtype == torch.float32
