"""LoKr."""
