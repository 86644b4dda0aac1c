"""What a card can train: every model of the catalogue with some methods, looked up in a table of replays."""
