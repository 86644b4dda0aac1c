"""The output heads and losses of TRL's trainers."""
