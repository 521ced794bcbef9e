"""Adapts a checkpoint to a collection without labels: pairs made of its documents train an adapter."""
