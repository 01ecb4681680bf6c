"""RoBERTa on the real tokens of a batch: no row is computed for padding."""

import fairseq  # noqa: F401  (its import registers this package, in order)
