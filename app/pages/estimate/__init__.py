"""The page `/`: one plan and its estimate."""
