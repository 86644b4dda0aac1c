"""Other calculators' figures for the same published rows, computed by their packages in a separate environment."""
