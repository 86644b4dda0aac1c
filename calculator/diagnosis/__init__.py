"""Out-of-memory errors explained: the allocation that failed, what was alive there, and what ends it."""
