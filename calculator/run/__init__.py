"""The phases of a whole run: loading, training steps, evaluation, checkpoints and merging."""
