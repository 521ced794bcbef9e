"""Routes for an existing late-interaction model: its documents' vectors stay as they are."""
