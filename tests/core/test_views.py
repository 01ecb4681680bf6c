"""``--scl-views``: Eq. 4 over two views of each training example, all else the same."""

import math

import pytest
import torch
from fairseq.data import Dictionary

from fairseq_scl.criterions.sentence_prediction_scl import (
    SentencePredictionSCLCriterion,
)
from fairseq_scl.errors import InputError
from fairseq_scl.losses import supervised_contrastive_loss
from fairseq_scl.packing.encoder import LENGTHS
from fairseq_scl.tasks.views import WITH_VIEWS
from helpers.gradients import OFF, assert_is_stock, gradients, stock_criterion
from helpers.refusals import refused
from helpers.training import (
    draw_weights,
    make_data,
    toy_model,
    trained_checkpoint,
    write_rows,
)
from helpers.views import add_views

HEAD = "sentence_classification_head"
SIZES = {"train": 24, "valid": 8, "test": 8}
DATA = {"sizes": SIZES, "words": None}
ON = ["--scl-views"]


@pytest.fixture(scope="module")
def data(data):
    """Both views differ from the example and from each other."""
    return add_views(data, lambda ids, view: ids[view + 1 :] or ids)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A folder of pairs whose views are the examples themselves."""
    folder = tmp_path_factory.mktemp("pairs") / "bin"
    return add_views(make_data(folder, SIZES, pairs=True), lambda ids, view: ids)


def build(data, *flags):
    toy = toy_model([data, *flags])
    draw_weights(toy.model)
    toy.model.train()
    return toy


def slow_loop(first, second, tau):
    """Eq. 4, transcribed: 2N views, each with the other view of its example."""
    views = [v / v.norm() for v in (*first, *second)]
    count, total = len(first), 0.0
    for i in range(2 * count):
        j = (i + count) % (2 * count)
        below = sum(
            math.exp(float(views[i] @ views[k]) / tau)
            for k in range(2 * count)
            if k != i
        )
        total += -math.log(math.exp(float(views[i] @ views[j]) / tau) / below)
    return total


def features_of(toy, tokens):
    """The final hidden state at <s>, by stock means."""
    return toy.model(tokens, features_only=True)[0][:, 0].detach().double()


@pytest.mark.parametrize("reduction", ["mean", "paper"])
def test_the_loss_is_cross_entropy_and_equation_4(data, reduction):
    flags = [*OFF, "--scl-lambda", "0.7", "--scl-temperature", "0.5"]
    toy = build(data, *ON, *flags, "--scl-reduction", reduction)
    batch = toy.batch(6)
    loss, size, log = toy.criterion(toy.model, batch)
    stock = stock_criterion(toy)
    ce = stock(toy.model, batch)[0].item()
    _, first, second = features_of(toy, batch[WITH_VIEWS]["src_tokens"]).split(6)
    expected = slow_loop(first, second, 0.5)
    weight = 6 if reduction == "paper" else 1 / 2
    assert size == 6
    assert loss.item() == pytest.approx(0.3 * ce + 0.7 * weight * expected, rel=1e-5)
    assert log["loss"] == loss
    assert log["ce_loss"].item() == pytest.approx(ce, rel=1e-5)
    # Divided by N, the loss of one anchor; and not below its floor.
    assert log["scl_loss"].item() == pytest.approx(expected / 2, rel=1e-5)
    floor = math.log(1 + 10 * math.exp(-2 / 0.5))
    assert log["scl_floor"].item() == pytest.approx(6 * floor, rel=1e-5)
    assert log["scl_anchors"] == 6


def test_cross_entropy_has_its_gradient_from_the_example_alone(data):
    toy = build(data, *ON, *OFF, "--scl-lambda", "0.5")
    head = toy.model.classification_heads[HEAD].out_proj.weight
    batch = toy.batch(6)
    toy.criterion(toy.model, batch)[0].backward()
    found = head.grad.clone()
    toy.model.zero_grad()
    stock = stock_criterion(toy)
    (0.5 * stock(toy.model, batch)[0]).backward()
    assert torch.allclose(found, head.grad, atol=1e-6)


def test_lambda_zero_is_the_stock_criterion_bit_for_bit(data):
    toy = build(data, *ON, "--scl-lambda", "0")  # with dropout
    assert_is_stock(toy, toy.batch(6))


def test_validation_is_cross_entropy_and_logs_equation_3(data):
    toy = build(data, *ON, *OFF)
    toy.model.eval()
    batch = toy.batch(8, "valid")
    assert WITH_VIEWS not in batch
    loss, _, log = toy.criterion(toy.model, batch)
    assert log["loss"] == loss == log["ce_loss"]
    features = features_of(toy, batch["net_input"]["src_tokens"])
    labels = batch["target"].view(-1)
    expected = supervised_contrastive_loss(features, labels, 0.3)
    assert log["scl_loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_each_view_comes_from_its_own_folder(data):
    rows = build(data, *ON).batch(6)[WITH_VIEWS]["src_tokens"].split(6)
    examples, *views = ([row[row != 1][1:-1].tolist() for row in part] for part in rows)
    for number, found in enumerate(views):
        assert found == [words[number + 1 :] or words for words in examples]


@pytest.mark.parametrize("flags", [[], ["--separator-token", "2"]])
def test_a_view_is_joined_as_its_example_is(pairs, flags):
    """Views that are the examples give their very rows."""
    batch = build(pairs, *ON, *flags).batch(5)
    for rows in batch[WITH_VIEWS]["src_tokens"].split(5):
        assert torch.equal(rows, batch["net_input"]["src_tokens"])
    lengths = batch["net_input"]["src_lengths"]
    assert torch.equal(batch[WITH_VIEWS]["src_lengths"], lengths.repeat(3))


def test_long_views_are_cut_as_examples_are(pairs):
    flags = ["--shorten-method", "truncate", "--max-positions", "6"]
    batch = build(pairs, *ON, *flags).batch(5)
    assert batch[WITH_VIEWS]["src_tokens"].shape[1] == 6


def test_long_views_that_are_not_cut_are_refused(tmp_path):
    folder = add_views(make_data(tmp_path / "bin"), lambda ids, view: ids * 40)
    with pytest.raises(
        InputError, match=r"view0/input0/train, line 1: \d+ tokens, but"
    ):
        toy_model([folder, *ON]).task.load_dataset("train")


@pytest.mark.parametrize("batching", ["fixed", "balanced"])
@pytest.mark.parametrize("flags", [[], ["--no-shuffle"]])
def test_batches_and_their_examples_stay_the_same(data, batching, flags):
    with_views, without = (
        build(data, "--batching", batching, *flags, *more) for more in (ON, [])
    )
    for toy in (with_views, without):
        toy.task.load_dataset("train")
    ours, plain = (toy.task.dataset("train") for toy in (with_views, without))
    assert ours.ordered_indices().tolist() == plain.ordered_indices().tolist()
    batch, stock = with_views.batch(8), without.batch(8)
    assert WITH_VIEWS not in stock
    for key in ("id", "target", "ntokens"):
        assert torch.equal(torch.as_tensor(batch[key]), torch.as_tensor(stock[key]))
    tokens = [b["net_input"]["src_tokens"] for b in (batch, stock)]
    assert torch.equal(*tokens)


def test_packed_gives_the_same(data):
    found = []
    for flags in ([], ["--packed"]):
        toy = build(data, *ON, *OFF, *flags)
        batch = toy.batch(7)
        assert (LENGTHS in batch[WITH_VIEWS]) == bool(flags)
        toy.model.zero_grad()
        loss, _, log = toy.criterion(toy.model, batch)
        loss.backward()
        found.append((loss, log["scl_loss"], gradients(toy.model)))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-4)


def test_a_folder_without_views_is_refused(tmp_path):
    folder = make_data(tmp_path / "bin")
    toy = toy_model([folder, *ON])
    toy.task.load_dataset("valid")
    with pytest.raises(InputError, match="needs two views of each example"):
        toy.task.load_dataset("train")
    toy_model([folder]).task.load_dataset("train")  # off by default


def test_a_training_set_may_have_a_dot_in_its_name(tmp_path):
    folder = add_views(make_data(tmp_path / "bin"))
    for file in folder.rglob("train.*"):
        file.rename(file.with_name(file.name.replace("train", "train.en")))
    toy_model([folder, *ON, "--train-subset", "train.en"]).task.load_dataset("train.en")


def test_views_of_fewer_examples_are_refused(tmp_path):
    folder = add_views(make_data(tmp_path / "bin"))
    dictionary = Dictionary.load(str(folder / "input0" / "dict.txt"))
    write_rows(folder / "view1" / "input0" / "train", [[4]], dictionary)
    with pytest.raises(InputError, match="has 1 lines, but train has 20"):
        toy_model([folder, *ON]).task.load_dataset("train")


def test_subclasses_of_the_criterion_refuse_views(data):
    class Other(SentencePredictionSCLCriterion):
        pass

    toy = toy_model([data])
    toy.criterion.__class__ = Other
    with refused("--criterion sentence_prediction_scl, not Other"):
        toy.with_settings(scl_views=True)


def test_training_runs_to_its_end(data, tmp_path):
    flags = ["--contrastive-batch", "6", "--batching", "balanced", "--packed"]
    metrics = tmp_path / "metrics.jsonl"
    trained_checkpoint(data, tmp_path / "out", *ON, *flags, "--metrics-file", metrics)
    assert '"scl_loss"' in metrics.read_text("utf-8")
