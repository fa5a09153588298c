"""A registry: names to entries, with did-you-mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from .errors import ConfigError, nearest

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Entries by name. A name can be registered once; an unknown one says the nearest.

    >>> fruits = Registry[int]("fruit")
    >>> fruits.register("apple", 1)
    1
    >>> fruits["aple"]
    Traceback (most recent call last):
    attngraft.errors.ConfigError: unknown fruit 'aple': did you mean 'apple'?
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str, entry: T) -> T:
        if name in self._entries:
            raise ConfigError(f"{self.kind} '{name}' is registered already: choose another name.")
        self._entries[name] = entry
        return entry

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except KeyError:
            raise ConfigError(f"unknown {self.kind} '{name}': {nearest(str(name), self._entries)}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
