"""The model hook, and the encoders that fairseq registers."""

from fairseq_scl.models import features, roberta_bert  # noqa: F401
