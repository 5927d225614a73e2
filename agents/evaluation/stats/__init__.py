"""Statistics of stored runs."""
