"""Find pictures that show the same thing: a fast search over small copies, then an alignment of pairs."""
