"""Encoders from Hugging Face files to fairseq's RoBERTa."""
