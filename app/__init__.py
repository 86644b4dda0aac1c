"""The web application: pages, the JSON API and their command line."""
