"""The optimizer that fairseq registers."""

from fairseq_scl.optim import fused_adam  # noqa: F401
