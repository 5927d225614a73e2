"""Statistics of rows: intervals, normalised losses, speeds, profiles and summaries."""
