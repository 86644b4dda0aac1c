"""The page `/models`: the model types of transformers."""
