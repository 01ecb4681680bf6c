"""Label embeddings in the contrastive loss, and what a conflict of gradients is."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given

from fairseq_scl.losses import supervised_contrastive_loss
from fairseq_scl.objectives.acl import loss as acl
from helpers.acl import label_embedding_loss
from helpers.losses import batches, dot, unit


def table_of(labels, width):
    """Draw an embedding for each class up to the largest label."""
    count = int(labels.max()) + 1 if len(labels) else 1
    random = torch.Generator().manual_seed(0)
    return torch.randn(count, width, generator=random, dtype=torch.float64)


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
    found = label_embedding_loss(features, labels, table, 0.5, label_anchors)
    expected = loop(features, labels, table, 0.5, label_anchors)
    assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("label_anchors", acl.LABEL_ANCHORS)
@given(batch=batches())
def test_without_embeddings_it_is_the_contrastive_loss(label_anchors, batch):
    features, labels = batch
    none = features.new_empty(0, features.shape[1])
    found = label_embedding_loss(features, labels, none, 0.3, label_anchors)
    assert torch.equal(found, supervised_contrastive_loss(features, labels, 0.3))


@pytest.mark.parametrize("label_anchors", acl.LABEL_ANCHORS)
def test_its_gradient_is_that_of_finite_differences(label_anchors):
    random = torch.Generator().manual_seed(0)
    features = torch.randn(5, 4, generator=random, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 2, 1])
    inputs = [features.requires_grad_(), table_of(labels, 4).requires_grad_()]
    assert torch.autograd.gradcheck(
        lambda x, e: label_embedding_loss(x, labels, e, 0.5, label_anchors), inputs
    )


def test_a_single_sample_has_its_label_embedding_as_positive():
    features, labels = torch.eye(2)[:1], torch.tensor([0])
    found = label_embedding_loss(features, labels, torch.eye(2), 1.0, "samples")
    # Its own embedding at cosine 1, the other at 0.
    assert found.item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_embeddings_of_another_width_are_named():
    features, labels = torch.ones(2, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"label embeddings must be \(K, 3\)"):
        label_embedding_loss(features, labels, torch.ones(2, 4), 0.3)


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
