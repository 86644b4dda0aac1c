"""Forms: fields, layout, error messages, and the plan form."""
