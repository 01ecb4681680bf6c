"""The criterion ACL: label embeddings in the batch, a term that yields to conflict."""

import math

import pytest
import torch
import torch.nn.functional as F

from fairseq_scl.compat.checkpoints import load_checkpoint
from fairseq_scl.inference.trained_format import learned_nothing
from fairseq_scl.losses import supervised_contrastive_floor, supervised_contrastive_loss
from fairseq_scl.objectives.acl import loss as acl
from fairseq_scl.objectives.acl.jacobian import JACOBIAN, logit_jacobian
from helpers.acl import label_embedding_loss
from helpers.checkpoints import assert_same_weights
from helpers.distributed import batch_of, join, numbers_of, run_workers, train_together
from helpers.gradients import (
    OFF,
    ON,
    HalfOptimizer,
    assert_chunks_are_the_batch,
    assert_is_stock,
    build,
    gradients,
    step,
    stock_criterion,
)
from helpers.refusals import refused
from helpers.training import toy_model

ACL = ["--criterion", "sentence_prediction_acl"]
EMBED, GRAD = [*ACL, "--acl-embed"], [*ACL, "--acl-embed", "--acl-grad"]
HEAD = "sentence_classification_head"
SIZE = 23


# The Jacobian of the head


@pytest.mark.parametrize("kind", ["cls", "pooled"])
@pytest.mark.parametrize("graph", [True, False])
def test_the_jacobian_is_that_of_the_pass_with_its_dropout(data, kind, graph):
    toy = build(data, 0, "--pooler-dropout", "0.5", *OFF[:4])
    tokens = toy.batch(5)["net_input"]["src_tokens"]
    head = toy.model.classification_heads[HEAD]
    read = []
    reader = head if kind == "cls" else head.out_proj
    handle = reader.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    torch.manual_seed(2)
    with torch.set_grad_enabled(graph), logit_jacobian(toy.model, HEAD, kind):
        logits, extra = toy.model(tokens, classification_head_name=HEAD)
    assert logits.requires_grad == graph
    handle.remove()
    torch.manual_seed(2)
    plain, _ = toy.model(tokens, classification_head_name=HEAD)
    assert torch.equal(plain, logits)
    if kind == "cls":  # the same masks, by hand: the encoder draws nothing

        def again(rows):
            torch.manual_seed(2)
            return head(rows.unsqueeze(1))

        rows = read[0][:, 0].detach()
    else:
        rows, again = read[0].detach(), head.out_proj
    whole = torch.autograd.functional.jacobian(again, rows)
    expected = torch.stack([whole[i, :, i] for i in range(5)])
    torch.testing.assert_close(extra[JACOBIAN], expected)
    assert "forward" not in vars(reader)
    assert not toy.model._forward_hooks


# The criterion


@pytest.mark.parametrize("features", ["cls", "pooled"])
def test_lambda_zero_is_the_stock_criterion_bit_for_bit(data, features):
    toy = toy_model([data, *GRAD, "--scl-lambda", "0", "--scl-features", features])
    assert_is_stock(toy, toy.batch(16))


def test_without_its_flags_it_is_the_contrastive_criterion(data):
    losses = []
    for criterion in ("sentence_prediction_acl", "sentence_prediction_scl"):
        toy = toy_model([data, "--criterion", criterion])
        torch.manual_seed(3)
        losses.append(toy.criterion(toy.model.train(), toy.batch(16)))
    assert torch.equal(losses[0][0], losses[1][0])
    assert losses[0][2].keys() == losses[1][2].keys()


def read_by_head(toy, batch, kind):
    """Return features, label embeddings and logits by stock means, without dropout."""
    head = toy.model.classification_heads[HEAD]
    hidden, _ = toy.model(batch["net_input"]["src_tokens"], features_only=True)
    first = hidden[:, 0].detach().requires_grad_()
    if kind == "cls":
        return first, toy.criterion.label_embeddings, head(first[:, None])
    rows = head.activation_fn(head.dense(first))
    return rows, head.out_proj.weight, head.out_proj(rows)


