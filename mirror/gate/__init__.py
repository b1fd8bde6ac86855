"""The sandbox's one door: the mirror's routes, allow-listed egress, and a log of all that was touched."""
