"""The multi-exit encoder, its criterion and the cross-layer contrast."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from fairseq.logging import metrics

from fairseq_scl.losses import supervised_contrastive_loss
from fairseq_scl.models.exits import exits_of
from fairseq_scl.objectives.multi_exit.loss import cross_layer_contrastive_loss
from fairseq_scl.objectives.multi_exit.roberta_multi_exit import (
    EXIT_FEATURES,
    EXIT_LOGITS,
    parse_exit_layers,
)
from fairseq_scl.packing.encoder import pack
from helpers.gradients import OFF, PlainOptimizer, gradients
from helpers.refusals import refused
from helpers.training import draw_weights, toy_model

HEAD = "sentence_classification_head"
LAYERS = 4
MULTI = [
    *["--arch", "roberta_multi_exit", "--encoder-layers", str(LAYERS)],
    *["--criterion", "sentence_prediction_multi_exit"],
]


@pytest.fixture(scope="module")
def plain(data):
    """Built once, for tests that do not change it."""
    return toy_model([data, *MULTI])


def build(data, *flags):
    """Build a model in training mode."""
    toy = toy_model([data, *flags])
    draw_weights(toy.model.encoder)
    toy.model.train()
    return toy


def backward(criterion, model, batch):
    model.zero_grad(set_to_none=True)
    torch.manual_seed(3)
    output = criterion(model, batch)
    output[0].backward()
    return output, gradients(model)


def assert_equal(first, second):
    torch.testing.assert_close(first, second, rtol=0, atol=0)


# The model


@pytest.mark.parametrize(
    ("arch", "stock"),
    [
        ("roberta_multi_exit", "roberta_base"),
        ("roberta_multi_exit_base", "roberta_base"),
        ("roberta_multi_exit_bert", "roberta_bert"),
    ],
)
@pytest.mark.parametrize("flags", ["", "--packed"])
def test_one_exit_at_the_top_is_the_stock_model(data, arch, stock, flags):
    """Bit for bit, with dropout, weights of the head included."""
    found = []
    for own in (
        ["--arch", arch, "--exit-layers", "2", *MULTI[4:]],
        ["--arch", stock, "--scl-lambda", "0"],
    ):
        toy = build(data, *own, *flags.split())
        output, gradient = backward(toy.criterion, toy.model, toy.batch(8))
        torch.manual_seed(4)
        logits, _ = toy.model(
            **toy.batch(8)["net_input"], classification_head_name=HEAD
        )
        found.append((output, gradient, logits))
    first, second = found
    assert torch.equal(first[0][0], second[0][0])
    assert first[0][1:] == second[0][1:]
    assert_equal(first[1], second[1])
    assert torch.equal(first[2], second[2])


def test_the_top_head_starts_as_that_of_the_stock_model(data):
    shape = ["--encoder-layers", str(LAYERS)]
    ours = toy_model([data, *MULTI], seed=5).model.state_dict()
    stock = toy_model([data, *shape], seed=5).model.state_dict()
    assert_equal(stock, {name: ours[name] for name in stock})
    more = {name.split(".")[1] for name in ours.keys() - stock.keys()}
    assert more == {f"{HEAD}_exit{layer}" for layer in (1, 2, 3)}


@pytest.mark.parametrize(
    ("value", "layers"),
    [("all", (1, 2, 3, 4)), ("2", (2, 4)), ("3, 1,3", (1, 3, 4)), (4, (4,))],
)
def test_the_top_layer_always_has_an_exit(value, layers):
    assert parse_exit_layers(value, 4) == layers


@pytest.mark.parametrize("value", ["0", "5", "two", "", "1,,2", "-1", "1.5"])
def test_other_exit_layers_are_refused(value):
    with refused(f"--exit-layers is {value!r}", "numbers from 1 to 4"):
        parse_exit_layers(value, 4)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--encoder-layerdrop 0.1", "--encoder-layerdrop cannot be combined with"),
        ("--encoder-normalize-before", "--encoder-normalize-before cannot"),
        ("--exit-layers 2,5", "--exit-layers is '2,5'"),
        ("--exit-pooling max", "--exit-pooling is 'max'"),
        ("--layer-norm-eps 0", "--layer-norm-eps is 0.0"),
    ],
)
def test_what_does_not_go_with_exits_is_refused(data, flags, words):
    with refused(words):
        toy_model([data, *MULTI, *flags.split()])


@pytest.mark.parametrize("kind", ["cls", "pooled"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("packed", [False, True])
def test_each_exit_reads_its_own_layer(data, kind, pooling, packed):
    toy = build(data, *MULTI, *OFF, "--exit-layers", "1,3", "--exit-pooling", pooling)
    batch = toy.batch(8)["net_input"]
    tokens = batch["src_tokens"]
    states = toy.model(tokens, features_only=True, return_all_hiddens=True)[1]
    real = tokens.ne(1)
    assert not real.all()
    model = pack(copy.deepcopy(toy.model)) if packed else toy.model
    top, extra = model(**batch, classification_head_name=HEAD, exits=kind)
    assert torch.equal(top, extra[EXIT_LOGITS][:, -1])
    names = {1: f"{HEAD}_exit1", 3: f"{HEAD}_exit3", 4: HEAD}
    for place, (layer, name) in enumerate(names.items()):
        state = states["inner_states"][layer].transpose(0, 1)
        read = state[:, 0]
        if pooling == "mean" and layer < LAYERS:
            rows = zip(state, real, strict=True)
            read = torch.stack([row[kept].mean(0) for row, kept in rows])
        head = toy.model.classification_heads[name]
        features = head.activation_fn(head.dense(read)) if kind == "pooled" else read
        for found, wanted in (
            (extra[EXIT_LOGITS], head(read[:, None])),
            (extra[EXIT_FEATURES], features),
        ):
            torch.testing.assert_close(found[:, place], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_gradients_are_the_same_when_packed(data, pooling):
    flags = [*MULTI, *OFF, "--exit-pooling", pooling, "--acl-cl", "0.5"]
    toy = build(data, *flags)
    model = pack(copy.deepcopy(toy.model))
    batch = toy.batch(8)
    _, stock = backward(toy.criterion, toy.model, batch)
    _, packed = backward(toy.criterion, model, batch)
    torch.testing.assert_close(stock, packed, rtol=1e-3, atol=1e-4)


def test_weights_of_a_published_encoder_load(data):
    """A checkpoint of the stock model, without heads, as fairseq restores it."""
    stock = toy_model([data, "--encoder-layers", str(LAYERS)], seed=7).model
    ours = toy_model([data, *MULTI], seed=8).model
    state = {n: t for n, t in stock.state_dict().items() if "heads" not in n}
    ours.load_state_dict(dict(state), strict=True)
    assert_equal(state, {name: ours.state_dict()[name] for name in state})


def test_other_calls_are_those_of_the_stock_model(data):
    toy = build(data, *MULTI, *OFF)
    stock = build(data, "--encoder-layers", str(LAYERS), *OFF)
    tokens = toy.batch(8)["net_input"]["src_tokens"]
    for arguments in ({}, {"features_only": True}, {"classification_head_name": HEAD}):
        found, wanted = (t.model(tokens, **arguments)[0] for t in (toy, stock))
        assert torch.equal(found, wanted)


def test_names_of_other_heads_are_not_exits():
    heads = [HEAD, f"{HEAD}_exit2", "other_exit1", "rte", f"{HEAD}_exit10"]
    found = {2: f"{HEAD}_exit2", 10: f"{HEAD}_exit10", 12: HEAD}
    names = [f"classification_heads.{head}.dense.weight" for head in heads]
    names += [f"encoder.sentence_encoder.layers.{n}.fc1.weight" for n in range(12)]
    assert exits_of(names, HEAD) == found
    assert list(exits_of(names, HEAD)) == [2, 10, 12]


# The criterion


def parts_of(toy, batch, kind="cls"):
    """CE and features of each exit, by the model's own heads; dropout must be off."""
    _, extra = toy.model(
        **batch["net_input"], classification_head_name=HEAD, exits=kind
    )
    labels = batch["target"].view(-1)
    logits, features = extra[EXIT_LOGITS], extra[EXIT_FEATURES]
    ce = [
        F.cross_entropy(logits[:, exit], labels, reduction="sum")
        for exit in range(logits.shape[1])
    ]
    return ce, features, labels