@pytest.mark.parametrize("reduction", ["mean", "paper"])
@pytest.mark.parametrize("anchors", acl.LABEL_ANCHORS)
@pytest.mark.parametrize("features", ["cls", "pooled"])
def test_the_loss_is_that_with_label_embeddings(data, features, anchors, reduction):
    flags = [*EMBED, "--scl-features", features, "--acl-anchors", anchors]
    toy = build(data, 0, *flags, *OFF, "--scl-reduction", reduction)
    batch = toy.batch(SIZE)
    loss, size, log = toy.criterion(toy.model, batch)
    loss.backward()
    rows, table, logits = read_by_head(toy, batch, features)
    labels = batch["target"].view(-1)
    scl = label_embedding_loss(rows, labels, table, 0.3, anchors)
    ce = F.cross_entropy(logits, labels)
    count = SIZE + 2 if anchors == "all" else SIZE
    weighted = scl if reduction == "paper" else scl / count
    torch.testing.assert_close(
        loss.double() / size, 0.1 * ce + 0.9 * weighted, rtol=1e-5, atol=0
    )
    assert table.grad.abs().max() > 0
    scale = 1 if reduction == "paper" else SIZE / count
    classes = torch.cat([labels, torch.arange(2)])
    floor = supervised_contrastive_floor(classes, 0.3, anchors=count)
    for key, value in (("loss", scl), ("floor", floor)):
        logged = log[f"scl_{key}"].item()
        assert logged == pytest.approx(scale * value.item(), rel=1e-5)
    assert log["scl_anchors"].item() == pytest.approx(SIZE)  # each has its label's


def test_the_learned_table_does_not_change_dropout(data):
    states = []
    for flags in (ACL, EMBED):
        toy_model([data, *flags])
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_the_learned_table_has_the_given_deviation(data):
    first, second = (
        toy_model([data, *EMBED, "--acl-embed-std", std]).criterion.label_embeddings
        for std in ("0.02", "0.1")
    )
    assert first.std().item() == pytest.approx(0.02, rel=0.4)
    torch.testing.assert_close(second, 5 * first)


def prepared(data, *flags):
    """Return a toy with ACL-Grad, without dropout, and a batch."""
    toy = build(data, 0, *GRAD, *OFF, *flags)
    return toy, toy.batch(SIZE)


@pytest.mark.parametrize("features", ["cls", "pooled"])
@pytest.mark.parametrize("weights", [None, (0.3, 4.0)])
def test_the_cosine_is_that_of_both_gradients_at_the_features(data, features, weights):
    weights = None if weights is None else torch.tensor(weights).double()
    for seed in range(4):
        toy, batch = prepared(data, "--scl-features", features)
        toy.criterion.class_weights = None if weights is None else weights.float()
        with torch.no_grad():
            random = torch.Generator().manual_seed(seed)
            order = torch.randperm(SIZE, generator=random)
            batch["target"] = batch["target"][order]
        loss, _, log = toy.criterion(toy.model, batch)
        rows, table, logits = read_by_head(toy, batch, features)
        labels = batch["target"].view(-1)
        ce = F.cross_entropy(logits, labels, weights, reduction="sum")
        scl = label_embedding_loss(rows, labels, table, 0.3)
        first, second = (
            torch.autograd.grad(term, rows, retain_graph=True)[0] for term in (ce, scl)
        )
        cosine = F.cosine_similarity(first.flatten(), second.flatten(), dim=0)
        assert log["acl_cosine"].item() == pytest.approx(cosine.item(), abs=1e-4)
        assert log["acl_conflicts"].item() == int(cosine < 0)
        assert log["acl_steps"] == 1
        kept = 0.0 if cosine < 0 else 0.9 * scl.item() * SIZE / (SIZE + 2)
        assert loss.item() == pytest.approx(0.1 * ce.item() + kept, rel=1e-4)


@pytest.mark.parametrize(("sign", "kept"), [(1, True), (-1, False)])
def test_parallel_gradients_never_drop_the_term_and_opposite_ones_always(
    data, sign, kept
):
    toy = build(data, 0, *ACL, "--acl-grad", *OFF)
    batch = toy.batch(SIZE)
    labels = batch["target"].view(-1)
    for seed in range(5):
        random = torch.Generator().manual_seed(seed)
        features = torch.randn(SIZE, 6, generator=random).requires_grad_()
        term = supervised_contrastive_loss(features, labels, 0.3)
        (gradient,) = torch.autograd.grad(term, features, retain_graph=True)
        log = {}
        of_ce = {"gradient_of_cross_entropy": (features, sign * 0.01 * gradient)}
        found, _ = toy.criterion.contrastive_term(
            toy.model, {**batch, **of_ce}, features, log
        )
        found.backward()
        assert log["acl_conflicts"].item() == int(not kept)
        assert log["acl_cosine"].item() == pytest.approx(sign, abs=1e-5)
        assert found.item() == (term.item() if kept else 0)
        assert bool(features.grad.any()) is kept


