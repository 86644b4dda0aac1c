"""PVeRA."""
