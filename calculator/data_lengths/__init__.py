"""The lengths of a data set's samples: their histogram, and what truncation, packing or bucketing would save."""
