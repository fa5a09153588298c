"""The images of a store: domains, and a role for every image."""
