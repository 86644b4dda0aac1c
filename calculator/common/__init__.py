"""Names, data types, errors and sources that every package uses."""
