"""The criterion: λ = 0 is the stock one, the sums are Eq. 1, the logs are exact."""

import copy
import logging
import math

import pytest
import torch
from fairseq.logging import metrics

from fairseq_scl.compat.checkpoints import LAYER_COPY
from fairseq_scl.criterions.sentence_prediction_scl import (
    SentencePredictionSCLCriterion,
)
from fairseq_scl.losses import supervised_contrastive_floor, supervised_contrastive_loss
from helpers.gradients import OFF, assert_is_stock, stock_criterion
from helpers.refusals import refused
from helpers.training import Toy, draw_weights, toy_model

# Three classes, the last one rare.
DATA = {"sizes": {"train": 40}, "classes": 3, "weights": (6, 3, 1)}

HEAD = "sentence_classification_head"


def build(data, *flags) -> Toy:
    """Build criterion and model; dropout is 0.1 unless the flags say other."""
    return toy_model([data, "--num-classes", "3", *flags])


@pytest.fixture(scope="module")
def plain(data):
    """A model without dropout, never changed by a test."""
    toy = build(data, *OFF)
    draw_weights(toy.model)
    toy.model.train()
    return toy


def gradients(model):
    """Return every parameter's gradient by name."""
    return {name: p.grad for name, p in model.named_parameters()}


def backward(criterion, model, batch):
    """Run one forward and backward pass under one seed; return what forward gave."""
    model.zero_grad()
    torch.manual_seed(3)
    output = criterion(model, batch)
    output[0].backward()
    return output


def terms(toy, batch, kind, temperature):
    """Compute CE summed and Eq. 3 summed by stock means; dropout must be off."""
    ce, _, _ = stock_criterion(toy)(toy.model, batch)
    hidden, _ = toy.model(batch["net_input"]["src_tokens"], features_only=True)
    features = hidden[:, 0, :]
    if kind == "pooled":
        head = toy.model.classification_heads[HEAD]
        features = head.activation_fn(head.dense(features))
    labels = batch["target"].view(-1)
    return ce, supervised_contrastive_loss(features, labels, temperature)


# λ = 0


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--scl-features", "pooled", "--pooler-dropout", "0.2"],
        ["--scl-reduction", "paper", "--scl-temperature", "0.05"],
        ["--mha-reg-scale-factor", "0.01"],
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lambda_zero_is_the_stock_criterion_bit_for_bit(data, flags, dtype):
    toy = build(data, "--scl-lambda", "0", *flags)
    toy.model.to(dtype)
    assert_is_stock(toy, toy.batch(16))


# What is summed


