"""The page `/diagnose`: an out-of-memory error explained."""
