"""Label embeddings in the contrastive batch, and a term that yields to conflict."""

import json
import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from fairseq.models.roberta import RobertaModel
from hypothesis import given
from test_criterion import stock_criterion
from test_distributed import train_together
from test_gather import OFF, run_workers
from test_gradient_cache import (
    HalfOptimizer,
    assert_same,
    build,
    step,
    weights_of,
    with_graph,
)
from test_losses import batches, dot, unit
from test_train import PREDICT, assert_same_weights, hydra_arguments
from toy import make_data, run_fast, toy_model, train_fast

from fairseq_scl.compat import load_checkpoint
from fairseq_scl.errors import InputError
from fairseq_scl.losses import acl, supervised_contrastive_loss
from fairseq_scl.models.jacobian import JACOBIAN, logit_jacobian

ACL = ["--criterion", "sentence_prediction_acl"]
EMBED, GRAD = [*ACL, "--acl-embed"], [*ACL, "--acl-embed", "--acl-grad"]
HEAD = "sentence_classification_head"
SIZE = 23


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("acl") / "bin"
    return make_data(folder, {"train": 27, "valid": 10, "test": 6}, words=30)


def table_of(labels, width, seed=0):
    """Draw an embedding for each class up to the largest label."""
    count = int(labels.max()) + 1 if len(labels) else 1
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=random, dtype=torch.float64)


# The loss


def loop(features, labels, table, temperature, label_anchors):
    """Samples and embeddings in one list, Eq. 3 for each anchor; the sum."""
    phi = [unit(row) for row in [*features.tolist(), *table.tolist()]]
    y = [*labels.tolist(), *range(len(table))]
    anchors = len(y) if label_anchors == "all" else len(labels)
    total = 0.0
    for i in range(anchors):
        others = [k for k in range(len(y)) if k != i]
        positives = [j for j in others if y[j] == y[i]]
        denominator = sum(math.exp(dot(phi[i], phi[k]) / temperature) for k in others)
        for j in positives:
            share = math.exp(dot(phi[i], phi[j]) / temperature) / denominator
            total -= math.log(share) / len(positives)
    return total


@pytest.mark.parametrize("label_anchors", acl.LABEL_ANCHORS)
@given(batch=batches())
def test_a_label_embedding_is_a_sample_with_its_label(label_anchors, batch):
    features, labels = batch
    table = table_of(labels, features.shape[1])
    found = acl.label_embedding_loss(features, labels, table, 0.5, label_anchors)
    expected = loop(features, labels, table, 0.5, label_anchors)
    assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("label_anchors", acl.LABEL_ANCHORS)
@given(batch=batches())
def test_without_embeddings_it_is_the_contrastive_loss(label_anchors, batch):
    features, labels = batch
    none = features.new_empty(0, features.shape[1])
    found = acl.label_embedding_loss(features, labels, none, 0.3, label_anchors)
    assert torch.equal(found, supervised_contrastive_loss(features, labels, 0.3))


@pytest.mark.parametrize("label_anchors", acl.LABEL_ANCHORS)
def test_its_gradient_is_that_of_finite_differences(label_anchors):
    random = torch.Generator().manual_seed(0)
    features = torch.randn(5, 4, generator=random, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 2, 1])
    inputs = [features.requires_grad_(), table_of(labels, 4).requires_grad_()]
    assert torch.autograd.gradcheck(
        lambda x, e: acl.label_embedding_loss(x, labels, e, 0.5, label_anchors), inputs
    )


def test_a_single_sample_beside_its_label_has_a_positive():
    features, labels = torch.eye(2)[:1], torch.tensor([0])
    found = acl.label_embedding_loss(features, labels, torch.eye(2), 1.0, "samples")
    # Its own embedding at cosine 1, the other at 0.
    assert found.item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_wrong_arguments_are_named():
    features, labels = torch.ones(2, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"label embeddings must be \(K, 3\)"):
        acl.label_embedding_loss(features, labels, torch.ones(2, 4), 0.3)
    with pytest.raises(ValueError, match="label_anchors must be one of all, samples"):
        acl.label_embedding_loss(features, labels, torch.ones(2, 3), 0.3, "both")


