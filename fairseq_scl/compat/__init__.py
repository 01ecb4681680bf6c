"""Running fairseq on current versions of Python and PyTorch.

Which versions fit together (``versions``); loading checkpoints without running code
(``checkpoints``); one sentence where the input is at fault (``input_errors``); and what
is changed in fairseq itself (``patches``). Nothing here imports
fairseq at import time, so that ``fairseq-scl doctor`` works where fairseq does not.
"""
