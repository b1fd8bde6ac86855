"""Dev images with the locked dependencies baked in."""
