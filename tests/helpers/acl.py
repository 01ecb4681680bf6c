"""Eq. 3 with label embeddings in the batch, from the parts of ACL's criterion."""

from fairseq_scl.losses import supervised_contrastive_loss
from fairseq_scl.objectives.acl.loss import join_label_embeddings


def label_embedding_loss(features, labels, embeddings, temperature, anchors="all"):
    """Sum Eq. 3 over samples, and over label embeddings where these are anchors too."""
    size = len(features)
    rows, classes = join_label_embeddings(features, labels, embeddings, size)
    count = len(rows) if anchors == "all" else size
    return supervised_contrastive_loss(rows, classes, temperature, anchors=count)
