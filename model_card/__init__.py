"""The card of a checkpoint: one template, one renderer."""