@pytest.mark.parametrize(
    ("given", "weights", "kind", "own"),
    [
        ("equal", [1, 1, 1], "cls", "positive"),
        ("depth", [0.25, 0.5, 0.75], "cls", "out"),
        ("0.2,0,3", [0.2, 0, 3], "pooled", "positive"),
    ],
)
def test_the_loss_is_the_weighted_sum_over_the_exits(data, given, weights, kind, own):
    toy = build(data, *MULTI, *OFF)
    batch = toy.batch(8)
    tau = 0.5
    settings = {"scl_lambda": 0.3, "scl_temperature": tau, "scl_features": kind}
    settings |= {"exit_weights": given, "acl_cl": 0.7, "acl_cl_own": own}
    criterion = toy.with_settings(**settings)
    loss, size, log = criterion(toy.model, batch)
    ce, features, labels = parts_of(toy, batch, kind)
    top = features[:, -1]
    cross = [loop(features[:, e], top, labels, tau, own=own) for e in range(3)]
    wanted = 0.7 * ce[-1] + 0.3 * supervised_contrastive_loss(top, labels, tau)
    for weight, one, guided in zip(weights, ce, cross, strict=False):
        wanted = wanted + weight * (0.7 * one + 0.7 * guided)
    torch.testing.assert_close(loss, wanted)
    assert size == 8
    assert log["loss"] == loss
    assert log["ce_loss"] == ce[-1]
    for layer in (1, 2, 3):
        torch.testing.assert_close(log[f"ce_loss_exit{layer}"], ce[layer - 1].data)
    torch.testing.assert_close(log["acl_cl_loss"], (sum(cross) / 3).detach())


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("acl_cl", -0.1, "at least 0"),
        ("acl_cl", math.nan, "at least 0"),
        ("acl_cl_own", "no", "positive, out"),
        ("exit_weights", "1,x", "equal or depth, or numbers from 0"),
        ("exit_weights", "-1,1,1", "equal or depth, or numbers from 0"),
        ("scl_lambda", 2, "<= 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(plain, name, value, allowed):
    with refused(f"--{name.replace('_', '-')}", value, allowed):
        plain.with_settings(**{name: value})


def test_weights_for_another_number_of_exits_are_refused(plain):
    criterion = plain.with_settings(exit_weights="1,2")
    with refused("--exit-weights has 2 numbers, but there are 3 exits below the top"):
        criterion(plain.model, plain.batch(4))


def test_another_model_is_refused(data):
    toy = toy_model([data, "--criterion", "sentence_prediction_multi_exit"])
    with refused("multi_exit needs --arch roberta_multi_exit, not RobertaModel"):
        toy.criterion(toy.model, toy.batch(4))


def test_guides_get_no_gradient(data):
    """Only shallow exits move: neither the layers above them nor the top's head."""
    toy = build(data, *MULTI, *OFF, "--exit-layers", "1,2", "--exit-weights", "1,1")
    batch = toy.batch(8)
    _, without = backward(toy.with_settings(), toy.model, batch)
    _, found = backward(toy.with_settings(acl_cl=1.0), toy.model, batch)
    moved = {n for n, g in found.items() if not torch.equal(g, without[n])}
    assert any(".layers.0." in name for name in moved)
    assert any(".layers.1." in name for name in moved)
    assert not any(".layers.2." in name or ".layers.3." in name for name in moved)
    assert not any("classification_heads" in name for name in moved)


def test_metrics_of_each_exit_are_exact(data):
    toy = build(data, *MULTI, *OFF, "--acl-cl", "1")
    logs = [toy.criterion(toy.model, toy.batch(size))[2] for size in (8, 3)]
    with metrics.aggregate() as found:
        toy.criterion.reduce_metrics(logs)
    values = found.get_smoothed_values()
    for layer in (1, 2, 3):
        total = sum(log[f"ncorrect_exit{layer}"] for log in logs)
        assert found[f"n_correct_exit{layer}"].sum == total
        mean = sum(log[f"ce_loss_exit{layer}"] for log in logs) / 11
        assert values[f"ce_loss_exit{layer}"] == pytest.approx(float(mean), abs=1e-4)
    mean = float(sum(log["acl_cl_loss"] for log in logs) / 11)
    assert values["acl_cl_loss"] == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize("flags", ["", "--packed --exit-pooling mean"])
def test_gradient_caching_gives_the_plain_batch(data, flags):
    found = []
    for chunk in ("5", "0"):
        more = ["--contrastive-batch", "16", "--chunk", chunk, *flags.split()]
        toy = build(data, *MULTI, *OFF, "--acl-cl", "1", "--scl-lambda", "0.5", *more)
        loss, *_ = toy.task.train_step(
            toy.batch(16), toy.model, toy.criterion, PlainOptimizer(), 0
        )
        found.append((loss.detach(), gradients(toy.model)))
    (loss, cached), (wanted, plain) = found
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=0)
    torch.testing.assert_close(cached, plain, rtol=1e-3, atol=1e-4)


