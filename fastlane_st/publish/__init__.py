"""Checkpoints on the Hub: pushed as one commit, and looked into before anyone trusts them."""
