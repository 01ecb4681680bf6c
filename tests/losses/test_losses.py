"""Equations 3 and 4: a slow loop as oracle, identities, known values, edge cases."""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairseq_scl.losses import (
    self_supervised_contrastive_loss,
    supervised_contrastive_floor,
    supervised_contrastive_loss,
)
from helpers.losses import batches, dot, unit

TEMPERATURES = st.floats(0.02, 10.0)
EIGHT_AND_EIGHT = torch.tensor([0] * 8 + [1] * 8)


def loop_eq_3(features, labels, temperature):
    """Eq. 3 as printed, one anchor i after the other; a list of N numbers."""
    phi = [unit(row) for row in features.tolist()]
    y = labels.tolist()
    losses = []
    for i in range(len(y)):
        same_label = sum(1 for j in range(len(y)) if y[j] == y[i])
        total = 0.0
        for j in range(len(y)):
            if j != i and y[i] == y[j]:
                denominator = sum(
                    math.exp(dot(phi[i], phi[k]) / temperature)
                    for k in range(len(y))
                    if k != i
                )
                total += -math.log(
                    math.exp(dot(phi[i], phi[j]) / temperature) / denominator
                )
        losses.append(total / (same_label - 1) if same_label > 1 else 0.0)
    return losses


def loop_eq_4(first, second, temperature):
    """Eq. 4 with views 2i - 1 and 2i of example i side by side; the sum."""
    views = []
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        views += [unit(a), unit(b)]
    total = 0.0
    for i in range(len(views)):
        partner = i + 1 if i % 2 == 0 else i - 1
        denominator = sum(
            math.exp(dot(views[i], views[k]) / temperature)
            for k in range(len(views))
            if k != i
        )
        positive = math.exp(dot(views[i], views[partner]) / temperature)
        total += -math.log(positive / denominator)
    return total


# Identities


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@given(batch=batches(), temperature=TEMPERATURES)
def test_eq_3_equals_the_slow_loop(batch, temperature, dtype):
    features, labels = batch[0].to(dtype), batch[1]
    found = supervised_contrastive_loss(features, labels, temperature, "none")
    assert found.dtype == dtype
    expected = loop_eq_3(features.double(), labels, temperature)
    exact = {"rel": 1e-9, "abs": 1e-9}
    single = {"abs": 3e-6 + 2e-6 / temperature}
    tolerance = exact if dtype == torch.float64 else single
    assert found.tolist() == pytest.approx(expected, **tolerance)


@given(batches(), TEMPERATURES, st.integers(0, 2**31))
def test_eq_4_equals_the_slow_loop(batch, temperature, seed):
    first, _ = batch
    random = torch.Generator().manual_seed(seed)
    second = first + torch.randn(first.shape, generator=random, dtype=torch.float64)
    found = self_supervised_contrastive_loss(first, second, temperature)
    expected = loop_eq_4(first, second, temperature)
    assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(batches(least=1), TEMPERATURES)
def test_n_times_mean_is_sum_is_the_sum_of_none(batch, temperature):
    features, labels = batch
    for function in (
        lambda *how: supervised_contrastive_loss(features, labels, temperature, *how),
        lambda *how: self_supervised_contrastive_loss(
            features, features.flip(0), temperature, *how
        ),
        lambda *how: supervised_contrastive_floor(labels, temperature, *how),
    ):
        each = function("none")
        assert each.dim() == 1
        torch.testing.assert_close(function("sum"), each.sum())
        assert function() == function("sum")
        torch.testing.assert_close(function("mean") * len(each), each.sum())


@given(batches(least=2), TEMPERATURES, st.randoms(use_true_random=False))
def test_the_order_of_examples_does_not_matter(batch, temperature, random):
    features, labels = batch
    order = list(range(len(labels)))
    random.shuffle(order)
    before = supervised_contrastive_loss(features, labels, temperature, "none")
    after = supervised_contrastive_loss(
        features[order], labels[order], temperature, "none"
    )
    torch.testing.assert_close(after, before[order])