# Gradients at the features


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_the_gradient_of_cross_entropy_is_autograds(dtype):
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 6, generator=random, dtype=torch.float64)
    features = torch.randn(7, 6, generator=random, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 2, 1, 0, 0])
    features.requires_grad_()
    logits = torch.tanh(features) @ weight.T
    F.cross_entropy(logits, labels, reduction="sum").backward()
    slope = 1 - torch.tanh(features.detach()).square()
    jacobian = weight[None] * slope[:, None]
    found = acl.cross_entropy_gradient(logits.to(dtype), labels, jacobian.to(dtype))
    within = 1e-9 if dtype == torch.float64 else 1e-2
    torch.testing.assert_close(found.double(), features.grad, atol=within, rtol=within)


@pytest.mark.parametrize(
    ("second", "conflict", "cosine"),
    [
        ([[3.0, 6.0]], False, 1.0),
        ([[-0.1, -0.2]], True, -1.0),
        ([[2.0, -1.0]], False, 0.0),
        ([[0.0, 0.0]], False, 0.0),
    ],
)
def test_a_negative_inner_product_is_a_conflict(second, conflict, cosine):
    products = acl.gradient_products(torch.tensor([[1.0, 2.0]]), torch.tensor(second))
    found = acl.gradient_conflict(products)
    assert found[0].item() is conflict
    assert found[1].item() == pytest.approx(cosine, abs=1e-6)


def test_products_of_parts_add_up():
    first, second = torch.randn(2, 8, 3, dtype=torch.float64)
    parts = zip(first.split([3, 5]), second.split([3, 5]), strict=True)
    torch.testing.assert_close(
        sum(acl.gradient_products(a, b) for a, b in parts),
        acl.gradient_products(first, second),
    )


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
    found = []
    for criterion in (toy.criterion, stock_criterion(toy)):
        toy.model.train().zero_grad()
        torch.manual_seed(3)
        loss = criterion(toy.model, toy.batch(16))[0]
        loss.backward()
        gradients = [p.grad for p in toy.model.parameters() if p.grad is not None]
        found.append((loss, gradients))
    (ours, of_ours), (stock, of_stock) = found
    assert torch.equal(ours, stock)
    assert all(torch.equal(a, b) for a, b in zip(of_ours, of_stock, strict=True))


def test_without_its_flags_it_is_the_contrastive_criterion(data):
    losses = []
    for criterion in ("sentence_prediction_acl", "sentence_prediction_scl"):
        toy = toy_model([data, "--criterion", criterion])
        torch.manual_seed(3)
        losses.append(toy.criterion(toy.model.train(), toy.batch(16)))
    assert torch.equal(losses[0][0], losses[1][0])
    assert losses[0][2].keys() == losses[1][2].keys()


@pytest.mark.parametrize("reduction", ["mean", "paper"])
@pytest.mark.parametrize("anchors", acl.LABEL_ANCHORS)
@pytest.mark.parametrize("features", ["cls", "pooled"])
def test_the_loss_is_that_with_label_embeddings(data, features, anchors, reduction):
    flags = [*EMBED, "--scl-features", features, "--acl-anchors", anchors]
    toy = build(data, 0, *flags, *OFF, "--scl-reduction", reduction)
    batch = toy.batch(SIZE)
    loss, size, log = toy.criterion(toy.model, batch)
    loss.backward()
    head = toy.model.classification_heads[HEAD]
    hidden, _ = toy.model(batch["net_input"]["src_tokens"], features_only=True)
    rows, table = hidden[:, 0], toy.criterion.label_embeddings
    if features == "pooled":
        rows = head.activation_fn(head.dense(rows))
        table = head.out_proj.weight
    labels = batch["target"].view(-1)
    scl = acl.label_embedding_loss(rows, labels, table, 0.3, anchors)
    ce = F.cross_entropy(head(hidden), labels)
    count = SIZE + 2 if anchors == "all" else SIZE
    weighted = scl if reduction == "paper" else scl / count
    torch.testing.assert_close(
        loss.double() / size, 0.1 * ce + 0.9 * weighted, rtol=1e-5, atol=0
    )
    assert table.grad.abs().max() > 0
    assert log["scl_anchors"] <= SIZE
    assert log["scl_floor"] <= log["scl_loss"] + 1e-6


