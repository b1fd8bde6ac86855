"""Brings a snapshot to where clients look for packages."""
