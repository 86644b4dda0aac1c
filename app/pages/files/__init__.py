"""Downloads, exports and imports of a plan."""
