"""Large contrastive batches: gradient caching, and a gather across workers."""

import fairseq  # noqa: F401  (its import registers this package, in order)