@pytest.mark.parametrize("features", ["cls", "pooled"])
@pytest.mark.parametrize("weight", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("reduction", ["mean", "paper"])
def test_the_loss_is_equation_1(plain, features, weight, reduction):
    criterion = plain.with_settings(
        scl_lambda=weight,
        scl_features=features,
        scl_reduction=reduction,
        scl_temperature=0.5,
    )
    batch = plain.batch(10)
    loss, sample_size, log = criterion(plain.model, batch)
    ce, scl = terms(plain, batch, features, 0.5)
    assert sample_size == 10
    # fairseq divides by the sample size: two means, or CE's mean with SCL's sum.
    scl_part = scl / 10 if reduction == "mean" else scl
    torch.testing.assert_close(
        loss / sample_size, (1 - weight) * ce / 10 + weight * scl_part
    )
    torch.testing.assert_close(log["loss"], loss.detach())
    torch.testing.assert_close(log["ce_loss"], ce.detach())
    torch.testing.assert_close(log["scl_loss"], scl.detach())
    floor = supervised_contrastive_floor(batch["target"].view(-1), 0.5)
    torch.testing.assert_close(log["scl_floor"], floor)


def test_gradients_are_the_weighted_sum_of_both_terms(plain):
    batch = plain.batch(10)
    ce, scl = terms(plain, batch, "cls", 0.3)
    parameters = [
        parameter
        for name, parameter in plain.model.named_parameters()
        if "lm_head" not in name and not LAYER_COPY.search(name)
    ]
    of_ce, of_scl = (
        torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
        for term in (ce, scl)
    )
    loss, _, _ = plain.with_settings(scl_lambda=0.7)(plain.model, batch)
    for found, a, b in zip(
        torch.autograd.grad(loss, parameters), of_ce, of_scl, strict=True
    ):
        expected = 0.3 * a + (0.7 * b if b is not None else 0)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("features", ["cls", "pooled"])
def test_scl_alone_reaches_the_encoder_as_finite_differences_say(plain, features):
    criterion = plain.with_settings(scl_lambda=1, scl_features=features)
    model, batch = copy.deepcopy(plain.model).double(), plain.batch(10)
    for layer in model.encoder.sentence_encoder.layers:
        layer.activation_fn = torch.tanh  # fairseq computes its gelu in float32
    loss, _, _ = backward(criterion, model, batch)
    assert loss.dtype == torch.float64
    random = torch.Generator().manual_seed(0)
    checked = 0
    for name, parameter in model.encoder.sentence_encoder.named_parameters():
        if LAYER_COPY.search(f".{name}"):
            continue
        direction = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter.add_(direction, alpha=step)
                values.append(criterion(model, batch)[0].item())
                parameter.sub_(direction, alpha=step)
        slope = (values[0] - values[1]) / 2e-5
        along = (parameter.grad * direction).sum().item()
        assert along == pytest.approx(slope, rel=1e-4, abs=1e-4), name
        checked += bool(abs(slope) > 0.1)
    assert checked > 20  # of 36; the keys' biases, for one, have no gradient


@pytest.mark.parametrize("features", ["cls", "pooled"])
def test_lambda_one_warns_that_the_head_gets_no_gradient(data, caplog, features):
    toy = build(data, "--scl-lambda", "1", "--scl-features", features)
    assert [r.levelno for r in caplog.records if "--scl-lambda 1" in r.message] == [
        logging.WARNING
    ]
    assert ("the last projection of" in caplog.text) == (features == "pooled")
    backward(toy.criterion, toy.model.train(), toy.batch(10))
    for name, gradient in gradients(toy.model.classification_heads).items():
        if features == "cls" or "out_proj" in name:
            assert not gradient.any(), name


def test_other_settings_do_not_warn(data, caplog):
    build(data)
    assert "--scl-lambda 1" not in caplog.text


def test_pooled_gives_the_dense_layer_of_the_head_a_gradient(data):
    toy = build(data, "--scl-lambda", "1", "--scl-features", "pooled")
    backward(toy.criterion, toy.model.train(), toy.batch(10))
    head = toy.model.classification_heads[HEAD]
    assert head.dense.weight.grad.any()
    assert not head.out_proj.weight.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.01, 0.3])
def test_half_precision_gives_a_float32_loss_and_finite_gradients(
    plain, dtype, temperature
):
    """Here and not through ``fairseq-train --fp16``, which needs a GPU."""
    model = copy.deepcopy(plain.model).to(dtype)
    criterion = plain.with_settings(scl_temperature=temperature)
    loss, _, log = backward(criterion, model, plain.batch(10))
    assert loss.dtype == log["scl_loss"].dtype == torch.float32
    assert loss.isfinite()
    weight = model.encoder.sentence_encoder.layers[0].fc1.weight
    assert weight.grad.dtype == dtype
    assert weight.grad.any()
    assert all(g.isfinite().all() for g in gradients(model).values() if g is not None)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_small_batches_give_a_finite_loss(plain, size):
    loss, sample_size, log = plain.criterion(plain.model, plain.batch(size))
    assert sample_size == size
    assert loss.isfinite()
    assert log["scl_anchors"] <= size


def test_a_batch_of_one_class_contrasts(plain):
    batch = plain.batch(6)
    batch["target"][:] = 2
    _, _, log = plain.criterion(plain.model, batch)
    assert log["scl_anchors"] == 6
    assert log["scl_loss"] >= 6 * math.log(5) - 1e-4
    assert log["scl_floor"].item() == pytest.approx(6 * math.log(5), abs=1e-4)


# What is logged


