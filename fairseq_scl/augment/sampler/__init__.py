"""Sampling of translations that do not depend on the batch, byte for byte.

``fairseq-generate --sampling`` draws from a single random generator, so a different
batch size or one more sentence in the file changes every later output. Here an output
is a function of the seed and its own sentence. Read the files in this order:

1. ``philox``: stateless random numbers. Each output has a *stream*, identified by a
   64-bit key. Its numbers at a decoding step are Philox4x32-10 (Salmon et al. 2011) of
   key, step and position, so they can be computed in any order.
2. ``gumbel_max``: from random numbers to a piece. The piece with the largest
   log-probability plus Gumbel noise is a sample from the softmax; equivalently, the
   piece with the largest probability divided by exponential noise. The result is an
   argmax, so it can be recomputed anywhere, and the gap to the second best tells
   whether rounding could have changed it.
3. ``incremental``: computes the scores of one step for all rows of a batch, using
   cached keys and values. This makes sampling fast.
4. ``decoding``: the loop over batches and steps. Floating-point sums depend on the
   shape of a batch, so scores differ by rounding. If the two best pieces are closer
   than that, the step is recomputed for this row alone, in float32 with a batch of one,
   and that result is used. This makes outputs independent of the batch.
"""
