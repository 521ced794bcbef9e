"""Measures one engine, in an environment that may hold the engine, torch and numpy alone."""
