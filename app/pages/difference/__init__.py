"""The page `/difference`: plans side by side."""
