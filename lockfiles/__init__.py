"""Lock-files as data: pure readers, targets and selection."""
