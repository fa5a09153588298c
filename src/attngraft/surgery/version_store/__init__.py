"""A store of versions of one model, its reading and its writing side: which version is served, and how that came about.

`surgery.serialization` reads a store with `version` and `store_files`; `store` writes one.
"""
