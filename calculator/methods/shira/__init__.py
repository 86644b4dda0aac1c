"""SHiRA."""
