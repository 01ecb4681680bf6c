"""Large contrastive batches: gradient caching and gathering across workers."""

import fairseq  # noqa: F401  (its import registers this package, in order)