def test_guides_of_all_workers_are_gathered(data, monkeypatch):
    toy = build(data, *MULTI, *OFF, "--acl-cl", "1", "--gather-features")
    batch = toy.batch(8)
    _, features, labels = parts_of(toy, batch)
    torch.manual_seed(0)
    others, their_labels = torch.randn(3, 16), torch.tensor([0, 1, 1])

    def gather(rows, classes, _):
        return torch.cat([rows, others]), torch.cat([classes, their_labels])

    gathers = "fairseq_scl.large_batch.gather.gather_features"
    monkeypatch.setattr(gathers, gather)
    log = toy.criterion(toy.model, batch)[2]
    guides, classes = gather(features[:, -1], labels, None)
    sums = [
        loop(features[:, e], guides, labels, toy.criterion.scl_temperature, classes)
        for e in range(3)
    ]
    torch.testing.assert_close(log["acl_cl_loss"], (sum(sums) / 3).detach())


# The cross-layer contrast


def loop(anchors, guides, labels, tau, guide_labels=None, own="positive"):
    """Transcribe the docstring, slowly."""
    guide_labels = labels if guide_labels is None else guide_labels
    total = anchors.new_zeros(())
    for i in range(len(anchors)):
        candidates = [k for k in range(len(guides)) if own == "positive" or k != i]
        same = [k for k in candidates if guide_labels[k] == labels[i]]
        dots = {
            k: F.cosine_similarity(anchors[i], guides[k].detach(), dim=0) / tau
            for k in candidates
        }
        z = sum(dot.exp() for dot in dots.values())
        terms = [-(dots[k].exp() / z).log() for k in same]
        if terms:
            total = total + sum(terms) / len(terms)
    return total


