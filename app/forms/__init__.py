"""Form fields, and the form of the estimate page."""
