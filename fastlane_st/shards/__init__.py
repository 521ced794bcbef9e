"""Corpora that one machine can't encode: routed vectors in shards, by several processes or machines."""
