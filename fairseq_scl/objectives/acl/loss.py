"""Label embeddings and conflicting gradients, after ACL (Li and Zhu 2026).

"ACL: Aligned Contrastive Learning Improves BERT and Multi-exit BERT Fine-tuning", arXiv
2602.03563. Its abstract fixes the two ideas; what it leaves open is an argument here.
"""

import torch
from torch import Tensor

from fairseq_scl.losses.shared import at_least_float32

LABEL_ANCHORS = ("all", "samples")


def join_label_embeddings(
    features: Tensor, labels: Tensor, embeddings: Tensor, anchors: int
) -> tuple[Tensor, Tensor]:
    """Add label embeddings to a batch as samples, after ACL-Embed (arXiv 2602.03563).

    Args:
        features: ``(N, D)``, any floating dtype.
        labels: ``(N,)``, an integer dtype.
        embeddings: ``(K, D)``: row k is that of label k.
        anchors: n; the embeddings come after the first n rows, so that the first n + K
            can be the anchors of the contrastive loss, or the first n alone.

    Returns:
        ``(N + K, D)``, float32 or float64; and ``(N + K,)``, in which the embeddings
        carry the labels 0 … K-1.

    Raises:
        ValueError: features and embeddings of unlike width.
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


def cross_entropy_gradient(logits: Tensor, labels: Tensor, jacobian: Tensor) -> Tensor:
    """Gradient of the summed cross-entropy at the features that the head reads.

    The chain rule from the closed form softmax(logits) - onehot(labels), in float32
    whatever the model's precision: nothing is scaled and nothing underflows.

    Args:
        logits: ``(N, C)``, any floating dtype.
        labels: ``(N,)`` int64.
        jacobian: ``(N, C, D)``: of the logits, with respect to the features.

    Returns:
        ``(N, D)``, float32 or float64, no graph.
    """
    scores = at_least_float32(logits.detach()).softmax(dim=1)
    rows = torch.arange(len(labels), device=labels.device)
    scores[rows, labels] -= 1
    own = at_least_float32(jacobian.detach()).to(scores.dtype)
    # Not as a matrix product, which autocast would do in half precision.
    return (scores[:, :, None] * own).sum(dim=1)


def gradient_products(first: Tensor, second: Tensor) -> Tensor:
    """Inner product of two gradients and their squared lengths, in float64.

    Those of the parts of a batch, or of several workers, add up to those of the whole.

    Args:
        first: ``(N, D)``, any floating dtype.
        second: ``(N, D)``.

    Returns:
        ``(3,)`` float64: first·second, ‖first‖², ‖second‖².
    """
    a, b = first.detach().double().flatten(), second.detach().double().flatten()
    return torch.stack([a @ b, a @ a, b @ b])


def gradient_conflict(products: Tensor) -> tuple[Tensor, Tensor]:
    """Tell whether two gradients conflict, after ACL-Grad (arXiv 2602.03563).

    Args:
        products: ``(3,)``, from :func:`gradient_products`.

    Returns:
        a bool scalar, true for a negative inner product (an inner product of 0 is no
        conflict); and the cosine, a scalar, 0 where a gradient is 0.
    """
    product, first, second = products
    lengths = (first * second).sqrt()
    cosine = product / torch.where(lengths > 0, lengths, 1.0)
    return product < 0, cosine
