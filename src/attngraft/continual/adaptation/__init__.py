"""Adapt the served version to new labelled images, and promote it if the guard lets it pass."""
