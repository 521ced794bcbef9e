"""Measurements: every number of README and the report comes from a command in here.

Run them from the repository root, as `python -m benchmarks.<group>.<command>`.
"""
