"""Running fairseq on current versions of Python and PyTorch.

``versions`` checks which versions work together, ``checkpoints`` loads checkpoints
without running code, ``input_errors`` turns bad input into one sentence, and
``patches`` changes fairseq itself. Nothing here imports fairseq at import time, so
``fairseq-scl doctor`` works even if fairseq does not.
"""
