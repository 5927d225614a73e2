"""Tables and pictures of a comparison."""
