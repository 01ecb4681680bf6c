"""The model hook and the encoders registered with fairseq."""

import fairseq  # noqa: F401  (its import registers this package, in order)

from fairseq_scl.models import features, roberta_bert  # noqa: F401
