"""The page from needs to ranked configurations."""
