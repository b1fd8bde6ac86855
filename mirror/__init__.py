"""The private mirror: stocks exactly what lock-files name."""
