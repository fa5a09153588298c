"""Find the weights of a network in what a checkpoint holds, by the names and shapes that the network has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import BackboneError, listed
from .safe_pickle import HEAL, Other, Pairs, View
from .torch_files import SavedFile

# Where trainers put it, the averaged weights first; others are found as well.
NESTED = ("state_dict_ema", "model_ema", "ema", "state_dict", "model_state", "model")
_AVERAGED = re.compile(r"(?:^|[^a-z])(ema|averaged?|avg|swa|shadow|polyak)(?:[^a-z]|$)", re.IGNORECASE)
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # also within a name
_COUNTED = ("total_ops", "total_params")  # what programs that count operations leave in each layer
_DEEPEST = 4  # dicts within dicts
_MOST_ENTRIES = 200_000

Fits = Callable[[str, Any], bool]


@dataclass(frozen=True)
class Weights:
    """The tensors of one network in a file.

    Attributes:
        where: the keys and prefixes under which they lie, joined by dots; "" where that is the file itself.
        tensors: by the name in the network.
        left: names beside them that belong to something else.
        common: how many of the names are the network's.
        fits: whether the network finds all of its body there.
        nested: whether they lie below a key of the file.
    """

    where: str
    tensors: Mapping[str, Any]
    left: tuple[str, ...] = ()
    common: int = 0
    fits: bool = False
    nested: bool = False


@dataclass(frozen=True)
class Contents:
    """Dicts of tensors in a file by their keys joined by dots, and what else there is at the top."""

    dicts: Mapping[str, Mapping[str, Any]]
    others: tuple[str, ...] = ()
    networks: Mapping[str, str] = field(default_factory=dict)


def contents_of(saved: SavedFile) -> Contents:
    """The dicts of tensors in a file, without making any object of it.

    Raises:
        BackboneError: it holds no dict; a whole network, whose code would have to be run; or too much.
    """
    name, top = saved.path.name, saved.content
    if saved.is_program and isinstance(top, Other):
        return Contents({"": {key: _tensor(saved, value) for key, value in _flat(top).items()}})
    if isinstance(top, Other) and _is_network(top):
        raise BackboneError(f"{name} holds a whole network ({top.path[:100]}): {_export('')}.")
    if not isinstance(top, Pairs):
        what = top.path[:100] if isinstance(top, Other) else type(top).__name__
        raise BackboneError(f"{name} holds a {what}, no state dict: {HEAL}.")
    dicts: dict[str, Mapping[str, Any]] = {}
    networks: dict[str, str] = {}
    _collect(saved, top, "", dicts, networks, set())
    return Contents(
        dicts,
        tuple(_described(key[:100] if isinstance(key, str) else type(key).__name__, value) for key, value in top.items),
        networks,
    )


def _collect(
    saved: SavedFile, pairs: Pairs, where: str, dicts: dict[str, Any], networks: dict[str, str], seen: set[int]
) -> None:
    """Add the dicts of tensors that are in one, but for those of optimizers."""
    if len(pairs.items) > _MOST_ENTRIES or len(dicts) > 1000:
        raise BackboneError(f"{saved.path.name} holds more than a checkpoint does: {HEAL}.")
    found = pairs.texts()
    seen.add(id(pairs))
    if "param_groups" in found:
        return
    if any(isinstance(value, View) for value in found.values()):
        dicts[where] = {k: _tensor(saved, v) for k, v in found.items() if isinstance(v, (View, Other))}
    for key, value in found.items():
        path = f"{where}.{key}" if where else key
        if isinstance(value, Pairs) and id(value) not in seen and where.count(".") < _DEEPEST:
            _collect(saved, value, path, dicts, networks, seen)
        elif isinstance(value, Other) and _is_network(value):
            networks[path] = value.path


def _tensor(saved: SavedFile, value: Any) -> Any:
    return saved.tensor(value) if isinstance(value, View) else value


def _is_network(value: Other) -> bool:
    return isinstance(value.state, Pairs) and {"_modules", "_parameters"} <= value.state.texts().keys()


def _export(key: str) -> str:
    inner = f"[{key!r}]" if key else ""
    return (
        "where its code is installed, save its weights alone with "
        f"torch.save(torch.load(FILE, weights_only=False){inner}.state_dict(), NEW)"
    )


def _described(key: str, value: Any) -> str:
    return f"{key!r} ({value.path[:60]})" if isinstance(value, Other) else repr(key)


def _flat(program: Other) -> dict[str, Any]:
    """The tensors of a TorchScript program by name; its attributes are its layers."""
    found: dict[str, Any] = {}
    waiting: list[tuple[str, Other, int]] = [("", program, 0)]
    left = _MOST_ENTRIES
    while waiting and left:
        prefix, one, depth = waiting.pop()
        left -= 1
        for key, value in one.state.texts().items() if isinstance(one.state, Pairs) else ():
            if isinstance(value, View):
                found[prefix + key] = value
            elif isinstance(value, Other) and depth < 50:
                waiting.append((f"{prefix}{key}.", value, depth + 1))
    return found


# --- the choice ------------------------------------------------------------------------------------------------------
def choose_weights(
    contents: Contents, body: Collection[str], wanted: Collection[str], fits: Fits, file: str, asked: str | None
) -> Weights:
    """The weights of a network in a checkpoint.

    Args:
        contents: of the file.
        body: names that must be there.
        wanted: all names of the network.
        fits: whether the tensor of a name has the right shape.
        file: what to call it.
        asked: the key, or prefix, that is asked for.

    Raises:
        BackboneError: there are none, or several networks have them.
    """
    found = [one for where, state in contents.dicts.items() for one in _networks_in(where, state, body, wanted, fits)]
    if asked is not None:
        named = [one for one in found if one.where == asked] or [one for one in found if asked in one.where.split(".")]
        if not named:
            raise BackboneError(f"{file} has no weights under {asked!r}: it has {_choices(found) or 'none'}.")
        found = named
    whole = _without_twins([one for one in found if one.fits])
    if not whole:
        return _nearest(contents, found, file)
    return whole[0] if len(whole) == 1 else _of_several(whole, file)


def _networks_in(
    where: str, state: Mapping[str, Any], body: Collection[str], wanted: Collection[str], fits: Fits
) -> list[Weights]:
    """The networks whose names are in one dict, below prefixes such as "module." or "student.", whole ones if any."""
    own = {part for name in wanted for part in name.split(".")}
    clean = [name for name in state if name.rpartition(".")[2] not in _COUNTED]
    tries: list[dict[str, str]] = [{name: name for name in clean}]
    if any(part in _WRAPPERS and part not in own for name in clean for part in name.split(".")):
        inside = {name: ".".join(p for p in name.split(".") if p not in _WRAPPERS or p in own) for name in clean}
        tries.append(inside)
    found: list[Weights] = []
    for names in tries:
        counts = _prefixes(names.values(), wanted)
        apart = [prefix for prefix, count in counts.items() if prefix and count >= len(body)]  # networks of their own
        found = [_below(p, n, where, state, _outside(names, p, apart), body, wanted, fits) for p, n in counts.items()]
        if any(one.fits for one in found):
            return [one for one in found if one.fits]
    return found[:1]


def _outside(names: Mapping[str, str], prefix: str, apart: Sequence[str]) -> dict[str, str]:
    """The names, with a mark that no layer has before those of other networks below the same prefix."""
    inner = tuple(other for other in apart if other != prefix and other.startswith(prefix))
    return {name: f"\0{short}" if inner and short.startswith(inner) else short for name, short in names.items()}


def _prefixes(names: Collection[str], wanted: Collection[str]) -> dict[str, int]:
    """What stands before names of the network, and before how many, the most frequent first; nothing if none is there."""
    known, counts = set(wanted), Counter[str]()
    for name in names:
        parts = name.split(".")[:40]
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in known:
                counts[".".join(parts[:cut])] += 1
    return {f"{prefix}." if prefix else "": count for prefix, count in counts.most_common(20)} or {"": 0}


def _below(
    prefix: str,
    count: int,
    where: str,
    state: Mapping[str, Any],
    names: Mapping[str, str],
    body: Collection[str],
    wanted: Collection[str],
    fits: Fits,
) -> Weights:
    """The tensors below one prefix, and of the rest what the network has too, such as a head that is not wrapped.

    Raises:
        BackboneError: two entries for one layer.
    """
    found: dict[str, Any] = {}
    left: list[str] = []
    twice = False
    for name, short in names.items():
        ours = short.removeprefix(prefix) if short.startswith(prefix) and short[:1] != "\0" else None
        if ours is None:
            above = (short.removeprefix(p) for p in _parents(prefix) if short.startswith(p))
            ours = next((one for one in above if one in wanted), None)
        if ours is None:
            left.append(name)
        else:
            twice = twice or ours in found
            found[ours] = state[name]
    whole = all(name in found and fits(name, found[name]) for name in body)
    if whole and twice:
        raise BackboneError("the weights have two entries for one layer: save the state dict of the network alone.")
    inner = [part for part in prefix.split(".") if part and part not in _WRAPPERS]
    return Weights(".".join(filter(None, (where, *inner))), found, tuple(left), count, whole, bool(where))


def _parents(prefix: str) -> list[str]:
    """Shorter prefixes: "a." and "" of "a.b."."""
    parts = prefix.split(".")[:-1]
    return ["".join(f"{part}." for part in parts[:cut]) for cut in range(len(parts) - 1, -1, -1)]


def _without_twins(found: Sequence[Weights]) -> list[Weights]:
    """Each once, where a file names the same tensors twice."""
    kept: dict[Any, Weights] = {}
    for one in found:
        places = tuple((getattr(t, "place", id(t)), getattr(t, "view", t).__class__) for t in one.tensors.values())
        kept.setdefault(places, one)
    return list(kept.values())


def _of_several(found: Sequence[Weights], file: str) -> Weights:
    """The averaged ones of one network, or those of the key that says which it is.

    Raises:
        BackboneError: it is not clear which.
    """
    averaged = [one for one in found if _AVERAGED.search(one.where)]
    plain = [one for one in found if one not in averaged]
    if len(averaged) == 1 and len(plain) == 1:
        return averaged[0]
    known = [one for key in NESTED for one in found if one.where == key]
    if known:
        return known[0]
    raise BackboneError(
        f"{file} holds the weights of several networks ({_choices(found)}): say which, as in {file}:{found[0].where}."
    )


def _choices(found: Sequence[Weights]) -> str:
    return listed([one.where or "the file itself" for one in found])


def _nearest(contents: Contents, found: Sequence[Weights], file: str) -> Weights:
    """The one with most names in common, to say what is missing."""
    if contents.networks:
        key, path = next(iter(contents.networks.items()))
        raise BackboneError(f"{file} holds a whole network ({path[:100]}) under {key!r}: {_export(key)}.")
    if not found:
        first = next(iter(contents.others), None)
        what = "nothing" if first is None else f"{first}, which is no tensor, and no state dict"
        raise BackboneError(f"{file} holds {what}: {HEAL}.")
    return max(found, key=lambda one: (one.common, len(one.tensors)))
