"""Retrieval quality on judged collections: metrics, baselines, controls, MTEB."""
