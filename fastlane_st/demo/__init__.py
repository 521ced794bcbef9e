"""The demo: search in Python's own documentation."""
