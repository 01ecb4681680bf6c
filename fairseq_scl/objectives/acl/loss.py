"""Label embeddings and conflicting gradients, after ACL (Li and Zhu 2026).

"ACL: Aligned Contrastive Learning Improves BERT and Multi-exit BERT Fine-tuning", arXiv
2602.03563. The abstract specifies the two ideas; open choices are arguments here.
"""

import torch
from torch import Tensor

from fairseq_scl.losses.shared import at_least_float32

LABEL_ANCHORS = ("all", "samples")


def join_label_embeddings(
    features: Tensor, labels: Tensor, embeddings: Tensor, anchors: int
) -> tuple[Tensor, Tensor]:
    """Add label embeddings to a batch as examples, after ACL-Embed (arXiv 2602.03563).

    Args:
        features: ``(N, D)``, any floating dtype.
        labels: ``(N,)``, an integer dtype.
        embeddings: ``(K, D)``: row k is the embedding of label k.
        anchors: n; the embeddings are inserted after the first n rows, so that either
            the first n + K or only the first n rows can be anchors.

    Returns:
        features ``(N + K, D)``, float32 or float64, and labels ``(N + K,)``, where the
        embeddings have the labels 0 … K-1.

    Raises:
        ValueError: features and embeddings differ in width.
    """
    if embeddings.dim() != 2 or embeddings.shape[1] != features.shape[1]:
        raise ValueError(
            f"label embeddings must be (K, {features.shape[1]}) to match the features, "
            f"got shape {tuple(embeddings.shape)}"
        )
    rows = at_least_float32(features)
    own = torch.arange(len(embeddings), device=labels.device, dtype=labels.dtype)
    return (
        torch.cat([rows[:anchors], embeddings.to(rows.dtype), rows[anchors:]]),
        torch.cat([labels[:anchors], own, labels[anchors:]]),
    )


def cross_entropy_gradient(
    logits: Tensor, labels: Tensor, jacobian: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Gradient of the summed cross-entropy at the features that the head reads.

    Applies the chain rule to the closed form w_y·(softmax(logits) - onehot(labels)), in
    float32 whatever the model's precision, so nothing is scaled and nothing underflows.

    Args:
        logits: ``(N, C)``, any floating dtype.
        labels: ``(N,)`` int64.
        jacobian: ``(N, C, D)``: derivative of the logits with respect to the features.
        weights: w, ``(C,)`` float32: class weights of the cross-entropy, 1 by default.

    Returns:
        ``(N, D)``, float32 or float64, without a graph.
    """
    scores = at_least_float32(logits.detach()).softmax(dim=1)
    rows = torch.arange(len(labels), device=labels.device)
    scores[rows, labels] -= 1
    if weights is not None:
        scores *= weights.to(scores)[labels, None]
    own = at_least_float32(jacobian.detach()).to(scores.dtype)
    # A matrix product would run in half precision under autocast.
    return (scores[:, :, None] * own).sum(dim=1)


def gradient_products(first: Tensor, second: Tensor) -> Tensor:
    """Inner product of two gradients and their squared lengths, in float64.

    The values of parts of a batch, or of several workers, add up to those of the whole.

    Args:
        first: ``(N, D)``, any floating dtype.
        second: ``(N, D)``.

    Returns:
        ``(3,)`` float64: first·second, ‖first‖², ‖second‖².
    """
    a, b = first.detach().double().flatten(), second.detach().double().flatten()
    return torch.stack([a @ b, a @ a, b @ b])


def gradient_conflict(products: Tensor) -> tuple[Tensor, Tensor]:
    """Return whether two gradients conflict, after ACL-Grad (arXiv 2602.03563).

    Args:
        products: ``(3,)``, from :func:`gradient_products`.

    Returns:
        a bool scalar, true for a negative inner product (0 is not a conflict), and the
        cosine, a scalar, which is 0 if a gradient is 0.
    """
    product, first, second = products
    lengths = (first * second).sqrt()
    cosine = product / torch.where(lengths > 0, lengths, 1.0)
    return product < 0, cosine
