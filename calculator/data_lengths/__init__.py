"""The sample lengths of a data set: their histogram, and the savings of truncation, packing and bucketing."""
