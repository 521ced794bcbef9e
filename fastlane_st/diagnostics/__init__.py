"""Diagnostics of a router: what it chooses, how useful that is, and whether it has collapsed."""
