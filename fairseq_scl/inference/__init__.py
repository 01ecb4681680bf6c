"""Model folders: a fine-tuned classifier with everything that it needs to be used."""
