"""The page that compares plans row by row."""
