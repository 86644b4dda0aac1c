"""The page `/docs`: the documentation of the JSON API."""
