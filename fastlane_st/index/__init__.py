"""The search engine: documents as token vectors, changed, searched, saved and loaded."""

from .index import FastLaneIndex
from .vectors.settings import VectorSettings

__all__ = ["FastLaneIndex", "VectorSettings"]
