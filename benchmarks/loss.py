"""Is our Eq. 3 faster than pytorch-metric-learning's SupConLoss, with less memory?

Measures forward and backward on random features of width 1,024 with two classes.
Memory is the peak of a separate process that does this once, including PyTorch.
"""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.pairs import Pairs, Row, Settings, paired, peer_module
from fairseq_scl.errors import InputError
from fairseq_scl.losses import supervised_contrastive_loss

QUESTION = "contrastive loss, compared with SupConLoss of pytorch-metric-learning"
WIDTH, TEMPERATURE = 1024, 0.3
FASTER = {16: 2.0, 64: 2.0, 256: 2.0, 1024: 2.5, 4096: 2.5}
MEMORY_SIZE, SMALLER = 16_384, 4.0


def rows(settings: Settings) -> Iterator[Row]:
    """Yield the rows of this benchmark.

    Raises:
        PeerMissing: pytorch-metric-learning is not installed.
        InputError: there is not enough memory for the peer.
    """
    for size, at_least in FASTER.items():
        ours, peer = step("ours", size), step("peer", size)
        rounds = settings.rounds if size < 4096 else min(settings.rounds, 7)
        pairs = paired(ours, peer, rounds)
        yield pairs.gain(QUESTION, f"forward + backward, N = {size}", at_least)
    peaks = {side: (peak_mebibytes(side, MEMORY_SIZE),) for side in ("ours", "peer")}
    setting = f"peak memory, N = {MEMORY_SIZE}"
    yield Pairs(**peaks, unit="MiB").gain(QUESTION, setting, SMALLER)


def step(side: str, size: int) -> Callable[[], None]:
    """Return a function that runs one forward and backward pass.

    Args:
        side: ``ours`` or ``peer``.
        size: number of examples N.
    """
    random = torch.Generator().manual_seed(size)
    features = torch.randn(size, WIDTH, generator=random).requires_grad_()
    labels = torch.randint(2, (size,), generator=random)
    if side == "peer":
        losses = peer_module(
            "pytorch_metric_learning.losses", "pytorch-metric-learning"
        )
        criterion = losses.SupConLoss(TEMPERATURE)
    else:

        def criterion(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return supervised_contrastive_loss(features, labels, TEMPERATURE, "mean")

    def forward_and_backward() -> None:
        features.grad = None
        criterion(features, labels).backward()

    return forward_and_backward


def peak_mebibytes(side: str, size: int) -> float:
    """Return the peak resident memory of a process that runs one step.

    Raises:
        InputError: the process failed, for example for lack of memory.
    """
    command = [sys.executable, "-m", "benchmarks.loss", side, str(size)]
    child = subprocess.run(
        command,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode != 0:
        raise InputError(
            f"the process of {side!r} at N = {size} ended with status "
            f"{child.returncode}: the peer needs 13 GiB of free memory"
        )
    return float(child.stdout.split()[-1])


def own_peak_mebibytes() -> float:
    """Return the peak memory of this process so far, in MiB."""
    # ru_maxrss would include the peak of the parent process.
    status = Path("/proc/self/status")
    if not status.exists():
        raise InputError("peak memory needs /proc/self/status, which only Linux has")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"))
    return int(found.group(1)) / 1024 if found else 0.0


if __name__ == "__main__":
    torch.set_num_threads(2)
    step(sys.argv[1], int(sys.argv[2]))()
    print(own_peak_mebibytes())
