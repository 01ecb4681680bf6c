"""The task that fairseq registers: batching, checks of the data, a metrics file."""

from fairseq_scl.tasks import sentence_prediction_scl  # noqa: F401
