"""One criterion a file; importing it registers the criterion with fairseq."""

from fairseq_scl.criterions import sentence_prediction_scl  # noqa: F401
