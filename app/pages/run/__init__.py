"""The page `/run`: every phase of a run."""
