"""The page of inference memory."""
