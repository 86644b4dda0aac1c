"""AdaMSS."""
