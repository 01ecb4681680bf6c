"""Back-translation: augment training sets with paraphrases."""
