"""Serves a mirror: the static tree itself, and devpi behind it."""
