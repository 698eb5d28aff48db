"""What a user and a dataset card declare: typed fields, and the entries of a bundle.

A typed field is a kind of the grammar of :mod:`fieldsym.representation` and the variables that
hold its components. What nobody declares, :mod:`fieldsym.data.resolve` finds out.

>>> parse_types("vector u = uwnd, vwnd; pseudoscalar w = vorticity")[0]
Typed(kind='vector', name='u', variables=('uwnd', 'vwnd'), reason='types')

To add a dataset: a folder with ``dataset.toml``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fieldsym.bundle import Bundle
from fieldsym.data.naming import component_names
from fieldsym.errors import DataError
from fieldsym.manifold import Manifold

Types = str | Mapping[str, str | Sequence[str]]


@dataclass(frozen=True)
class Typed:
    """A typed field: its kind and name, the variables of its components, and who said so."""

    kind: str
    name: str
    variables: tuple[str, ...]
    reason: str = "types"


@dataclass(frozen=True)
class Entry:
    """One block of the bundle: its type, the variables of its components, its level, and why."""

    typed: Typed
    name: str
    level: float | None = None


@dataclass(frozen=True)
class Card:
    """A dataset card: what a dataset is, and how to get or generate it. It holds no data."""

    name: str
    title: str
    types: tuple[Typed, ...]
    units: Mapping[str, str]
    base: Mapping[str, object]
    licence: str
    source: str
    get: str
    files: str = ""
    notes: tuple[str, ...] = field(default=())


def load_card(path: str | Path) -> Card:
    """Read a dataset card.

    Parameters
    ----------
    path : a ``dataset.toml``, or the folder that holds it

    Raises
    ------
    DataError   if the file is absent, is not TOML, or lacks an entry.
    """
    path = Path(path)
    path = path / "dataset.toml" if path.is_dir() else path
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"Expected a dataset card (dataset.toml or its folder); got {path}: {error.strerror}."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"The dataset card {path} is not valid TOML: {error}.") from error
    return _card(path, entries)


def _card(path: Path, entries: Mapping[str, object]) -> Card:
    need = ("name", "title", "licence", "source", "get", "variables")
    missing = [key for key in need if not entries.get(key)]
    variables = entries.get("variables", {})
    if missing or not isinstance(variables, Mapping):
        raise DataError(
            f"The dataset card {path} lacks {', '.join(missing) or 'a table [variables]'}; a card "
            f"has the entries {', '.join(need)}, and optionally base, files and notes."
        )
    typed: list[Typed] = []
    units: dict[str, str] = {}
    for key, entry in variables.items():
        if not isinstance(entry, Mapping) or not {"components", "units"} <= set(entry):
            raise DataError(
                f"The variable '{key}' of the dataset card {path} needs components and units, for "
                'example "vector u" = {components = ["uwnd", "vwnd"], units = "m/s"}.'
            )
        typed += parse_types({key: entry["components"]}, reason=f"card {entries['name']}")
        units |= dict.fromkeys(typed[-1].variables, str(entry["units"]))
    texts = {key: str(entries.get(key, "")) for key in (*need[:-1], "files")}
    notes = entries.get("notes", [])
    base = entries.get("base", {})
    return Card(
        types=tuple(typed),
        units=units,
        base=dict(base) if isinstance(base, Mapping) else {},
        notes=tuple(map(str, notes)) if isinstance(notes, list) else (str(notes),),
        **texts,
    )


def parse_types(types: Types | None, *, reason: str = "types") -> list[Typed]:
    """Typed fields declared by the user.

    Parameters
    ----------
    types : ``"vector u = uwnd, vwnd; pseudoscalar w = vorticity"``, or the same as a mapping
        ``{"vector u": ["uwnd", "vwnd"], "pseudoscalar w": "vorticity"}``; "scalar p" alone means
        the variable p

    Raises
    ------
    DataError   if an entry is not of this form, or a name or variable occurs twice.
    """
    items: Iterable[tuple[str, str | Sequence[str]]]
    if isinstance(types, str):
        items = [_halves(part) for part in types.split(";") if part.strip()]
    else:
        items = (types or {}).items()
    typed = [_typed(key, value, reason) for key, value in items]
    names = [t.name for t in typed]
    variables = [v for t in typed for v in t.variables]
    for what, given in (("field", names), ("variable", variables)):
        twice = {n for n in given if given.count(n) > 1}
        if twice:
            raise DataError(f"Each {what} may occur once in types; got {sorted(twice)} twice.")
    return typed


def _halves(part: str) -> tuple[str, str]:
    left, equals, right = part.partition("=")
    return left, right if equals else (left.split() or [""])[-1]


def _typed(key: str, value: str | Sequence[str], reason: str) -> Typed:
    words = key.split()
    variables = value.split(",") if isinstance(value, str) else list(value)
    cleaned = tuple(str(v).strip() for v in variables if str(v).strip())
    if len(words) < 2 or not words[-1].isidentifier() or not cleaned:
        raise DataError(
            "Expected types such as 'vector u = uwnd, vwnd; pseudoscalar w = vorticity' (kind, "
            f"name, then the variables of the components); got {key.strip()!r} = {value!r}."
        )
    return Typed(" ".join(words[:-1]), words[-1], cleaned, reason)


def bundle_of(base: Manifold, entries: Sequence[Entry]) -> Bundle:
    """The bundle of some entries.

    Raises
    ------
    DataError   if the variables of an entry are not as many as the components of its kind.
    """
    bundle = Bundle(base, " + ".join(f"{e.typed.kind} {e.name}" for e in entries))
    for block, e in zip(bundle.blocks, entries, strict=True):
        if block.size != len(e.typed.variables):
            raise DataError(
                f"A {block.kind} on {base} has {block.size} components; '{e.typed.kind} "
                f"{e.typed.name}' got {len(e.typed.variables)}: {', '.join(e.typed.variables)}."
            )
    return bundle


def entries_of(bundle: Bundle, like: Sequence[Entry] = ()) -> tuple[Entry, ...]:
    """Entries of a bundle; blocks that ``like`` has keep their variables and level."""
    known = {(e.typed.kind, e.name): e for e in like}
    made = []
    for name, block in zip(bundle.names, bundle.blocks, strict=True):
        parts = component_names(block.kind, name, block.size, bundle.base.dim)
        kind = f"{block.copies} {block.kind}" if block.copies > 1 else block.kind
        new = Entry(Typed(kind, name, parts, "bundle"), name)
        old = known.get((block.kind, name))
        made.append(old if old and len(old.typed.variables) == block.size else new)
    return tuple(made)
