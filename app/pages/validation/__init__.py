"""The page `/validation`: estimates compared with measurements."""
