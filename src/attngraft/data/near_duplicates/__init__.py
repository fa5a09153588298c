"""Near-duplicate images: a fast search on small copies, then alignment of pairs."""
