"""The model card of a checkpoint: its template and its renderer."""
