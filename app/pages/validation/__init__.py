"""The page of predicted against measured memory."""
