"""Jinja2 templates and static files that go into images and onto hosts."""
