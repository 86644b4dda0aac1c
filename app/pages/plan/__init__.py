"""The page `/plan`: configurations that fit and meet the needs."""
