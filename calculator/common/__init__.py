"""Names, dtypes, errors and sources that every package uses."""
