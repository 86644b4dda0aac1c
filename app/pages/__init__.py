"""The HTML pages, one package a page."""
