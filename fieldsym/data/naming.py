"""What the names of variables say: components of vectors, their common stem, lone scalars.

Name patterns, in any case: u and v with any common ending (u/v, u10/v10, ua/va, uo/vo, uwnd/vwnd),
``u_component_of_…``, ``eastward…``/``northward…``, ``zonal…``/``meridional…``, ``…_x``/``…_y``,
``x_…``/``y_…``, ``Vx``/``Vy``.

>>> name_parts("uwnd"), name_parts("vwnd")
([('2:*wnd', 0)], [('2:*wnd', 1)])

To add a pattern: one line in ``PATTERNS``.
"""

from __future__ import annotations

import re

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


def standard_part(standard: str) -> list[tuple[str, int]]:
    """What a pair of CF standard names shares, and the component that this one names.

    A tensor component names two directions and is none of these.

    Examples
    --------
    >>> standard_part("eastward_wind")
    [('*_wind', 0)]
    """
    for words in STANDARD_WORDS:
        hits = re.findall(rf"(?:^|_)({'|'.join(words)})(?=_|$)", standard)
        if len(hits) == 1:
            key = re.sub(rf"(^|_){hits[0]}(?=_|$)", r"\1*", standard)
            return [(key, words[hits[0]])]
    return []


def name_parts(name: str) -> list[tuple[str, int]]:
    """What a pair of names shares, and the component of this one, by each pattern that fits."""
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


def component_names(kind: str, name: str, size: int, dim: int) -> tuple[str, ...]:
    """Variable names of the components of a block: u_x, u_y; s_xx, s_yy, s_xy; w; r_0, r_1, …"""
    letters = AXIS_LETTERS[:dim]
    if size == 1 and "vector" not in kind:
        return (name,)
    if kind in ("vector", "axial vector") and size == dim:
        return tuple(f"{name}_{a}" for a in letters)
    if kind == "symmetric tensor":
        upper = [a + b for i, a in enumerate(letters) for b in letters[i + 1 :]]
        tails = [a + a for a in letters] + upper
        if len(tails) == size:
            return tuple(f"{name}_{t}" for t in tails)
    return tuple(f"{name}_{i}" for i in range(size))
