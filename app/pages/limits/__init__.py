"""The page of the largest settings that fit."""
