"""How token vectors are stored and found. The only folder of the package that uses faiss."""
