"""The task registered with fairseq: batching, data checks, a metrics file."""

import fairseq  # noqa: F401  (its import registers this package, in order)

from fairseq_scl.tasks import sentence_prediction_scl  # noqa: F401