def test_the_learned_table_leaves_the_draws_of_dropout_alone(data):
    states = []
    for flags in (ACL, EMBED):
        toy_model([data, *flags])
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def prepared(data, *flags):
    """Return a toy with ACL-Grad, without dropout, and a batch."""
    toy = build(data, 0, *GRAD, *OFF, *flags)
    return toy, toy.batch(SIZE)


@pytest.mark.parametrize("features", ["cls", "pooled"])
def test_the_cosine_is_that_of_both_gradients_at_the_features(data, features):
    for seed in range(4):
        toy, batch = prepared(data, "--scl-features", features)
        with torch.no_grad():
            random = torch.Generator().manual_seed(seed)
            order = torch.randperm(SIZE, generator=random)
            batch["target"] = batch["target"][order]
        loss, _, log = toy.criterion(toy.model, batch)
        head = toy.model.classification_heads[HEAD]
        hidden, _ = toy.model(batch["net_input"]["src_tokens"], features_only=True)
        rows, logits = hidden[:, 0].detach(), head
        table = toy.criterion.label_embeddings
        if features == "pooled":
            rows = head.activation_fn(head.dense(rows)).detach()
            table = head.out_proj.weight
        rows.requires_grad_()
        logits = head(rows[:, None]) if features == "cls" else head.out_proj(rows)
        labels = batch["target"].view(-1)
        ce = F.cross_entropy(logits, labels, reduction="sum")
        scl = acl.label_embedding_loss(rows, labels, table, 0.3)
        first, second = (torch.autograd.grad(term, rows)[0] for term in (ce, scl))
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
    toy, batch = prepared(data)
    labels = batch["target"].view(-1)
    for seed in range(5):
        random = torch.Generator().manual_seed(seed)
        features = torch.randn(SIZE, 6, generator=random).requires_grad_()
        term = supervised_contrastive_loss(features, labels, 0.3)
        (gradient,) = torch.autograd.grad(term, features, retain_graph=True)
        log = {}
        sample = {"gradient_of_cross_entropy": (features, sign * 0.01 * gradient)}
        found = toy.criterion.kept(term, toy.model, sample, log)
        found.backward()
        assert log["acl_conflicts"].item() == int(not kept)
        assert log["acl_cosine"].item() == pytest.approx(sign, abs=1e-5)
        assert found.item() == (term.item() if kept else 0)
        assert bool(features.grad.any()) is kept


