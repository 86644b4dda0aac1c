"""The pages `/lesson` and `/lesson/{name}`."""