@given(batches(), TEMPERATURES, st.integers(-5, 5))
def test_names_of_classes_do_not_matter(batch, temperature, shift):
    features, labels = batch
    renamed = 7 * (3 - labels) + shift
    torch.testing.assert_close(
        supervised_contrastive_loss(features, renamed, temperature),
        supervised_contrastive_loss(features, labels, temperature),
    )


@given(batches(least=1), TEMPERATURES, st.integers(0, 2**31))
def test_the_lengths_of_features_do_not_matter(batch, temperature, seed):
    features, labels = batch
    random = torch.Generator().manual_seed(seed)
    scale = torch.rand(len(labels), 1, generator=random, dtype=torch.float64) + 1e-3
    torch.testing.assert_close(
        supervised_contrastive_loss(features * scale, labels, temperature),
        supervised_contrastive_loss(features, labels, temperature),
    )


@given(batches(), TEMPERATURES)
def test_floor_is_a_lower_bound(batch, temperature):
    features, labels = batch
    found = supervised_contrastive_loss(features, labels, temperature, "none")
    floor = supervised_contrastive_floor(labels, temperature, "none")
    assert (found >= floor - 1e-5).all()


@given(st.integers(2, 8), st.integers(2, 8), TEMPERATURES)
def test_opposite_poles_reach_the_floor(first, second, temperature):
    labels = torch.tensor([0] * first + [1] * second)
    poles = torch.where(labels == 0, 1.0, -1.0).double()[:, None]
    torch.testing.assert_close(
        supervised_contrastive_loss(poles, labels, temperature, "none").float(),
        supervised_contrastive_floor(labels, temperature, "none"),
        atol=1e-5,
        rtol=1e-5,
    )


# Gradients


@pytest.mark.parametrize("temperature", [0.1, 0.3, 1.0])
def test_gradient_of_eq_3_equals_finite_differences(temperature):
    torch.manual_seed(0)
    features = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 0, 1, 2, 0, 1])
    for reduction in ("none", "sum", "mean"):
        assert torch.autograd.gradcheck(
            lambda x, how=reduction: supervised_contrastive_loss(
                x, labels, temperature, how
            ),
            features,
        )


def test_gradient_of_eq_4_equals_finite_differences():
    torch.manual_seed(0)
    views = [torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in "ab"]
    assert torch.autograd.gradcheck(
        lambda a, b: self_supervised_contrastive_loss(a, b, 0.3), views
    )


def test_floor_has_no_gradient():
    assert not supervised_contrastive_floor(EIGHT_AND_EIGHT, 0.3).requires_grad


# Known values


