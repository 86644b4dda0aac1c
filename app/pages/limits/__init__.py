"""The page `/limits`: the largest settings that fit."""
