"""The criterion that fairseq registers: Eq. 1 of the paper."""

from fairseq_scl.criterions import sentence_prediction_scl  # noqa: F401
