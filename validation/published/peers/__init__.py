"""Other calculators' figures for the same published rows, from their own packages in an environment of their own."""
