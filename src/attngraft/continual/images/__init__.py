"""Images of a store: domains and splits."""
