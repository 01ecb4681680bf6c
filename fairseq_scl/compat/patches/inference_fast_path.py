"""Fault: fairseq 0.12.2's fast path for encoders that this process did not train.

It calls a kernel of PyTorch that wants other arguments by now, and its states between
layers are of another layout. May go with Python 3.10, the last with fairseq 0.12.2.
"""


def apply() -> None:
    """Turn the fast path off."""
    from fairseq.modules.transformer_layer import TransformerEncoderLayerBase

    always = property(lambda layer: True, lambda layer, value: None)
    TransformerEncoderLayerBase.ever_training = always
