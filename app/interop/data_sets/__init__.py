"""Data sets read sample by sample, and the tokenizer that counts their tokens."""
