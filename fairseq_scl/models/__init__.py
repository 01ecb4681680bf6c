"""The model hook, and the encoders that fairseq registers."""

from fairseq_scl.models import features, roberta_bert, roberta_multi_exit  # noqa: F401
