"""HiRA."""