def test_validation_logs_terms_and_counts(data):
    toy = build(data)
    batch = toy.batch(10)
    batch["target"][:, 0] = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1, 2])
    loss, sample_size, log = toy.task.valid_step(batch, toy.model, toy.criterion)
    logits, _ = toy.model(
        batch["net_input"]["src_tokens"], classification_head_name=HEAD
    )
    labels = batch["target"].view(-1)
    assert not loss.requires_grad
    assert sample_size == log["nsentences"] == 10
    assert log["ncorrect"] == (logits.argmax(dim=1) == labels).sum()
    assert log["scl_anchors"] == 9
    torch.testing.assert_close(
        log["scl_floor"], supervised_contrastive_floor(labels, 0.3)
    )
    ce = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    torch.testing.assert_close(log["ce_loss"], ce.detach())
    assert log["scl_loss"] >= log["scl_floor"]


def test_logs_can_be_summed_over_workers(plain):
    """fairseq adds the logs of all workers key by key, so each must be a number."""
    assert SentencePredictionSCLCriterion.logging_outputs_can_be_summed()
    _, _, log = plain.criterion(plain.model, plain.batch(10))
    for key, value in log.items():
        assert isinstance(value, int) or value.dim() == 0, key


def test_metrics_are_exact_over_batches_of_different_sizes():
    names = ("loss", "ce_loss", "scl_loss", "scl_floor", "scl_anchors", "ncorrect")
    logs = [
        {"sample_size": size, "nsentences": size, "ntokens": tokens}
        | dict(zip(names, map(torch.tensor, values), strict=True))
        for size, tokens, values in (
            (7, 50, (8.0, 7.0, 14.0, 3.5, 7, 5)),
            (3, 20, (2.0, 1.0, 2.0, 0.5, 2, 1)),
        )
    ]
    for parts in ([logs], [[logs[0]], [logs[1]]]):  # at once, and batch by batch
        with metrics.aggregate(new_root=True) as found:
            for part in parts:
                SentencePredictionSCLCriterion.reduce_metrics(part)
        values = {
            key: float(meter.sum if key.startswith("n_") else meter.avg)
            for key, meter in found.items()
        }
        assert values["ce_loss"] == pytest.approx(0.8)
        assert values["scl_loss"] == pytest.approx(1.6)
        assert values["scl_floor"] == pytest.approx(0.4)
        assert values["scl_anchors"] == pytest.approx(0.9)
        assert (values["n_correct"], values["n_total"]) == (6, 10)
        assert values["accuracy"] == pytest.approx(60)
        assert values["loss"] == pytest.approx(1 / math.log(2))


def test_no_logs_give_no_metrics_of_ours():
    with metrics.aggregate(new_root=True) as found:
        SentencePredictionSCLCriterion.reduce_metrics(
            [{"sample_size": 1, "ntokens": 1}]
        )
    assert not [key for key in found if key.startswith(("n_", "ce_", "scl_"))]


# The stock task, and refusals


def test_the_stock_task_gives_the_same_loss(data):
    losses = [
        backward(toy.criterion, toy.model.train(), toy.batch(10))[0]
        for toy in (build(data), build(data, "--task", "sentence_prediction"))
    ]
    assert torch.equal(*losses)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("scl_lambda", 1.5, "<= 1.0"),
        ("scl_lambda", -0.1, ">= 0.0"),
        ("scl_lambda", math.nan, ">= 0.0"),
        ("scl_temperature", 0.0, ">= 1e-06"),
        ("scl_temperature", -1.0, ">= 1e-06"),
        ("scl_temperature", 1e-30, ">= 1e-06"),
        ("scl_temperature", math.nan, ">= 1e-06"),
        ("scl_temperature", math.inf, "<= 1000000.0"),
        ("scl_features", "first", "cls, pooled, mean"),
        ("scl_reduction", "sum", "mean, paper"),
        ("regression_target", True, "use --criterion sentence_prediction"),
    ],
)
def test_bad_settings_are_named(plain, name, value, allowed):
    shown = "" if value is True else value
    with refused(f"--{name.replace('_', '-')}", shown, allowed):
        plain.with_settings(**{name: value})


@pytest.mark.parametrize("number", ["2", "4"])
@pytest.mark.parametrize("task", ["sentence_prediction", "sentence_prediction_scl"])
def test_another_number_of_classes_is_named(data, task, number):
    with refused(f"--num-classes is {number}, but {data}/label/dict.txt has 3 labels"):
        build(data, "--task", task, "--num-classes", number)
