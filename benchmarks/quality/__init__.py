"""Retrieval quality on judged collections, by brute force."""
