"""The criterion CAPCORT: the squared distance to z_pre, zero at the start."""

import copy

import pytest
import torch
from fairseq.logging import metrics
from hypothesis import given
from hypothesis import strategies as st

from fairseq_scl.errors import InputError
from fairseq_scl.objectives.capcort import pretrained
from fairseq_scl.objectives.capcort.loss import representation_consistency_loss
from fairseq_scl.objectives.capcort.pretrained import pretrained_states
from fairseq_scl.objectives.capcort.sentence_prediction_capcort import (
    SentencePredictionCapcortCriterion,
)
from helpers.gradients import (
    OFF,
    ON,
    assert_chunks_are_the_batch,
    assert_is_stock,
    build,
    stock_criterion,
)
from helpers.refusals import refused
from helpers.training import toy_model

HEAD = "sentence_classification_head"
CAPCORT = ["--criterion", "sentence_prediction_capcort"]
ONE = [*CAPCORT, "--capcort-lambda", "1"]
MLP = ["--capcort-map", "mlp"]
SIZE = 23


# The loss


@given(size=st.integers(0, 6), width=st.integers(1, 5), seed=st.integers(0, 1000))
def test_it_is_the_squared_distance(size, width, seed):
    random = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, size, width, generator=random, dtype=torch.float64)
    pairs = zip(first.flatten().tolist(), second.flatten().tolist(), strict=True)
    expected = sum((b - a) ** 2 for a, b in pairs)
    found = representation_consistency_loss(first, second)
    assert found.item() == pytest.approx(expected)


def test_its_gradient_reaches_the_mapped_representation_alone():
    first, second = torch.randn(2, 4, 3, dtype=torch.float64)
    second.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: representation_consistency_loss(first, x), [second]
    )
    first.requires_grad_()
    representation_consistency_loss(first, second).backward()
    assert first.grad is None
    assert second.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_it_is_float32_for_half_precision(dtype):
    rows = torch.full((2, 3), 300.0, dtype=dtype)  # its square overflows in float16
    found = representation_consistency_loss(torch.zeros(2, 3), rows)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(6 * 300.0**2)


def test_other_shapes_are_named():
    with pytest.raises(ValueError, match=r"must be \(N, D\), got shapes \(2, 3\)"):
        representation_consistency_loss(torch.ones(2, 3), torch.ones(2, 4))


# The criterion


def prepared(data, *flags, chunk=0, dtype=torch.float64):
    """Return a toy whose criterion has taken z_pre, with its training set loaded."""
    toy = build(data, chunk, *flags, dtype=dtype)
    toy.task.load_dataset("train")
    toy.criterion.before_update(toy.model, 0)
    return toy


def move(model):
    """Change the weights, as training does."""
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=random)
            parameter.add_(0.05 * noise.to(parameter.dtype))


def states(model, batch, kind):
    """Compute z by the stock forward pass; dropout must be off."""
    tokens = batch["net_input"]["src_tokens"]
    hidden, _ = model(tokens, features_only=True)
    if kind == "cls":
        return hidden[:, 0]
    return torch.stack(
        [row[one.ne(1)].mean(dim=0) for row, one in zip(hidden, tokens, strict=True)]
    )


@pytest.mark.parametrize("flags", [[], MLP, ["--capcort-targets", "encoder"]])
def test_lambda_zero_is_the_stock_criterion_bit_for_bit(data, flags):
    toy = toy_model([data, *CAPCORT, "--capcort-lambda", "0", *flags])
    toy.criterion.before_update(toy.model, 0)
    assert_is_stock(toy, toy.batch(16))


@pytest.mark.parametrize("kind", ["cls", "mean"])
@pytest.mark.parametrize("packed", [[], ["--packed"]])
@pytest.mark.parametrize("targets", ["encoder", "stored"])
def test_identity_adds_nothing_at_the_first_update(data, targets, packed, kind):
    flags = [*ONE, "--capcort-targets", targets, "--capcort-features", kind]
    toy = prepared(data, *flags, *OFF, *packed)
    batch = toy.batch(SIZE)
    loss, _, log = toy.criterion(toy.model, batch)
    ce = stock_criterion(toy)(toy.model, batch)[0]
    if targets == "encoder" and kind == "cls" and packed:  # the very same computation
        assert log["capcort_loss"] == 0
        assert torch.equal(loss, ce.double())
    # Attention without graph, or in another batch, rounds otherwise.
    assert 0 <= log["capcort_loss"] < (1e-24 if targets == "encoder" else 1e-10)
    torch.testing.assert_close(loss, ce.double(), rtol=1e-10, atol=0)


