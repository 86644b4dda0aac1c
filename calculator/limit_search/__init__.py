"""The largest settings that fit, maps of what fits, and sweeps."""