@pytest.mark.parametrize("temperature", [0.01, 0.1, 0.3, 0.7, 1.0, 10.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_equal_features_give_log_15_at_any_temperature(temperature, dtype):
    found = supervised_contrastive_loss(
        torch.ones(16, 5, dtype=dtype), EIGHT_AND_EIGHT, temperature, "none"
    )
    assert found.tolist() == pytest.approx([math.log(15)] * 16, abs=2e-5)
    assert math.log(15) == pytest.approx(2.70805, abs=1e-5)


def test_perfect_separation_gives_1_947():
    poles = torch.where(EIGHT_AND_EIGHT == 0, 1.0, -1.0)[:, None]
    found = supervised_contrastive_loss(poles, EIGHT_AND_EIGHT, 0.3, "mean").item()
    assert found == pytest.approx(math.log(7 + 8 * math.exp(-2 / 0.3)), abs=1e-5)
    assert found == pytest.approx(1.947, abs=5e-4)


def test_four_examples_give_2_20578():
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    found = supervised_contrastive_loss(features, torch.tensor([0, 0, 1, 1]), 1.0)
    assert found.item() == pytest.approx(4 * math.log(1 + 2 / math.e), abs=1e-5)
    assert found.item() == pytest.approx(2.20578, abs=1e-5)


@given(st.integers(4, 12), st.integers(2, 4), TEMPERATURES, st.integers(0, 2**31))
def test_agrees_with_pytorch_metric_learning(size, classes, temperature, seed):
    """An outside oracle, which also gives 0 to an anchor without a positive."""
    from pytorch_metric_learning.losses import SupConLoss
    from pytorch_metric_learning.reducers import SumReducer

    random = torch.Generator().manual_seed(seed)
    features = torch.randn(size, 6, generator=random, dtype=torch.float64)
    labels = torch.randint(classes, (size,), generator=random)
    labels[:3] = torch.tensor([0, 1, 0])  # it returns 0 for one class, and for no pair
    theirs = SupConLoss(temperature, reducer=SumReducer())(features, labels)
    ours = supervised_contrastive_loss(features, labels, temperature)
    torch.testing.assert_close(ours, theirs.double())


# Degenerate batches


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("width", [0, 3])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_no_example_and_a_lone_one_give_zero(size, width, reduction):
    features = torch.randn(size, width, requires_grad=True)
    labels = torch.zeros(size, dtype=torch.long)
    loss = supervised_contrastive_loss(features, labels, 0.3, reduction)
    assert loss.shape == ((size,) if reduction == "none" else ())
    assert not loss.any()
    loss.sum().backward()
    assert not features.grad.any()
    floor = supervised_contrastive_floor(labels, 0.3, reduction)
    assert floor.shape == loss.shape
    assert not floor.any()


def test_a_singleton_contributes_exactly_zero_and_stays_in_the_divisor():
    torch.manual_seed(0)
    features = torch.randn(5, 4, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1, 2])
    each = supervised_contrastive_loss(features, labels, 0.3, "none")
    assert each[4] == 0
    assert (each[:4] > 0).all()
    mean = supervised_contrastive_loss(features, labels, 0.3, "mean")
    torch.testing.assert_close(mean, each.sum() / 5)
    assert supervised_contrastive_floor(labels, 0.3, "none")[4] == 0
    each.sum().backward()  # it is still a negative of the others
    assert features.grad[4].abs().max() > 0.01


def test_only_singletons_give_zero_and_no_gradient():
    features = torch.randn(4, 3, requires_grad=True)
    loss = supervised_contrastive_loss(features, torch.arange(4), 0.3)
    assert loss == 0
    loss.backward()
    assert not features.grad.any()


@given(st.integers(2, 10), TEMPERATURES, st.integers(0, 2**31))
def test_one_class_has_at_least_the_log_of_n_minus_one(size, temperature, seed):
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(size, 3, generator=random, dtype=torch.float64)
    labels = torch.zeros(size, dtype=torch.long)
    each = supervised_contrastive_loss(features, labels, temperature, "none")
    assert (each >= math.log(size - 1) - 1e-9).all()
    floor = supervised_contrastive_floor(labels, temperature, "none")
    assert floor.tolist() == pytest.approx([math.log(size - 1)] * size, abs=1e-6)


HARD = {
    "duplicates": torch.ones(6, 3),
    "zero vectors": torch.zeros(6, 3),
    "some zero vectors": torch.eye(6)[:, :3],
    "poles": torch.tensor([[1.0], [-1.0]] * 3),
    "poles, wrong way": torch.tensor([[1.0], [1.0], [-1.0]] * 2),
    "random": torch.randn(6, 3, generator=torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("temperature", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("name", HARD)
def test_loss_and_gradient_stay_finite(name, temperature, dtype):
    features = HARD[name].to(dtype, copy=True).requires_grad_()
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    loss = supervised_contrastive_loss(features, labels, temperature)
    assert loss.dtype == torch.float32
    loss.backward()
    assert loss.isfinite()
    assert features.grad.dtype == dtype
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_very_large_and_very_small_features_are_normalized_correctly(scale):
    features, labels = HARD["random"], torch.tensor([0, 1, 0, 1, 0, 1])
    expected = supervised_contrastive_loss(features, labels, 0.3)
    scaled = (features * scale).detach().requires_grad_()
    loss = supervised_contrastive_loss(scaled, labels, 0.3)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert scaled.grad.isfinite().all()
    assert scaled.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    """exp(1/τ) overflows in fp16 below τ = 0.09: the fp16 loss must not."""
    features, labels = HARD["random"].to(dtype), torch.tensor([0, 1, 0, 1, 0, 1])
    for temperature in (0.01, 0.05, 0.3):
        torch.testing.assert_close(
            supervised_contrastive_loss(features, labels, temperature),
            supervised_contrastive_loss(features.float(), labels, temperature),
            rtol=0,
            atol=0,
        )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_gpu_computes_the_same(dtype):
    features, labels = HARD["random"].to(dtype), torch.tensor([0, 1, 0, 1, 0, 1])
    expected = supervised_contrastive_loss(features, labels, 0.05)
    with torch.autocast("cuda", torch.float16):
        found = supervised_contrastive_loss(features.cuda(), labels.cuda(), 0.05)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)


# Refusals

FEATURES, LABELS = torch.ones(3, 2), torch.tensor([0, 0, 1])
POSITIVE = "temperature must be a number above 0, got"
WIDTH = "features must be (N, D), got shape"
MATCH = "labels must be (N,) = (3,) to match the features, got shape"
INTEGERS = "labels must be integers (class ids), got torch.float32"
REDUCTION = "reduction must be one of none, sum, mean, got 'max'"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *[
            ((FEATURES, LABELS, temperature), f"{POSITIVE} {temperature!r}")
            for temperature in (0, -0.5, math.nan, math.inf, "0.3", None)
        ],
        ((torch.ones(3), LABELS, 1), f"{WIDTH} (3,)"),
        ((torch.ones(3, 1, 2), LABELS, 1), f"{WIDTH} (3, 1, 2)"),
        ((FEATURES, LABELS[:2], 1), f"{MATCH} (2,)"),
        ((FEATURES, LABELS[:, None], 1), f"{MATCH} (3, 1)"),
        ((FEATURES, torch.tensor(0), 1), f"{MATCH} ()"),
        ((FEATURES.long(), LABELS, 1), "features must be floating-point, got torch.in"),
        ((FEATURES, LABELS.float(), 1), INTEGERS),
        ((FEATURES, LABELS, 1, "max"), REDUCTION),
        ((LABELS, 0), f"{POSITIVE} 0"),
        ((LABELS.float(), 1), INTEGERS),
        ((LABELS, 1, "max"), REDUCTION),
        ((torch.tensor(0), 1), "labels must be (N,), got shape ()"),
        ((LABELS[:, None], 1), "labels must be (N,), got shape (3, 1)"),
    ],
)
def test_bad_arguments_of_eq_3_and_of_its_floor_are_named(arguments, message):
    of_loss = len(arguments) > 2 and isinstance(arguments[1], torch.Tensor)
    function = supervised_contrastive_loss if of_loss else supervised_contrastive_floor
    with pytest.raises(ValueError, match=re.escape(message)):
        function(*arguments)


def test_bad_arguments_of_eq_4_are_named():
    with pytest.raises(ValueError, match=r"same shape \(N, D\), got \(3, 2\) and \(2"):
        self_supervised_contrastive_loss(FEATURES, FEATURES[:2], 0.3)
    with pytest.raises(ValueError, match="temperature must be a number above 0, got 0"):
        self_supervised_contrastive_loss(FEATURES, FEATURES, 0)
    with pytest.raises(ValueError, match=r"features must be \(N, D\)"):
        self_supervised_contrastive_loss(LABELS.float(), LABELS.float(), 0.3)
