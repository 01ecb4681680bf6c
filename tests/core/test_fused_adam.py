"""``--optimizer fused_adam``: fairseq's Adam to the last digits, and its refusals."""

import copy
import sys
from types import SimpleNamespace

import pytest
import torch
from fairseq.optim import FairseqOptimizer, MemoryEfficientFP16Optimizer
from fairseq.optim.adam import Adam
from torch.utils._python_dispatch import TorchDispatchMode

from fairseq_scl.compat.checkpoints import load_checkpoint
from fairseq_scl.optim import fused_adam
from fairseq_scl.optim.fused_adam import FusedAdam
from helpers.training import (
    command_line,
    make_data,
    run_command,
    start_fast,
)

SETTINGS = {"lr": 1e-2, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.1}


def parameters(dtype=torch.float64):
    random = torch.Generator().manual_seed(0)
    shapes = ((5, 3), (7,), (), (2, 2, 2))
    return [
        torch.nn.Parameter(torch.randn(shape, generator=random).to(dtype))
        for shape in shapes
    ]


def steps(optimizer, values, count, seed=1, skip=None):
    random = torch.Generator().manual_seed(seed)
    for _ in range(count):
        for number, value in enumerate(values):
            grad = torch.randn(value.shape, generator=random).to(value.dtype)
            # Gradients of many sizes, so that ε matters; some none at all.
            value.grad = None if number == skip else grad * 10.0 ** (-2 * number)
        optimizer.step()


EXACT = {"rtol": 1e-12, "atol": 1e-14}


@pytest.mark.parametrize("eps", [1e-8, 1e-6, 1e-2])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(
    ("dtype", "within"),
    [(torch.float64, EXACT), (torch.float32, {"rtol": 1e-5, "atol": 1e-6})],
)
def test_equals_fairseqs_adam(eps, weight_decay, dtype, within):
    settings = {**SETTINGS, "eps": eps, "weight_decay": weight_decay}
    ours, theirs = parameters(dtype), parameters(dtype)
    steps(FusedAdam(ours, **settings), ours, 20)
    steps(Adam(theirs, **settings), theirs, 20)
    torch.testing.assert_close(ours, theirs, **within)


def test_parameters_without_gradient_stay_and_count_their_own_steps():
    ours, theirs = parameters(), parameters()
    for kind, values in ((FusedAdam, ours), (Adam, theirs)):
        optimizer = kind(values, **SETTINGS)
        steps(optimizer, values, 3, skip=1)
        steps(optimizer, values, 3, seed=2)
    torch.testing.assert_close(ours, theirs, **EXACT)


def test_states_are_interchangeable_with_fairseqs_adam():
    ours, theirs = parameters(), parameters()
    for kind, values in ((FusedAdam, ours), (Adam, theirs)):
        first, second = Adam(values, **SETTINGS), kind(values, **SETTINGS)
        steps(first, values, 4)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        steps(second, values, 4, seed=2)
        assert set(second.state_dict()["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}
    torch.testing.assert_close(ours, theirs, **EXACT)


HALF = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


@pytest.mark.parametrize("at_once", [2**25, 16, 1])
@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_is_updated_in_float32(monkeypatch, dtype, at_once):
    """As fairseq's Adam: state in float32, weights rounded once a step."""
    monkeypatch.setattr(fused_adam, "CAST_AT_ONCE", at_once)
    ours, theirs = parameters(dtype), parameters(dtype)
    found = []
    for kind, values in ((FusedAdam, ours), (Adam, theirs)):
        optimizer = kind(values, **SETTINGS)
        steps(optimizer, values, 5, skip=1)
        steps(optimizer, values, 5, seed=2)
        found.append([optimizer.state[value] for value in values])
    assert {state["exp_avg"].dtype for state in found[0]} == {torch.float32}
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-12)
    for a, b, start in zip(ours, theirs, parameters(dtype), strict=True):
        assert a.dtype == dtype
        assert not torch.equal(a, start)
        # A weight between two numbers of the dtype may be rounded to either.
        torch.testing.assert_close(a, b, rtol=2 * HALF[dtype], atol=1e-6)


def memory_efficient(kind, values):
    """Wrap an optimizer as fairseq does for ``--memory-efficient-bf16``."""
    wrapped = FairseqOptimizer(None)
    wrapped._optimizer = kind(values, **SETTINGS)
    cfg = SimpleNamespace(
        common=SimpleNamespace(
            bf16=True, fp16_scale_window=None, model_parallel_size=1
        ),
        optimization=SimpleNamespace(update_freq=[1]),
        distributed_training=SimpleNamespace(distributed_world_size=1),
        optimizer=None,
    )
    return MemoryEfficientFP16Optimizer(cfg, values, wrapped)


def test_half_precision_resumes_from_a_restored_state():
    found = []
    for kind in (FusedAdam, Adam):
        values = parameters(torch.bfloat16)
        first = memory_efficient(Adam, values)
        steps(first, values, 4)
        second = memory_efficient(kind, values)
        second.load_state_dict(copy.deepcopy(first.state_dict()), {})
        steps(second, values, 4, seed=2)
        found.append([second.optimizer.state[value]["exp_avg"] for value in values])
    assert {average.dtype for average in found[0]} == {torch.float32}
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-12)


