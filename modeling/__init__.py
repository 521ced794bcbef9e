"""What travels with every checkpoint: flat, self-contained source files."""
