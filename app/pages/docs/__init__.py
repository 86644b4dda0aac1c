"""The API's documentation page."""
