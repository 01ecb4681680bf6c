"""Back-translation: more training sentences that say the same in other words."""
