"""The criterion registered with fairseq: Eq. 1 of the paper."""

import fairseq  # noqa: F401  (its import registers this package, in order)

from fairseq_scl.criterions import sentence_prediction_scl  # noqa: F401
