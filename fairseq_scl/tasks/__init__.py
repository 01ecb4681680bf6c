"""The task that fairseq registers: batching, checks of the data, a metrics file."""

import fairseq  # noqa: F401  (its import registers this package, in order)

from fairseq_scl.tasks import sentence_prediction_scl  # noqa: F401