def test_a_step_with_conflict_is_that_of_cross_entropy_alone(data, monkeypatch):
    toy, batch = prepared(data)
    monkeypatch.setattr(
        "fairseq_scl.criterions.sentence_prediction_acl.gradient_conflict",
        lambda products: (products[0] < math.inf, products[0]),
    )
    loss, _, log = toy.criterion(toy.model, batch)
    loss.backward()
    found = {n: p.grad for n, p in toy.model.named_parameters() if p.grad is not None}
    toy.model.zero_grad(set_to_none=True)
    ce = stock_criterion(toy)(toy.model, batch)[0] * (1 - 0.9)
    ce.backward()
    assert torch.equal(loss, ce)
    assert log["acl_conflicts"] == 1
    assert not toy.criterion.label_embeddings.grad.any()
    for name, parameter in toy.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-6, atol=0)


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
    gradients = [p.grad for p in toy.model.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


# Chunks


@pytest.mark.parametrize("flags", ["", "--packed", "--acl-anchors samples --packed"])
@pytest.mark.parametrize("features", ["cls", "pooled"])
def test_in_chunks_it_is_the_whole_batch(data, features, flags):
    toy = build(
        data,
        4,
        *["--dropout", "0.2", "--attention-dropout", "0.1", "--pooler-dropout", "0.3"],
        *[*GRAD, "--scl-features", features, "--scl-lambda", "0.7", *flags.split()],
    )
    toy.criterion.double()
    results = []
    for way in (step, lambda toy: with_graph(toy, 4)):
        toy.criterion.zero_grad()
        result = way(toy)
        own = {n: p.grad.clone() for n, p in toy.criterion.named_parameters()}
        results.append(({**result[0], **own}, *result[1:]))
    # CE goes through float32 in the stock criterion.
    assert_same(*results, within=1e-6)
    assert results[0][3]["acl_steps"] == 1
    assert ("label_embeddings" in results[0][0]) == (features == "cls")


# Workers


def decide_as_worker(folder, rank, workers, data):
    from test_gather import batch_of, join, numbers_of

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
            gradients = {
                **{n: p.grad for n, p in toy.model.named_parameters()},
                **{n: p.grad for n, p in toy.criterion.named_parameters()},
            }
            numbers = {key: float(value) for key, value in log.items()}
            found[features, bool(gathers)] = numbers, gradients
    torch.save(found, f"{folder}/found{rank}.pt")
    torch.distributed.destroy_process_group()


def test_workers_decide_together(data, tmp_path):
    from test_gather import batch_of

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
            parameters = dict(toy.model.named_parameters())
            parameters |= dict(toy.criterion.named_parameters())
            for name, parameter in parameters.items():
                if parameter.grad is not None:
                    torch.testing.assert_close(
                        *(first[name] + second[name], parameter.grad),
                        **{"rtol": 1e-5, "atol": 1e-6, "msg": name},
                    )


@pytest.mark.parametrize(
    ("features", "chunk"), [("cls", "0"), ("cls", "4"), ("pooled", "4")]
)
def test_two_workers_that_gather_train_as_one(data, features, chunk, tmp_path):
    flags = [*GRAD, "--scl-features", features, "--gather-features", "--chunk", chunk]
    for workers, size in ((1, 27), (2, 14)):
        done = train_together(
            *[data, tmp_path / str(workers), workers, *flags, "--pooler-dropout", "0"],
            *["--batch-size", "10", "--contrastive-batch", str(size)],
        )
        for process in done:
            assert process.returncode == 0, process.stderr[-3000:]
    one, two = (tmp_path / str(n) / "rank0" / "checkpoint_last.pt" for n in (1, 2))
    learned = [load_checkpoint(file)["criterion"] or {} for file in (one, two)]
    for first, second in ((weights_of(one.parent), weights_of(two.parent)), learned):
        for name, weight in first.items():
            torch.testing.assert_close(
                second[name], weight, atol=2e-4, rtol=1e-3, msg=name
            )


@pytest.mark.parametrize("gathers", [[], ["--gather-features"]])
def test_workers_with_unlike_numbers_of_batches_train_to_the_end(
    data, gathers, tmp_path
):
    """Three batches for two workers: one gets a filled-in batch in each epoch."""
    flags = [*GRAD, *gathers, "--contrastive-batch", "9", "--chunk", "4"]
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


# fairseq-train


@pytest.fixture(scope="module")
def restored(data, tmp_path_factory):
    """A checkpoint of the stock criterion, without what a criterion learned."""
    folder = tmp_path_factory.mktemp("restored")
    flags = ["--criterion", "sentence_prediction", "--max-update", "1"]
    done = train_fast([data, "--save-dir", folder, *flags])
    assert done.returncode == 0, done.stderr
    file = folder / "checkpoint_last.pt"
    state = load_checkpoint(file)
    del state["criterion"]
    torch.save(state, file)
    return file


RESET = ["--reset-optimizer", "--reset-dataloader", "--reset-meters"]


@pytest.fixture(scope="module")
def run(data, restored, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    flags = ["--restore-file", restored, *RESET, "--max-update", "13"]
    done = train_fast([data, "--save-dir", folder, *GRAD, *flags, "--max-epoch", "9"])
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_training_logs_what_was_decided(run):
    lines = [line for line in run[1].splitlines() if "| INFO | train | " in line]
    last = json.loads(lines[-1].rpartition("| ")[2])
    assert 0 <= float(last["train_acl_conflict"]) <= 1
    assert -1 <= float(last["train_acl_cosine"]) <= 1


def test_what_the_criterion_learned_is_no_part_of_the_classifier(run, restored, data):
    state = load_checkpoint(run[0] / "checkpoint_last.pt")
    assert {n: tuple(v.shape) for n, v in state["criterion"].items()} == {
        "label_embeddings": (2, 16)
    }
    assert state["model"].keys() == load_checkpoint(restored)["model"].keys()
    model = RobertaModel.from_pretrained(
        str(run[0]), "checkpoint_last.pt", str(data), bpe=None
    )
    assert model.predict(HEAD, torch.tensor([[0, 4, 2]])).shape == (1, 2)


def test_plain_fairseq_loads_the_checkpoint(restored, data, tmp_path):
    """By its own task, as every checkpoint names the task that it was trained with."""
    folder = tmp_path / "run"
    flags = ["--restore-file", restored, *RESET, "--max-update", "2"]
    done = train_fast([data, "--save-dir", folder, *EMBED, *flags])
    assert done.returncode == 0, done.stderr
    state = load_checkpoint(folder / "checkpoint_last.pt")
    state["cfg"]["task"]["_name"] = "sentence_prediction"
    torch.save(state, folder / "checkpoint_last.pt")
    (tmp_path / "predict.py").write_text(PREDICT)
    script = [tmp_path / "predict.py", folder, "checkpoint_last.pt", data]
    done = subprocess.run(
        [sys.executable, *script, tmp_path / "result.pt"],
        env={"PATH": "", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_resumed_run_ends_as_an_uninterrupted_one(run, data, restored, tmp_path):
    flags = ["--restore-file", restored, *RESET, "--max-update", "7"]
    for more in (flags, ["--max-update", "13"]):
        done = train_fast(
            [data, "--save-dir", tmp_path, *GRAD, *more, "--max-epoch", "9"]
        )
        assert done.returncode == 0, done.stderr
    files = [folder / "checkpoint_last.pt" for folder in (run[0], tmp_path)]
    assert_same_weights(*files)
    tables = [load_checkpoint(file)["criterion"]["label_embeddings"] for file in files]
    assert torch.equal(*tables)


def test_another_number_of_classes_starts_anew_and_says_so(run, tmp_path, caplog):
    three = make_data(tmp_path / "bin", classes=3)
    toy = toy_model([three, "--num-classes", "3", *EMBED])
    before = toy.criterion.label_embeddings.clone()
    learned = load_checkpoint(run[0] / "checkpoint_last.pt")["criterion"]
    toy.criterion.load_state_dict(learned, strict=True)
    assert torch.equal(toy.criterion.label_embeddings, before)
    assert "starts anew: the checkpoint has label_embeddings (2, 16)" in caplog.text


def test_fp16_trains_on_a_cpu(data, tmp_path):
    flags = ["--fp16", "--memory-efficient-fp16", "--fp16-init-scale", "4"]
    done = train_fast([data, "--save-dir", tmp_path, *GRAD, *flags])
    assert done.returncode == 0, done.stderr


def test_hydra_trains_with_it(data, restored, tmp_path):
    from test_train import CONFIGURATIONS

    written = (CONFIGURATIONS / "sentence_prediction_scl.yaml").read_text()
    written = written.replace(
        "criterion:\n  _name: sentence_prediction_scl\n",
        "criterion:\n  _name: sentence_prediction_acl\n  acl_embed: true\n"
        "  acl_anchors: all\n  acl_embed_std: 0.02\n  acl_grad: true\n"
        "  gather_features: false\n",
    )
    (tmp_path / "acl.yaml").write_text(written)
    arguments = hydra_arguments(data, tmp_path, f"checkpoint.restore_file={restored}")
    arguments[1], arguments[3] = str(tmp_path), "acl"
    done = run_fast("fairseq_cli.hydra_train", arguments)
    assert done.returncode == 0, done.stderr
    state = load_checkpoint(tmp_path / "checkpoint_last.pt")
    assert state["cfg"]["criterion"]["acl_embed"] is True
    assert "label_embeddings" in state["criterion"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--acl-anchors", "both"], "--acl-anchors is 'both': it must be one of all"),
        (["--acl-embed-std", "0"], "--acl-embed-std is 0.0: it must be above 0"),
        (
            ["--acl-grad", "--scl-lambda", "1"],
            "--acl-grad does not go with --scl-lambda 1",
        ),
        (
            ["--task", "sentence_prediction"],
            "--criterion sentence_prediction_acl needs --task sentence_prediction_scl",
        ),
        (["--scl-lambda", "2"], "--scl-lambda is 2.0: it must be from 0 to 1"),
    ],
)
def test_refusals(data, flags, message):
    with pytest.raises(InputError) as refusal:
        toy_model([data, *ACL, *flags])
    assert message in str(refusal.value)
