"""Fault: the inference fast path of fairseq 0.12.2 is broken.

It is used for encoders that were not trained in this process. It calls a PyTorch kernel
whose arguments have changed, and its states between layers have another layout. Can be
dropped with Python 3.10, the last with fairseq 0.12.2.
"""


def apply() -> None:
    """Disable the fast path."""
    from fairseq.modules.transformer_layer import TransformerEncoderLayerBase

    always = property(lambda layer: True, lambda layer, value: None)
    TransformerEncoderLayerBase.ever_training = always