class Counting(TorchDispatchMode):
    """Counts the calls into PyTorch that are not just views."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        views = ("view", "unbind", "detach", "alias", "split")
        self.count += not any(word in str(function) for word in views)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_the_number_of_kernels_does_not_grow_with_that_of_parameters(dtype):
    counts = []
    for number in (3, 100):
        values = [torch.nn.Parameter(torch.ones(8, dtype=dtype)) for _ in range(number)]
        optimizer = FusedAdam(values, **SETTINGS)
        steps(optimizer, values, 1)
        with Counting() as counting:
            optimizer.step()
        counts.append(counting.count)
    assert counts[0] == counts[1] <= 12


def train_and_count(argv):
    """Train, and print how many parameters each call of PyTorch's kernel updated."""
    counts, kernel = [], fused_adam.adamw

    def counted(values, *arguments, **settings):
        assert settings["fused"]
        counts.append(len(values))
        kernel(values, *arguments, **settings)

    fused_adam.adamw = counted
    run_command("fairseq_cli.train", argv)
    sys.stdout.write(f"updated: {' '.join(map(str, counts))}\n")


def trained_with(optimizer, data, folder, *flags):
    """Train for 6 updates; return the checkpoint and what the fused kernel did."""
    more = ["--optimizer", optimizer, "--save-dir", folder, "--max-update", "6", *flags]
    done = start_fast(train_and_count, command_line([data, *more])).wait()
    assert done.returncode == 0, done.stderr
    counts = [int(word) for word in done.stdout.split("updated:")[1].split()]
    return load_checkpoint(folder / "checkpoint_last.pt"), counts


def test_trains_from_the_command_line_as_adam_does(tmp_path):
    data = make_data(tmp_path / "data")
    (ours, counts), (theirs, none) = (
        trained_with(name, data, tmp_path / name) for name in ("fused_adam", "adam")
    )
    assert none == []
    states = ours["last_optimizer_state"]["state"]
    assert counts == [len(states)] * 6
    last = ours["optimizer_history"][-1]
    assert last["optimizer_name"] == "FairseqFusedAdam"
    for number, own in states.items():
        other = theirs["last_optimizer_state"]["state"][number]
        assert own["step"] == other["step"] == 6
        assert own["exp_avg"].any() or not other["exp_avg"].any()
        torch.testing.assert_close(
            own["exp_avg"], other["exp_avg"], rtol=1e-3, atol=1e-5
        )
    torch.testing.assert_close(ours["model"], theirs["model"], rtol=1e-3, atol=1e-4)


def test_trains_in_half_precision_from_the_command_line(tmp_path):
    data = make_data(tmp_path / "data")
    found, counts = trained_with(
        "fused_adam", data, tmp_path / "out", "--memory-efficient-bf16"
    )
    states = found["last_optimizer_state"]["state"]
    assert counts == [len(states)] * 6
    for name, weight in found["model"].items():  # fairseq saves them in float32
        assert torch.equal(weight, weight.bfloat16().float()), name
    for state in states.values():
        assert state["step"] == 6
        assert state["exp_avg"].dtype == torch.float32
