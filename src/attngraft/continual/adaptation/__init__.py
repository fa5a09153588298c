"""From new labelled images to a version that is served, or not."""
