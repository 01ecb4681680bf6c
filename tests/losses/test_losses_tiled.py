"""Eq. 3 in one tile and in strips: same values and gradients as plain autograd."""

from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairseq_scl.losses import (
    supervised_contrastive_floor,
    supervised_contrastive_loss,
    tiles,
)
from fairseq_scl.losses.one_tile import contrast_in_one_tile
from fairseq_scl.losses.tiles import classes_and_positives, contrast_in_strips

# The last two are too low for one shift: the largest of each row is taken.
TEMPERATURES = st.sampled_from([0.05, 0.3, 1.0, 0.003, 0.001])


def plain(features, labels, temperature):
    """Eq. 3 with N x N masks and autograd's gradient; ``(N,)``."""
    phi = torch.nn.functional.normalize(features, dim=1)
    itself = torch.eye(len(labels), dtype=torch.bool)
    similarities = (phi @ phi.T / temperature).masked_fill(itself, -1e300)
    positive = (labels[:, None] == labels) & ~itself
    count = positive.sum(dim=1)
    chosen = (similarities.log_softmax(dim=1) * positive).sum(dim=1)
    return -chosen / count.clamp(min=1)


def drawn(size, width, classes, seed):
    """Draw float64 features, labels and upstream gradients."""
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(size, width, generator=random, dtype=torch.float64)
    labels = torch.randint(-1, classes - 1, (size,), generator=random)
    upstream = torch.randn(size, generator=random, dtype=torch.float64)
    return features, labels, upstream


def value_and_gradient(function, features, upstream):
    """Return the losses and the gradient of their sum weighted by ``upstream``."""
    features = features.clone().requires_grad_()
    losses = function(features)
    losses.backward(upstream)
    return losses.detach(), features.grad


def strips_of(anchors, kept_entries=1000):
    """Within the block, compute strips of a few anchors and keep only small ones."""
    strip = {"cpu": anchors}
    return mock.patch.multiple(tiles, STRIP=strip, KEPT_ENTRIES=kept_entries)


SIZES = st.integers(2, 12)
SEEDS = st.integers(0, 2**31)
STRIPS = st.sampled_from([1, 2, 3, 5, 12])


