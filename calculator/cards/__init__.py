"""What a GPU can train: the models of the catalogue with some methods, from a table of replays."""
