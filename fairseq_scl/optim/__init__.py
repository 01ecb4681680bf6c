"""The optimizer that fairseq registers."""

import fairseq  # noqa: F401  (its import registers this package, in order)

from fairseq_scl.optim import fused_adam  # noqa: F401
