"""What builds and runs images."""
