"""Where packages come from: the indexes that the user's own clients are set to."""
