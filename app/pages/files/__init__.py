"""Downloads, exports and imports of the estimate page."""
