"""Representation consistency targets, after CAPCORT (arXiv 2205.11603)."""

from fairseq_scl.compat.settings import ALLOWED
from fairseq_scl.objectives.capcort import sentence_prediction_capcort

ALLOWED["criterion"].add(sentence_prediction_capcort.NAME)