@given(SIZES, st.integers(1, 4), st.integers(1, 5), SEEDS, TEMPERATURES)
def test_one_tile_equals_autograd(size, width, classes, seed, temperature):
    features, labels, upstream = drawn(size, width, classes, seed)
    expected = value_and_gradient(
        lambda x: plain(x, labels, temperature), features, upstream
    )
    found = value_and_gradient(
        lambda x: contrast_in_one_tile(x, labels, temperature), features, upstream
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@given(
    SIZES, st.integers(1, 4), st.integers(1, 5), SEEDS, TEMPERATURES, STRIPS, st.data()
)
def test_strips_equal_autograd(size, width, classes, seed, temperature, strip, data):
    """Also where only the first rows are anchors, and without kept strips."""
    features, labels, upstream = drawn(size, width, classes, seed)
    count = data.draw(st.integers(0, size))
    kept_entries = data.draw(st.sampled_from([0, 1000]))
    upstream = upstream[:count]
    expected = value_and_gradient(
        lambda x: plain(x, labels, temperature)[:count], features, upstream
    )
    with strips_of(strip, kept_entries):
        found = value_and_gradient(
            lambda x: contrast_in_strips(x, labels, temperature, count),
            features,
            upstream,
        )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@given(SIZES, SEEDS, TEMPERATURES, STRIPS)
def test_a_sum_hands_down_the_same_gradient_as_ones(size, seed, temperature, strip):
    """The gradient of a sum, an expanded scalar, takes a shorter way."""
    features, labels, _ = drawn(size, 3, 3, seed)
    features.requires_grad_()
    with strips_of(strip):
        losses = contrast_in_strips(features, labels, temperature, size)
    ones = torch.ones(size, dtype=torch.float64)
    (expected,) = torch.autograd.grad(losses, features, ones, retain_graph=True)
    (found,) = torch.autograd.grad(losses.sum(), features, retain_graph=True)
    torch.testing.assert_close(found, expected)
    (again,) = torch.autograd.grad(losses.sum(), features)
    assert torch.equal(again, found)


@given(st.integers(2, 12), SEEDS, st.data())
def test_parts_of_a_batch_add_up_to_the_whole(size, seed, data):
    """What workers do: own anchors against all candidates, gradients summed."""
    features, labels, _ = drawn(size, 3, 3, seed)
    features.requires_grad_()
    whole = supervised_contrastive_loss(features, labels, 0.3)
    (expected,) = torch.autograd.grad(whole, features)
    cut = data.draw(st.integers(0, size))
    total = 0.0
    for first, last in ((0, cut), (cut, size)):
        own = list(range(first, last))
        order = own + [i for i in range(size) if i not in own]
        total = total + supervised_contrastive_loss(
            features[order], labels[order], 0.3, anchors=len(own)
        )
    torch.testing.assert_close(total, whole)
    (found,) = torch.autograd.grad(total, features)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@given(st.integers(1, 12), SEEDS, st.data())
def test_the_floor_of_the_first_anchors_is_theirs_in_the_whole(size, seed, data):
    _, labels, _ = drawn(size, 1, 3, seed)
    count = data.draw(st.integers(0, size))
    whole = supervised_contrastive_floor(labels, 0.3, "none")
    found = supervised_contrastive_floor(labels, 0.3, "none", anchors=count)
    assert torch.equal(found, whole[:count])


@given(st.lists(st.integers(-3, 3)))
def test_positives_are_the_others_of_the_same_label(labels):
    _, positives = classes_and_positives(torch.tensor(labels).long(), len(labels))
    assert positives.tolist() == [labels.count(label) - 1 for label in labels]


@pytest.mark.parametrize("size", [256, 257, 600])
def test_sizes_on_both_sides_of_one_tile_equal_autograd(size):
    features, labels, upstream = drawn(size, 16, 3, 0)
    expected = value_and_gradient(lambda x: plain(x, labels, 0.1), features, upstream)
    found = value_and_gradient(
        lambda x: supervised_contrastive_loss(x, labels, 0.1, "none"),
        features,
        upstream,
    )
    torch.testing.assert_close(found, expected)
    alone = value_and_gradient(
        lambda x: supervised_contrastive_loss(x.float(), labels, 0.1, "none"),
        features,
        upstream.float(),
    )
    torch.testing.assert_close(alone, expected, rtol=1e-4, atol=1e-4, check_dtype=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("temperature", [0.01, 0.3])
def test_strips_stay_finite_with_zero_and_equal_rows(dtype, temperature):
    features = torch.ones(9, 3, dtype=dtype)
    features[2:4] = 0
    features[4:6] = -1
    features.requires_grad_()
    labels = torch.arange(9) % 2
    with strips_of(2):
        losses = contrast_in_strips(features, labels, temperature, 9)
    assert losses.dtype == torch.float32
    losses.sum().backward()
    assert features.grad.dtype == dtype
    assert losses.isfinite().all()
    assert features.grad.isfinite().all()


def test_autocast_does_not_lower_the_precision_of_either_pass():
    features, labels, upstream = drawn(9, 4, 2, 0)
    features, upstream = features.float(), upstream.float()
    for function in (
        lambda x: contrast_in_one_tile(x, labels, 0.05),
        lambda x: contrast_in_strips(x, labels, 0.05, 9),
    ):
        with strips_of(4):
            expected = value_and_gradient(function, features, upstream)
        with strips_of(4), torch.autocast("cpu", torch.bfloat16):
            found = value_and_gradient(function, features, upstream)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("anchors", [None, 4])
def test_features_of_width_zero_are_all_equal(anchors):
    features = torch.ones(6, 0, requires_grad=True)
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    losses = supervised_contrastive_loss(features, labels, 0.3, "none", anchors)
    count = anchors or 6
    expected = torch.tensor(5.0).log() * (labels[:count] < 2)
    torch.testing.assert_close(losses, expected)
    losses.sum().backward()
    assert features.grad.shape == features.shape


@pytest.mark.parametrize("size", [5, 300])
def test_a_second_derivative_is_refused(size):
    features = torch.randn(size, 3, requires_grad=True)
    loss = supervised_contrastive_loss(features, torch.arange(size) % 2, 0.3)
    with pytest.raises(RuntimeError, match="differentiated once, not twice"):
        torch.autograd.grad(loss, features, create_graph=True)


def test_nothing_as_large_as_n_by_n_is_allocated(monkeypatch):
    """A strip is the largest: twice the batch, twice the memory."""
    largest = 0
    addmm = torch.addmm

    def watch(*arguments, **options):
        nonlocal largest
        result = addmm(*arguments, **options)
        largest = max(largest, result.numel())
        return result

    monkeypatch.setattr(tiles.torch, "addmm", watch)
    features = torch.randn(500, 2, requires_grad=True)
    labels = torch.arange(500) % 3
    with strips_of(10, kept_entries=0):
        contrast_in_strips(features, labels, 0.3, 500).sum().backward()
    assert largest == 10 * 500


@pytest.mark.parametrize("anchors", [-1, 4, 1.5])
def test_a_wrong_number_of_anchors_is_named(anchors):
    labels = torch.tensor([0, 0, 1])
    message = f"anchors must be a number from 0 to 3, got {anchors}"
    with pytest.raises(ValueError, match=message):
        supervised_contrastive_loss(torch.ones(3, 2), labels, 1, anchors=anchors)
    with pytest.raises(ValueError, match=message):
        supervised_contrastive_floor(labels, 1, anchors=anchors)
