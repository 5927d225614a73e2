"""Worker processes, progress and argument checks, shared by the other folders."""
