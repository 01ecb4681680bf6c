"""RoBERTa on the real tokens of a batch, without computing padding."""

import fairseq  # noqa: F401  (its import registers this package, in order)
