"""Aligned contrastive learning, after ACL (Li and Zhu 2026, arXiv 2602.03563)."""

from fairseq_scl.compat.settings import ALLOWED
from fairseq_scl.objectives.acl import sentence_prediction_acl

ALLOWED["criterion"].add(sentence_prediction_acl.NAME)
