"""Reads corpora, JSON-lines files and judged collections; needs neither torch nor numpy."""
