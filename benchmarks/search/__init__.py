"""Search over the same vectors: our index, other engines, growth and recall."""
