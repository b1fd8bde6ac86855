"""Programs that run inside images and containers: the standard library only, one file each."""
