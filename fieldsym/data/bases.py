"""The base manifold of a file: from its axes, its attribute ``fieldsym_base``, or a dataset card.

>>> base_from_json(base_to_json(Torus((1.0, 2.0))))
Torus(1, 2)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from fieldsym.data.axes import Axis
from fieldsym.errors import DataError, GridError
from fieldsym.manifold import Box, Manifold, Torus


def build_base(
    attributes: Mapping, axes: Sequence[Axis], frame: str, base: Manifold | None, notes: list[str]
) -> Manifold:
    """The base of some axes: as given, as the file's ``fieldsym_base`` says, or a box."""
    if base is None and "fieldsym_base" in attributes:
        base = base_from_json(str(attributes["fieldsym_base"]))
        if base.dim == len(axes) and not _fits(base, axes):
            notes.append(
                f"the attribute fieldsym_base says {base}, which is not where the samples are (a "
                "part of the file, or another grid?): it was ignored"
            )
            base = None
    if base is not None:
        if base.dim != len(axes):
            raise GridError(
                f"The base {base} has {base.dim} axes; the data have {len(axes)}: "
                f"{', '.join(a.name for a in axes)}."
            )
        return base
    if frame == "geographic":
        notes.append("the base is a flat chart in degrees; components point east and north")
    elif frame != "cartesian":
        notes.append(f"the grid is {frame}: a regional box in the coordinates of its axes")
    else:
        names = ", ".join(a.name for a in axes)
        notes.append(f"{names} taken as not periodic; pass base=fs.Torus(...) if they wrap around")
    return Box(
        [360.0 if a.periodic else _round(a.length) for a in axes],
        periodic=[a.periodic for a in axes],
        location="node",
        origin=[_round(float(a.values[0])) for a in axes],
    )


def _fits(base: Manifold, axes: Sequence[Axis]) -> bool:
    """Whether the samples of the axes are those of the base; a bare index says nothing."""
    if all(np.array_equal(a.values, np.arange(len(a.values))) for a in axes):
        return True
    expected = base.axes([len(a.values) for a in axes])
    return all(
        np.allclose(a.values, x.numpy(), atol=1e-3 * h)
        for a, x, h in zip(axes, expected, base.spacing([len(a.values) for a in axes]), strict=True)
    )


def _round(x: float) -> float:
    return float(f"{x:.7g}")  # coordinates are often stored in float32


def base_to_json(base: Manifold) -> str:
    """A torus or box as the attribute ``fieldsym_base`` of a file."""
    entries = {
        "kind": type(base).__name__.lower(),
        "lengths": base.lengths,
        "periodic": base.periodic,
        "location": base.location,
        "origin": base.origin,
    }
    return json.dumps(entries)


def card_base(entries: Mapping[str, object]) -> dict[str, str]:
    """The base of a dataset card as the attribute of a file; a card without lengths has none."""
    return {"fieldsym_base": json.dumps(entries)} if "lengths" in entries else {}


def base_from_json(text: str) -> Manifold:
    """The base that the attribute ``fieldsym_base`` of a file describes.

    Examples
    --------
    >>> base_from_json('{"kind": "torus", "lengths": [1.0, 2.0]}')
    Torus(1, 2)
    """
    try:
        entries = json.loads(text)
        kind, lengths = entries["kind"], entries["lengths"]
        rest = {"location": entries.get("location", "node"), "origin": entries.get("origin")}
        if kind == "torus":
            return Torus(lengths, **rest)
        if kind == "box":
            return Box(lengths, entries.get("periodic"), **rest)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"The attribute fieldsym_base is not readable: {text!r}.") from error
    raise DataError(f"The attribute fieldsym_base names a torus or a box; got {text!r}.")