def rows(n, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, generator=random, dtype=torch.float64)


@pytest.mark.parametrize("own", ["positive", "out"])
@pytest.mark.parametrize("tau", [0.1, 1.0])
@pytest.mark.parametrize("labels", [[0, 1, 0, 2, 1, 0, 0], [0, 1, 2, 3, 4, 5, 6]])
def test_the_cross_layer_loss_is_the_loop(own, tau, labels):
    anchors, guides, labels = rows(5), rows(7, 1), torch.tensor(labels)
    found = cross_layer_contrastive_loss(
        anchors, guides, labels[:5], tau, own, guide_labels=labels
    )
    wanted = loop(anchors, guides, labels[:5], tau, labels, own)
    torch.testing.assert_close(found, wanted)


def test_one_anchor_has_the_loss_of_equation_3():
    """With the guides as the rest of its batch."""
    anchors, guides, labels = rows(6), rows(6, 1), torch.tensor([0, 1, 1, 0, 2, 1])
    for i in range(6):
        anchor, label = anchors[i : i + 1], labels[i : i + 1]
        found = cross_layer_contrastive_loss(
            anchor, guides, label, 0.3, guide_labels=labels
        )
        batch, classes = torch.cat([anchor, guides]), torch.cat([label, labels])
        wanted = supervised_contrastive_loss(batch, classes, 0.3, anchors=1)
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("own", ["positive", "out"])
def test_the_cross_layer_gradient_is_right_and_the_guides_have_none(own):
    anchors = rows(4).requires_grad_()
    guides, labels = rows(4, 1).requires_grad_(), torch.tensor([0, 1, 0, 2])
    assert torch.autograd.gradcheck(
        lambda x: cross_layer_contrastive_loss(x, guides, labels, 0.5, own), [anchors]
    )
    cross_layer_contrastive_loss(anchors, guides, labels, 0.5, own).backward()
    assert guides.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_an_anchor_without_a_positive_gives_0_and_a_gradient_of_0(dtype):
    for count in (0, 1, 3):
        anchors = rows(count).to(dtype).requires_grad_()
        labels = torch.arange(count)
        loss = cross_layer_contrastive_loss(anchors, rows(count), labels, 0.1, "out")
        loss.backward()
        assert loss == 0
        assert loss.dtype == torch.float32
        assert not anchors.grad.any()


def test_scale_of_features_does_not_matter():
    anchors, guides, labels = rows(5), rows(5, 1), torch.tensor([0, 1, 0, 1, 0])
    plain = cross_layer_contrastive_loss(anchors, guides, labels, 0.3)
    for scale in (1e-150, 1e150):
        scaled = cross_layer_contrastive_loss(anchors * scale, guides, labels, 0.3)
        torch.testing.assert_close(scaled, plain)
    zeros = torch.zeros(5, 6, requires_grad=True)
    loss = cross_layer_contrastive_loss(zeros, guides, labels, 0.3)
    loss.backward()
    assert loss.item() == pytest.approx(5 * math.log(5))
    assert zeros.grad.abs().max() < 10  # as for a feature of length 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((rows(3), rows(2), torch.zeros(3, dtype=int)), "labels must be"),
        ((rows(3), rows(3)[:, :2], torch.zeros(3, dtype=int)), "guides must be"),
        ((rows(3), rows(3), torch.zeros(3)), "labels must be integers"),
    ],
)
def test_wrong_tensors_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        cross_layer_contrastive_loss(*arguments, 0.3)
    with pytest.raises(ValueError, match="own must be one of positive, out"):
        cross_layer_contrastive_loss(rows(2), rows(2), torch.zeros(2, dtype=int), 1, "")
