"""Sampling of translations whose bytes do not depend on the batch.

``fairseq-generate --sampling`` draws from one random generator: another batch size, or
one more sentence in the file, changes every output after it. Here an output is a
function of the seed and its own sentence. Read the files in this order:

1. ``philox``: random numbers without state. Each output has a *stream* named by a
   64-bit key, and the numbers of a stream at a decoding step are Philox4x32-10 (Salmon
   et al. 2011) of key, step and place. Nobody has to draw in any order.
2. ``gumbel_max``: how numbers become a piece. The piece with the largest
   log-probability plus Gumbel noise is a sample from the softmax; equally, the piece
   with the largest probability divided by exponential noise. The winner is an argmax,
   so it can be computed again anywhere, and the gap to the second best says whether
   rounding could have changed it.
3. ``incremental``: what computes the scores, one step for all rows of a batch, on
   cached keys and values.
4. ``decoding``: the loop over batches and steps. Floating-point sums depend on the
   shapes of a batch, so scores differ by rounding. Where the two best pieces are closer
   than rounding could move them, the step is computed again for that row alone, in
   float32 with a batch of one, and that decision counts.

No test of equality would hold without step 4, and no speed without step 3.
"""