def test_with_dropout_the_target_has_none(data):
    """Evaluation mode: with dropout in training, z_fine differs from z_pre at once."""
    toy = prepared(data, *ONE, *ON)
    torch.manual_seed(0)
    assert toy.criterion(toy.model, toy.batch(SIZE))[2]["capcort_loss"] > 0.1
    plain = prepared(data, *ONE, *OFF)
    torch.testing.assert_close(*(t.criterion._table[0] for t in (toy, plain)))
    assert toy.model.training


@pytest.mark.parametrize("kind", ["cls", "mean"])
@pytest.mark.parametrize("phi", ["identity", "mlp"])
@pytest.mark.parametrize("targets", ["encoder", "stored"])
@pytest.mark.parametrize(
    "more", ["", "--packed --scl-lambda 0.6 --scl-features pooled"]
)
def test_the_loss_is_the_formula(data, targets, phi, kind, more):
    flags = ["--capcort-targets", targets, "--capcort-features", kind]
    toy = prepared(
        data,
        *[*CAPCORT, "--capcort-lambda", "0.3", "--capcort-map", phi, *flags, *OFF],
        *more.split(),
    )
    toy.criterion.double()
    before = copy.deepcopy(toy.model)
    move(toy.model)
    batch = toy.batch(SIZE)
    loss, size, log = toy.criterion(toy.model, batch)
    loss.backward()
    pretrained = states(before, batch, kind).detach()
    mapped = toy.criterion.phi(states(toy.model, batch, kind))
    consistency = (pretrained - mapped).square().sum(dim=1).mean()
    share = 0.6 if more else 0.0
    expected = (1 - share) * log["ce_loss"] + share * log["scl_loss"]
    expected = expected.double() / size + 0.3 * consistency
    torch.testing.assert_close(loss / size, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(log["loss"], loss.detach())
    torch.testing.assert_close(
        log["capcort_loss"].double() / size, consistency.detach(), rtol=1e-6, atol=0
    )
    for parameter in toy.criterion.parameters():
        assert parameter.grad.any()


def test_the_mean_over_the_examples_of_all_batches_is_logged():
    logs = [
        {"loss": 0, "sample_size": n, "ntokens": n, "nsentences": n, "capcort_loss": c}
        for n, c in ((4, 3.0), (1, 7.0))
    ]
    with metrics.aggregate(new_root=True) as found:
        SentencePredictionCapcortCriterion.reduce_metrics(logs)
    assert found["capcort_loss"].avg == pytest.approx(2)


def test_the_frozen_encoder_stays_and_is_not_trained(data):
    toy = prepared(data, *ONE, "--capcort-targets", "encoder", *OFF)
    (held,) = toy.criterion._encoder
    before = {name: value.clone() for name, value in held.state_dict().items()}
    move(toy.model)
    toy.criterion(toy.model, toy.batch(SIZE))[0].backward()
    assert all(torch.equal(before[n], v) for n, v in held.state_dict().items())
    assert not held.training
    assert not any(p.requires_grad or p.grad is not None for p in held.parameters())
    assert not list(toy.criterion.parameters())
    assert not toy.criterion.state_dict()


@pytest.mark.parametrize("batching", ["fixed", "balanced"])
def test_the_table_has_a_row_for_each_example_by_its_id(data, batching):
    toy = prepared(data, *ONE, "--batching", batching, "--packed")
    (table,) = toy.criterion._table
    assert (table.shape, table.dtype) == ((27, 16), torch.float32)
    examples = toy.task.dataset("train")
    model = copy.deepcopy(toy.model).eval()
    for number in (0, 11, 26):
        batch = examples.collater([examples[number]])
        expected = states(model, batch, "cls").float()
        torch.testing.assert_close(table[batch["id"]], expected)


def test_the_table_is_computed_in_batches_of_bounded_size(data, monkeypatch):
    """Without the examples that are too long, which fairseq skips."""
    toy = build(data, 0, *ONE)
    toy.task.load_dataset("train")
    examples, seen = toy.task.dataset("train"), []

    def noted(model, net_input, *more):
        seen.append(net_input["src_tokens"].numel())
        return pretrained_states(model, net_input, *more)

    monkeypatch.setattr(pretrained, "pretrained_states", noted)
    monkeypatch.setattr(pretrained, "TOKENS_AT_ONCE", 9)
    table = pretrained.stored_states(toy.model.eval(), examples, HEAD, "cls", 8)
    sizes = [int(examples.num_tokens(n)) for n in range(27)]
    assert table.isnan().any(dim=1).tolist() == [size > 8 for size in sizes]
    assert max(sizes) > 9
    assert max(seen) <= 9


def test_validation_has_no_consistency_term(data):
    toy = prepared(data, *ONE)
    _, _, log = toy.task.valid_step(toy.batch(6, "valid"), toy.model, toy.criterion)
    assert "capcort_loss" not in log
    torch.testing.assert_close(log["loss"], log["ce_loss"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["cls", "mean"])
def test_half_precision_gives_a_float32_loss_and_finite_gradients(data, dtype, kind):
    flags = [*ONE, *MLP, "--capcort-features", kind, *OFF]
    toy = prepared(data, *flags, dtype=dtype)
    toy.criterion.to(dtype)
    loss, _, log = toy.criterion(toy.model, toy.batch(SIZE))
    loss.backward()
    assert loss.dtype == log["capcort_loss"].dtype == torch.float32
    every = [*toy.model.parameters(), *toy.criterion.parameters()]
    assert all(p.grad.isfinite().all() for p in every if p.grad is not None)
    assert toy.criterion._table[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("flags", "shapes"),
    [
        ([], [(16, 16), (16,), (16, 16), (16,)]),
        (["--capcort-mlp-width", "5"], [(5, 16), (5,), (16, 5), (16,)]),
        (
            ["--capcort-mlp-layers", "2", "--capcort-mlp-activation", "relu"],
            [(16, 16), (16,)] * 3,
        ),
    ],
)
def test_the_mlp_has_the_layers_that_the_flags_say(data, flags, shapes):
    toy = toy_model([data, *ONE, *MLP, *flags])
    assert [tuple(p.shape) for p in toy.criterion.parameters()] == shapes
    activation = torch.nn.ReLU if "relu" in flags else torch.nn.Tanh
    assert all(type(layer) is activation for layer in toy.criterion.phi[1::2])


# Chunks and workers


@pytest.mark.parametrize("phi", ["identity", "mlp"])
@pytest.mark.parametrize(
    "flags",
    [
        "--capcort-features mean",
        "--packed --scl-lambda 0.7",
        "--capcort-targets encoder --packed --capcort-features mean",
    ],
)
def test_in_chunks_it_is_the_whole_batch(data, phi, flags):
    flags = [*ONE, *ON, "--capcort-map", phi, *flags.split()]
    toy = prepared(data, *flags, chunk=4)
    toy.criterion.double()
    move(toy.model)
    # CE goes through float32 in the stock criterion.
    found, _ = assert_chunks_are_the_batch(toy, within=1e-6)
    assert ("phi.0.weight" in found) == (phi == "mlp")


# Refusals


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--capcort-lambda -1", "--capcort-lambda is -1.0; 0 or above"),
        ("--capcort-map linear", "--capcort-map is 'linear'; identity, mlp"),
        ("--capcort-features pooled", "--capcort-features is 'pooled'; cls, mean"),
        ("--capcort-targets file", "--capcort-targets is 'file'; stored, encoder"),
        ("--capcort-mlp-activation silu", "is 'silu'; tanh, relu, gelu"),
        ("--capcort-mlp-layers 0", "--capcort-mlp-layers is 0; at least 1"),
        ("--capcort-mlp-width -2", "--capcort-mlp-width is -2; at least 0"),
        (
            "--shorten-method random_crop --shorten-data-split-list train",
            "--capcort-targets stored; --shorten-method random_crop",
        ),
        ("--task sentence_prediction", "sentence_prediction_capcort needs --task"),
    ],
)
def test_refusals(data, flags, words):
    with refused(*words.split("; ")):
        toy_model([data, *CAPCORT, *flags.split()])


def test_without_a_training_set_there_is_no_table(data):
    toy = toy_model([data, *ONE])
    with pytest.raises(InputError, match="stored needs the training set 'train'"):
        toy.criterion.before_update(toy.model, 0)
