"""The peaks of a step under ZeRO-3."""