def test_a_step_with_conflict_is_that_of_cross_entropy_alone(data, monkeypatch):
    toy, batch = prepared(data)
    monkeypatch.setattr(
        "fairseq_scl.objectives.acl.sentence_prediction_acl.gradient_conflict",
        lambda products: (products[0] < math.inf, products[0]),
    )
    loss, _, log = toy.criterion(toy.model, batch)
    loss.backward()
    found = gradients(toy.model)
    toy.model.zero_grad(set_to_none=True)
    ce = stock_criterion(toy)(toy.model, batch)[0] * (1 - 0.9)
    ce.backward()
    assert torch.equal(loss, ce)
    assert log["acl_conflicts"] == 1
    assert not toy.criterion.label_embeddings.grad.any()
    wanted = gradients(toy.model)
    found = {name: found[name] for name in wanted}
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)


def test_validation_decides_nothing(data):
    toy, batch = prepared(data)
    _, _, log = toy.task.valid_step(batch, toy.model, toy.criterion)
    assert "acl_steps" not in log
    assert log["scl_loss"] > 0


@pytest.mark.parametrize("features", ["cls", "pooled"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_decides_and_gives_finite_gradients(data, dtype, features):
    toy = build(data, 0, *GRAD, *OFF, "--scl-features", features, dtype=torch.float32)
    batch = toy.batch(SIZE)
    exact = toy.criterion(toy.model, batch)[2]["acl_cosine"]
    toy.model.to(dtype)
    toy.criterion.to(dtype)
    loss, _, log = toy.criterion(toy.model, batch)
    loss.backward()
    assert loss.dtype == torch.float32
    assert log["acl_cosine"].item() == pytest.approx(exact.item(), abs=0.05)
    assert all(one.isfinite().all() for one in gradients(toy.model).values())


# Chunks


@pytest.mark.parametrize("flags", ["", "--packed", "--acl-anchors samples --packed"])
@pytest.mark.parametrize("features", ["cls", "pooled"])
def test_in_chunks_it_is_the_whole_batch(data, features, flags):
    toy = build(
        data,
        4,
        *[*GRAD, *ON, "--scl-features", features, "--scl-lambda", "0.7"],
        *flags.split(),
    )
    toy.criterion.double()
    # CE goes through float32 in the stock criterion.
    found, log = assert_chunks_are_the_batch(toy, within=1e-6)
    assert log["acl_steps"] == 1
    assert ("label_embeddings" in found) == (features == "cls")


# Workers


def decide_as_worker(folder, rank, workers, data):
    join(folder, rank, workers)
    found = {}
    for features in ("cls", "pooled"):
        for gathers in ([], ["--gather-features"]):
            flags = [*GRAD, "--scl-features", features, "--scl-lambda", "0.7", *OFF]
            toy = build(data, 0, *flags, *gathers)
            toy.criterion.double()
            batch = batch_of(toy, numbers_of((8, 5), rank))
            loss, _, log = toy.criterion(toy.model, batch)
            loss.backward()
            numbers = {key: float(value) for key, value in log.items()}
            own = gradients(toy.model) | gradients(toy.criterion)
            found[features, bool(gathers)] = numbers, own
    torch.save(found, f"{folder}/found{rank}.pt")
    torch.distributed.destroy_process_group()


def test_workers_decide_together(data, tmp_path):
    found = run_workers(decide_as_worker, 2, tmp_path, data)
    for case, (log, first) in found[0].items():
        other_log, second = found[1][case]
        for key in ("acl_conflicts", "acl_cosine", "acl_steps"):
            assert log[key] == other_log[key], case
        if case[1]:  # with all features gathered it is one large batch
            flags = [*GRAD, "--scl-features", case[0], "--scl-lambda", "0.7", *OFF]
            toy = build(data, 0, *flags)
            toy.criterion.double()
            loss, _, alone = toy.criterion(toy.model, batch_of(toy, range(13)))
            loss.backward()
            for key in ("acl_conflicts", "acl_cosine"):
                assert log[key] == pytest.approx(float(alone[key]), abs=1e-6)
            for key in ("loss", "scl_loss", "scl_floor", "scl_anchors"):
                total = log[key] + other_log[key]
                assert total == pytest.approx(float(alone[key]), rel=1e-5), (case, key)
            wanted = gradients(toy.model) | gradients(toy.criterion)
            total = {name: first[name] + second[name] for name in wanted}
            torch.testing.assert_close(total, wanted, rtol=1e-5, atol=1e-6)


def test_two_workers_that_gather_chunks_train_as_one(data, tmp_path):
    flags = [*GRAD, "--gather-features", "--chunk", "4", "--pooler-dropout", "0"]
    for workers, size in ((1, 27), (2, 14)):
        done = train_together(
            *[data, tmp_path / str(workers), workers, *flags],
            *["--batch-size", "10", "--contrastive-batch", str(size)],
        )
        for process in done:
            assert process.returncode == 0, process.stderr[-3000:]
    files = (tmp_path / str(n) / "rank0" / "checkpoint_last.pt" for n in (1, 2))
    states = [load_checkpoint(file) for file in files]
    learned = [state["model"] | state["criterion"] for state in states]
    torch.testing.assert_close(*learned, atol=2e-4, rtol=1e-3)


def test_workers_with_unequal_numbers_of_batches_train_to_the_end(data, tmp_path):
    """Three batches for two workers: one gets a filled-in batch in each epoch."""
    flags = [*GRAD, "--contrastive-batch", "9", "--chunk", "4"]
    done = train_together(data, tmp_path, 2, *flags, "--batch-size", "8")
    for process in done:
        assert process.returncode == 0, process.stderr[-3000:]
    files = [tmp_path / f"rank{rank}" / "checkpoint_last.pt" for rank in range(2)]
    assert_same_weights(*files)
    tables = [load_checkpoint(file)["criterion"]["label_embeddings"] for file in files]
    assert torch.equal(*tables)


def test_small_gradients_of_parameters_survive_half_precision(data):
    """In chunks too they are computed from a loss that is scaled."""
    toy = build(data, 4, *EMBED, *OFF, dtype=torch.float16)
    toy.criterion.half()
    original, small = toy.criterion.loss_of_outputs, 2.0**-20

    def small_loss(*arguments):
        loss, size, log = original(*arguments)
        return loss * small, size, log

    toy.criterion.loss_of_outputs = small_loss
    step(toy, HalfOptimizer(1 / small))
    found = toy.criterion.label_embeddings.grad.double()
    exact = build(data, 4, *EMBED, *OFF)
    exact.criterion.double()
    step(exact)
    expected = exact.criterion.label_embeddings.grad
    assert (found - expected).norm() < 0.03 * expected.norm()


# Refusals


@pytest.mark.parametrize("trained", [True, False])
def test_label_embeddings_train_the_projection_without_cross_entropy(
    data, caplog, trained
):
    flags = EMBED if trained else ACL
    toy = build(data, 0, *flags, *OFF, "--scl-lambda", "1", "--scl-features", "pooled")
    toy.criterion(toy.model, toy.batch(SIZE))[0].backward()
    gradient = gradients(toy.model)[f"classification_heads.{HEAD}.out_proj.weight"]
    assert bool(gradient.any()) is trained
    assert ("--scl-lambda 1" in caplog.text) is not trained
    cfg = {"criterion": dict(toy.cfg.criterion)}
    assert (learned_nothing({"cfg": cfg}, []) is None) is trained


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--acl-anchors both", "--acl-anchors is 'both'; all, samples"),
        ("--acl-embed-std 0", "--acl-embed-std is 0.0; above 0"),
        ("--acl-grad --scl-lambda 1", "--acl-grad; --scl-lambda 1"),
        ("--task sentence_prediction", "sentence_prediction_acl needs --task"),
        ("--scl-lambda 2", "--scl-lambda; 2.0"),
    ],
)
def test_refusals(data, flags, words):
    with refused(*words.split("; ")):
        toy_model([data, *ACL, *flags.split()])
