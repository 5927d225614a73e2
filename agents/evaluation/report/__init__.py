"""Report of a benchmark: tables, files and pictures."""
