"""``--optimizer fused_adam``: fairseq's Adam to the last digits, and its refusals."""

import copy

import pytest
import torch
from fairseq.optim.adam import Adam
from toy import make_data, train_fast

from fairseq_scl.optim.fused_adam import FusedAdam

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


@pytest.mark.parametrize("eps", [1e-8, 1e-6, 1e-2])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_equals_fairseqs_adam(eps, weight_decay):
    settings = {**SETTINGS, "eps": eps, "weight_decay": weight_decay}
    ours, theirs = parameters(), parameters()
    steps(FusedAdam(ours, **settings), ours, 20)
    steps(Adam(theirs, **settings), theirs, 20)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_equals_in_float32_too():
    ours, theirs = parameters(torch.float32), parameters(torch.float32)
    steps(FusedAdam(ours, **SETTINGS), ours, 20)
    steps(Adam(theirs, **SETTINGS), theirs, 20)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_parameters_without_gradient_stay_and_count_their_own_steps():
    ours, theirs = parameters(), parameters()
    for kind, values in ((FusedAdam, ours), (Adam, theirs)):
        optimizer = kind(values, **SETTINGS)
        steps(optimizer, values, 3, skip=1)
        steps(optimizer, values, 3, seed=2)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_goes_on_from_a_state_of_fairseqs_adam_and_back():
    values = {"ours": parameters(), "theirs": parameters()}
    for values_of in values.values():
        first = Adam(values_of, **SETTINGS)
        steps(first, values_of, 4)
        state = copy.deepcopy(first.state_dict())
        kind = FusedAdam if values_of is values["ours"] else Adam
        second = kind(values_of, **SETTINGS)
        second.load_state_dict(state)
        steps(second, values_of, 4, seed=2)
        assert set(second.state_dict()["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}
    for a, b in zip(values["ours"], values["theirs"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_half_precision_goes_fairseqs_way():
    ours, theirs = parameters(torch.bfloat16), parameters(torch.bfloat16)
    steps(FusedAdam(ours, **SETTINGS), ours, 5)
    steps(Adam(theirs, **SETTINGS), theirs, 5)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


def test_trains_from_the_command_line_and_refuses_what_it_cannot(tmp_path):
    data = make_data(tmp_path / "data")
    common = [data, "--optimizer", "fused_adam", "--save-dir", tmp_path / "out"]
    done = train_fast(common)
    assert done.returncode == 0, done.stderr
    assert (
        "FairseqFusedAdam" in done.stdout + done.stderr
        or "done training" in done.stdout
    )
    refused = train_fast([*common, "--fp16-adam-stats"])
    assert refused.returncode == 2
    assert "--fp16-adam-stats does not go with --optimizer fused_adam" in refused.stderr
