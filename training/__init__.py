"""Training of FastLane encoders: commands that run from the repository root with `python -m`."""
