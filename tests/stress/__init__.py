"""Checks that take minutes and run as commands of their own: `python -m tests.stress.<name>`."""
