"""What prefix and prompt tuning share."""
