"""What the variables of a file are: declared types, dataset cards, CF names and name patterns.

A typed field is a kind of the grammar of :mod:`fieldsym.representation` and the variables that
hold its components. Evidence is taken in this order, and the first that speaks decides:

1. ``types`` given by the user; 2. the attribute ``fieldsym_type`` ("vector u[0]") of files written
by this package; 3. a dataset card; 4. the CF ``standard_name``; 5. the name of the variable.

>>> parse_types("vector u = uwnd, vwnd; pseudoscalar w = vorticity")[0]
Typed(kind='vector', name='u', variables=('uwnd', 'vwnd'), reason='types')

Name patterns, in any case: u and v with any common ending (u/v, u10/v10, ua/va, uo/vo, uwnd/vwnd),
``u_component_of_…``, ``eastward…``/``northward…``, ``zonal…``/``meridional…``, ``…_x``/``…_y``,
``x_…``/``y_…``, ``Vx``/``Vy``. Two candidates for one component are an error, never a guess.

To add a pattern: one line in ``PATTERNS``. To add a dataset: a folder with ``dataset.toml``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fieldsym.errors import DataError

Types = str | Mapping[str, str | Sequence[str]]
Attributes = Mapping[str, Mapping[str, object]]

AXIS_LETTERS = "xyz"
# (what is searched, the words of component x, y, z): the rest of the name is what a pair shares
STANDARD_WORDS = ({"eastward": 0, "northward": 1}, {"x": 0, "y": 1, "z": 2})
PATTERNS = (
    r"(?P<a>(?:.*_)?)(?P<d>[uvw])(?P<b>_component_of_.*)",
    r"(?P<a>.*?)(?P<d>eastward|northward|zonal|meridional)(?P<b>.*)",
    r"(?P<a>)(?P<d>[uvw])(?P<b>.*)",
    r"(?P<a>.+_)(?P<d>[xyz])(?P<b>)",
    r"(?P<a>)(?P<d>[xyz])(?P<b>_.+)",
    r"(?P<a>u|v|vel|velocity)(?P<d>[xyz])(?P<b>)",
)
DIRECTIONS = {
    **dict.fromkeys(("u", "x", "eastward", "zonal"), 0),
    **dict.fromkeys(("v", "y", "northward", "meridional"), 1),
    **dict.fromkeys(("w", "z"), 2),
}
# a lone variable with such a name is one component of a vector, not a scalar
COMPONENT = (
    r"[uv]|[uv]_?\d+m?|[uv](a|o|as|os|wnd|wind|grd|vel|cur|gos|geo|rot|bar)(_?\d+m?)?"
    r"|.*[uv]_component_of_.*|.*(eastward|northward|zonal|meridional).*"
    r"|(.*vel(ocity)?|.*wind|.*current|u|v)_?[xy]|[xy]_(vel|wind|current).*"
)
AXIAL = r"b|.*(magnetic|vorticity|curl).*"
PSEUDOSCALAR_STANDARD = r".*(vorticity|streamfunction|coriolis_parameter|helicity).*"
PSEUDOSCALAR = (
    r"zeta|vor|vort|vrt|vo|vorticity|omega|psi|stream_?func(tion)?|strm|.*_vorticity|pv"
    r"|relative_?vorticity|.*stream_?function"
)
SCALAR = (
    r"p|ps|psl|slp|msl|sp|pres|pressure|t|t2m|temp|temperature|theta|tas|ta|ts|sst|tos|z|zg|hgt"
    r"|geopotential|h|hs|height|depth|eta|ssh|zos|adt|sla|q|r|rh|hus|huss|.*humidity|s|so|sal"
    r"|salinity|rho|density|b|buoyancy|c|concentration|tracer|phi|energy|e|ke|tp|pr|precipitation"
    r"|div|divergence|d|.*temperature|.*pressure|ci|siconc|.*_cover|.*_content|speed"
)


@dataclass(frozen=True)
class Typed:
    """A typed field: its kind and name, the variables of its components, and who said so."""

    kind: str
    name: str
    variables: tuple[str, ...]
    reason: str = "types"


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


class _Resolver:
    """Variables that have no type yet, and the typed fields found so far."""

    def __init__(
        self, attributes: Attributes, available: Sequence[str], dim: int, geographic: bool
    ) -> None:
        self.attributes = attributes
        self.left = list(attributes)
        self.available = list(available)
        self.dim = dim
        self.geographic = geographic
        self.found: list[Typed] = []
        self.notes: list[str] = []

    def text(self, variable: str, key: str) -> str:
        return str(self.attributes[variable].get(key, "")).strip()

    def take(self, typed: Typed) -> None:
        units = {v: self.text(v, "units") for v in typed.variables}
        if len(set(units.values())) > 1:
            raise DataError(
                f"The components of '{typed.kind} {typed.name}' have different units: "
                f"{', '.join(f'{v} in {u!r}' for v, u in units.items())}. Units are never "
                "converted here; convert the variables, or correct the attribute."
            )
        taken = {t.name for t in self.found}
        name = typed.name if typed.name not in taken else identifier(typed.variables[0])
        while name in taken:
            name += "_"
        self.found.append(Typed(typed.kind, name, typed.variables, typed.reason))
        self.left = [v for v in self.left if v not in typed.variables]

    def declared(self, types: Iterable[Typed]) -> None:
        for typed in types:
            absent = [v for v in typed.variables if v not in self.left]
            if absent:
                raise DataError(
                    f"types asks for '{typed.kind} {typed.name}' from {', '.join(absent)}, which "
                    f"is not among the selected variables {', '.join(self.left) or '(none)'}."
                )
            self.take(typed)

    def written(self) -> None:
        groups: dict[tuple[str, str], dict[int, str]] = {}
        for v in self.left:
            match = re.fullmatch(r"(.+) (\w+?)(?:\[(\d+)\])?", self.text(v, "fieldsym_type"))
            if match:
                groups.setdefault((match[1], match[2]), {})[int(match[3] or 0)] = v
        for (kind, name), parts in groups.items():
            if sorted(parts) != list(range(len(parts))):
                self.lonely(parts[max(parts)], f"the attribute fieldsym_type ('{kind} {name}')")
            self.take(Typed(kind, name, tuple(parts[i] for i in sorted(parts)), "fieldsym_type"))

    def carded(self, types: Iterable[Typed]) -> None:
        for typed in types:
            present = [v for v in typed.variables if v in self.left]
            if len(present) == len(typed.variables):
                self.take(typed)
            elif present:
                self.lonely(present[0], f"the card ('{typed.kind} {typed.name}')")

    def paired(self, reason: str) -> None:
        part = _standard_part if reason == "standard_name" else _name_parts
        groups: dict[str, dict[int, list[str]]] = {}
        for v in self.left:
            for key, axis in part(self.text(v, "standard_name") if part is _standard_part else v):
                groups.setdefault(key, {}).setdefault(axis, []).append(v)
        axes = range(self.dim)
        for parts in groups.values():
            parts = {a: [v for v in vs if v in self.left] for a, vs in parts.items()}
            if not all(parts.get(a) for a in axes):
                continue
            if all(len(parts[a]) == 1 for a in axes):
                self.pair(tuple(parts[a][0] for a in axes), reason)
            elif reason == "standard_name":
                self.ambiguous(parts)

    def ambiguous(self, parts: Mapping[int, list[str]]) -> None:
        # several levels or heights under one standard name: only twins by name are no guess
        keys = [{k: v for v in parts[a] for k, _ in _name_parts(v)[:1]} for a in range(self.dim)]
        unique = all(len(k) == len(parts[a]) for a, k in enumerate(keys))
        if not unique or len({frozenset(k) for k in keys}) > 1:
            options = "; ".join(
                f"{AXIS_LETTERS[a]}: {', '.join(parts[a])}" for a in range(self.dim)
            )
            raise DataError(
                f"Two candidates for a component of one vector ({options}): they share a "
                "standard_name, and their names do not pair them. Select with variables=[...], or "
                f"say types='vector u = {parts[0][0]}, {parts[1][0]}'."
            )
        for key in keys[0]:
            self.pair(tuple(k[key] for k in keys), "standard_name and name")

    def pair(self, variables: tuple[str, ...], reason: str) -> None:
        stem = vector_name(variables[0])
        if reason == "name" and re.fullmatch(AXIAL, stem, re.IGNORECASE):
            raise DataError(
                f"{', '.join(variables)} may be an axial vector, whose parity differs from that of "
                f"a velocity. Say types='vector {stem} = {', '.join(variables)}' or "
                f"'axial vector {stem} = ...'."
            )
        self.take(Typed("vector", stem, variables, reason))

    def lonely(self, variable: str, why: str) -> None:
        others = [v for v in self.available if v not in self.attributes]
        twins = [
            v for v in others if {k for k, _ in _name_parts(v)} & set(dict(_name_parts(variable)))
        ]
        advice = (
            f"add {', '.join(twins)} to variables"
            if twins
            else "add the other (a list or glob of files is joined)"
        )
        raise DataError(
            f"Only one component of a vector is present: {variable} (by {why}). A component alone "
            f"is not a field that a rotation can act on; {advice}, leave {variable} out, or say "
            f"what it is, as in types='scalar {identifier(variable)} = {variable}'."
        )

    def alone(self) -> None:
        for v in list(self.left):
            kind, reason = self.kind_of(v)
            self.take(Typed(kind, identifier(v), (v,), reason))

    def kind_of(self, v: str) -> tuple[str, str]:
        standard, units = self.text(v, "standard_name"), self.text(v, "units")
        words = re.findall(r"eastward|northward", standard)
        if len(words) > 1:
            self.undecided(v, f"standard_name {standard} is a component of a tensor")
        if words or (_standard_part(standard) and self.dim > 1):
            self.lonely(v, f"standard_name {standard}")
        if re.fullmatch(PSEUDOSCALAR_STANDARD, standard) and "square_of" not in standard:
            return self.pseudoscalar(v), "standard_name"
        if standard and standard != "unknown":
            return "scalar", "standard_name"
        name = v.lower()
        if re.fullmatch(r"vo|omega|w", name) and re.fullmatch(r"(h?Pa|m)\b.*s.*", units):
            if name == "vo":
                self.lonely(v, "its name and units")
            return "scalar", "name and units"
        if re.fullmatch(PSEUDOSCALAR, name):
            return self.pseudoscalar(v), "name"
        if re.fullmatch(COMPONENT, name):
            if self.dim == 1:
                self.undecided(v, "on a line its name may mean a scalar or a velocity")
            self.lonely(v, "its name")
        if re.fullmatch(SCALAR, name):
            return "scalar", "name"
        if not (self.geographic or units or self.text(v, "long_name")):
            self.undecided(v, "neither its attributes nor its name say")
        self.notes.append(
            f"{v} is taken as a scalar: nothing in the file says otherwise. If it changes sign "
            f"under a reflection, say types='pseudoscalar {identifier(v)} = {v}'."
        )
        return "scalar", "default"

    def pseudoscalar(self, v: str) -> str:
        if self.dim == 3:
            self.undecided(v, "in three dimensions a vorticity is an axial vector")
        return "pseudoscalar"

    def undecided(self, v: str, why: str) -> None:
        others = ", ".join(o for o in self.left if o != v)
        raise DataError(
            f"The type of the variable '{v}' is not known: {why}. Parity is part of a type, so it "
            f"is not guessed; say types='scalar {identifier(v)} = {v}' (or pseudoscalar, or "
            "'vector u = a, b')" + (f", likewise for {others}." if others else ".")
        )


def resolve(
    attributes: Attributes,
    *,
    types: Iterable[Typed] = (),
    card: Card | None = None,
    available: Sequence[str] = (),
    dim: int = 2,
    geographic: bool = False,
) -> tuple[list[Typed], list[str]]:
    """The typed fields that a set of variables makes, and notes on what was assumed.

    Parameters
    ----------
    attributes : attributes of each selected variable
    types : what the user declared
    card : a dataset card, which speaks before names and after the file's ``fieldsym_type``
    available : names of all variables of the file, for messages
    dim : dimension of the base
    geographic : whether the axes are longitude and latitude

    Raises
    ------
    DataError   if a component has no partner or two, if units differ, or if a type is not known.

    Examples
    --------
    >>> [typed.name for typed in resolve({"u10": {}, "v10": {}, "vorticity": {}})[0]]
    ['u10', 'vorticity']
    """
    state = _Resolver(attributes, available, dim, geographic)
    state.declared(types)
    state.written()
    state.carded(card.types if card else ())
    if dim > 1:
        state.paired("standard_name")
        state.paired("name")
    state.alone()
    return state.found, state.notes


def _standard_part(standard: str) -> list[tuple[str, int]]:
    # eastward_wind -> [("*_wind", 0)]; a tensor component names two directions and is none of these
    for words in STANDARD_WORDS:
        hits = re.findall(rf"(?:^|_)({'|'.join(words)})(?=_|$)", standard)
        if len(hits) == 1:
            key = re.sub(rf"(^|_){hits[0]}(?=_|$)", r"\1*", standard)
            return [(key, words[hits[0]])]
    return []


def _name_parts(name: str) -> list[tuple[str, int]]:
    found = []
    for i, pattern in enumerate(PATTERNS):
        match = re.fullmatch(pattern, name, re.IGNORECASE)
        if match:
            key = f"{i}:{match['a']}*{match['b']}"
            if match["d"].isupper() and len(match["d"]) == 1:
                key += "^"
            if match["d"].lower() in ("zonal", "meridional"):
                key += "zonal"
            found.append((key, DIRECTIONS[match["d"].lower()]))
    return found


def identifier(text: str) -> str:
    """A name that the grammar of representations takes: leading digits go to the end."""
    digits, rest = re.fullmatch(r"(\d*m?_+|\d+)?(.*)", re.sub(r"\W", "_", text)).groups()  # type: ignore[union-attr]
    name = rest.strip("_") + ("_" + digits.strip("_") if digits else "")
    return name if name.isidentifier() else f"v_{name}"


def vector_name(variable: str) -> str:
    """The name of the vector to which a first component belongs.

    Examples
    --------
    >>> [vector_name(v) for v in ("u10", "eastward_wind", "10m_u_component_of_wind", "velocity_x")]
    ['u10', 'wind', 'wind_10m', 'velocity']
    """
    for pattern in (*PATTERNS[:2], *PATTERNS[3:]):
        match = re.fullmatch(pattern, variable, re.IGNORECASE)
        if match:
            rest = match["b"].removeprefix("_component_of")
            return identifier((match["a"] + rest).strip("_").replace("__", "_"))
    return identifier(variable)
