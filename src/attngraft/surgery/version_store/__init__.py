"""A store of versions of one model: reading and writing.

`surgery.serialization` reads a store with `version` and `store_files`; `store` writes one.
"""
