"""Model folders of fine-tuned classifiers, prediction and early exit."""
