"""Audit of foreign models: which symmetries somebody else's module has.

A model is named as ``module:name``, a factory without arguments, a class or a module instance that
Python can import from the current folder or the environment. It maps fields of declared types to
fields of declared types; what it does with them is measured, and nothing is assumed of its kind.
Fields come from a file, in physical units, or are random and band-limited.

>>> from fieldsym.audit import load_model, random_fields
>>> model = load_model("torch.nn:Identity")
>>> x, bundle = random_fields("pseudoscalar w", "16,24", samples=2)
>>> bool((model(x) == x).all()), bundle
(True, Bundle(Torus(1, 1.5), 'pseudoscalar w'))

``fieldsym evaluate --model`` is :func:`audit`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fieldsym.bundle import Bundle
from fieldsym.config import TrainConfig
from fieldsym.data.fields import open_fields
from fieldsym.data.windows import Windows
from fieldsym.errors import DataError
from fieldsym.evaluation import check_folder, spread, write_reports
from fieldsym.group import named
from fieldsym.manifold import Torus
from fieldsym.report import table
from fieldsym.symmetry.evaluate import evaluate
from fieldsym.symmetry.evaluate_parts import evaluating, own_device, own_dtype
from fieldsym.testing import random_section
from fieldsym.train import parts

if TYPE_CHECKING:
    from rich.table import Table

SEED = 0  # of random fields, and of the weights that a factory draws


def audit(
    model: str,
    group: str,
    out: str | Path,
    *,
    source: object | None = None,
    variables: str | None = None,
    types: str | None = None,
    out_types: str | None = None,
    grid: str | None = None,
    weights: str | Path | None = None,
    samples: int = 32,
    radius: float | None = None,
    overwrite: bool = False,
    progress: Callable[..., None] | None = None,
) -> Table:
    """Evaluate any torch module on data or on random fields, and write the report.

    Parameters
    ----------
    model : "module:name", see :func:`load_model`
    group : such as "dihedral(4) * translations"
    out : folder for ``report.html``, and a netCDF and a JSON file
    source : data, as for :func:`fieldsym.open_fields`: the model takes one state of the test part
        (the last 15 %) in physical units, and its output is compared with the next one. None for
        random fields, see :func:`random_fields`
    variables : of the data, default every field
    types : with data what the file does not say, "vector u = uwnd, vwnd"; without, the types of
        the input channels, "scalar p + vector u"
    out_types : types of the output channels, default those of the input; other ones have no target
    grid : of the random fields, "64" by default
    weights : file of a ``state_dict`` to load
    samples : fields that are measured
    radius : of the disk in which continuous rotations are measured
    overwrite : whether a report in the folder may be replaced
    progress : called with (done, total, text)

    Returns
    -------
    rich Table, the comparison

    Raises
    ------
    DataError     if the model cannot be imported, made or run on these fields, or the data or the
                  weights cannot be used.
    BundleError   if the output has other channels than the declared types.
    """
    with _no_empty_folder(Path(out)):
        check_folder(Path(out), [model], overwrite)
        module = load_model(model, weights)
        x, bundle, known = _inputs(source, variables, types, grid, samples)
        base = bundle.base
        out_bundle = bundle if out_types is None else Bundle(base, out_types)
        if out_bundle != bundle:
            known.pop("y", None)
        _try(module, x[:1], bundle, model)
        report = evaluate(
            module,
            named(group, base.dim),
            x,
            bundle,
            out_bundle,
            region=None if radius is None else base.disk(radius),
            name=model,
            progress=progress,
            **known,  # type: ignore[arg-type]
        )
        write_reports({model: report}, Path(out))
    return table({model: report})


# A folder is made before the work, to know that it can be; where the work fails it goes again.
@contextmanager
def _no_empty_folder(out: Path) -> Iterator[None]:
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        yield
    except BaseException:
        for folder in made:
            with suppress(OSError):  # it holds something, or was never made
                folder.rmdir()
        raise


def load_model(name: str, weights: str | Path | None = None) -> nn.Module:
    """The torch module that a name stands for.

    Parameters
    ----------
    name : "module:name" of an ``nn.Module``, a class of them, or a function that makes one, all
        without arguments; "package.module:Class.method" works. Modules are looked for in the
        current folder first. Random weights are those of one seed
    weights : file of a ``state_dict``, loaded with ``weights_only=True``; the entry "state_dict" of
        a larger checkpoint is taken, and entries that are no tensors are left out

    Raises
    ------
    DataError   if there is no such module or name, it makes no ``nn.Module``, or the weights do not
                fit.

    Examples
    --------
    >>> load_model("torch.nn:GELU")
    GELU(approximate='none')
    """
    with _current_folder(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        found = _found(name)
        torch.manual_seed(SEED)  # whatever the import has drawn
        module = _made(found, name)
    if weights is not None:
        _restore(module, Path(weights), name)
    return module


def random_fields(types: str | None, grid: str, *, samples: int) -> tuple[Tensor, Bundle]:
    """Random band-limited fields of some types on a torus.

    Parameters
    ----------
    types : such as "scalar p + vector u"
    grid : points along the axes: "64" is 64 × 64, "64,96" a rectangle, "64," a line; cells are
        square and the first axis has length 1
    samples : number of fields

    Returns
    -------
    Tensor (samples, channel, *grid), float32, of unit variance per channel, and its Bundle

    Raises
    ------
    DataError   if there are no types, or the grid is not understood.

    Examples
    --------
    >>> x, bundle = random_fields("scalar p + vector u", "32", samples=2)
    >>> x.shape, bundle.base
    (torch.Size([2, 3, 32, 32]), Torus(1, 1))
    """
    if types is None:
        raise DataError(
            "Without data the types of the input channels are needed: --types 'scalar p + vector "
            "u'. Or give data, which the model is run on."
        )
    if samples < 1:
        raise DataError(f"samples must be at least 1; got {samples}.")
    sizes = _sizes(grid)
    bundle = Bundle(Torus([n / sizes[0] for n in sizes]), types)
    return random_section(bundle, sizes, batch=samples, seed=SEED, dtype=torch.float32), bundle


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        sizes = ()
    if not 1 <= len(sizes) <= 3 or min(sizes) < 4:
        raise DataError(
            f"A grid is written '64' (64 × 64 points), '64,96', '32,32,32' or '64,' (a line), with "
            f"at least 4 points along each axis; got '{text}'."
        )
    return sizes if "," in text else sizes * 2


# The inputs, their bundle, and what else evaluate is told about them.
def _inputs(
    source: object, variables: str | None, types: str | None, grid: str | None, samples: int
) -> tuple[Tensor, Bundle, dict[str, object]]:
    given, owner = (variables, "variables") if source is None else (grid, "grid")
    if given is not None:
        raise DataError(
            f"--variables names fields of data, --grid is that of random fields; got --{owner} "
            f"{given} {'without' if source is None else 'with'} data. Leave it out."
        )
    if source is None:
        return *random_fields(types, grid or "64", samples=samples), {}
    fields = open_fields(source, variables=variables, types=types)
    x, y = spread(Windows(parts(fields, TrainConfig())[2]), samples)
    return x, fields.bundle, {"y": y, "mask": fields.mask, "units": fields.units}


# The current folder comes first, as for ``python -m``; a factory may import from it as well.
@contextmanager
def _current_folder() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)


def _found(name: str) -> object:
    """What the name stands for, before it is called."""
    path, colon, inside = name.partition(":")
    if not (path and colon and inside):
        raise DataError(f"A model is named 'module:factory', such as mymodels:fno; got '{name}'.")
    if path.startswith(".") or path.endswith(".py") or "/" in path:
        stem = PurePath(path.removesuffix(".py")).name.lstrip(".")
        raise DataError(
            f"A model is named by its module, not by a file: got '{name}'. Call the command in the "
            f"folder of the file, with {stem}:{inside}."
        )
    try:
        found: object = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise DataError(f"Importing {path} failed: {_said(error)}.") from error
        raise DataError(
            f"There is no module '{error.name}' in {Path.cwd()} or among the installed packages. "
            "Call the command in the folder of the file, or install the package."
        ) from error
    except (Exception, SystemExit) as error:
        raise DataError(f"Importing {path} failed: {_said(error)}.") from error
    for part in inside.split("."):
        if not hasattr(found, part):
            raise DataError(f"{path} has no '{inside}'. It has {_listed(found)}.")
        found = getattr(found, part)
    return found


def _listed(found: object) -> str:
    own = [
        n
        for n, v in getattr(found, "__dict__", {}).items()
        if callable(v) and not n.startswith("_")
    ]
    return ", ".join(own[:12]) + (", …" if len(own) > 12 else "") or "no factory at all"


def _made(found: object, name: str) -> nn.Module:
    """The module itself, or what the class or function makes."""
    if not isinstance(found, nn.Module):
        if not callable(found):
            raise DataError(
                f"{name} is a {type(found).__name__}, which cannot be called. Name a torch module, "
                "its class, or a function that makes it."
            )
        try:
            found = found()
        except (Exception, SystemExit) as error:
            raise DataError(
                f"{name}() failed: {_said(error)}. A factory takes no arguments; write a function "
                "that gives them."
            ) from error
    if not isinstance(found, nn.Module):
        raise DataError(
            f"{name} makes a {type(found).__name__}; expected a torch.nn.Module. Wrap a function "
            "in one."
        )
    return found


def _restore(module: nn.Module, path: Path, name: str) -> None:
    """Load a state_dict; tensors only, and all of them."""
    if not path.is_file():
        raise DataError(f"There are no weights {path}. Give the file of a state_dict.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of every kind at foreign bytes
        raise DataError(
            f"{path} holds no tensors that can be read safely ({type(error).__name__}). Save "
            "the tensors of a state_dict alone."
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise DataError(f"{path} holds a {type(content).__name__}; expected a state_dict.")
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise DataError(
            f"The weights in {path} are not those of {name}: {_said(error)}."
        ) from error


def _try(module: nn.Module, x: Tensor, bundle: Bundle, name: str) -> None:
    """Run the model once: what it raises becomes one message."""
    try:
        with torch.no_grad(), evaluating(module):
            module(x.to(own_device(module, x.device), own_dtype(module, x.dtype)))
    except Exception as error:
        raise DataError(
            f"{name} cannot be run on fields '{bundle.representation}' of shape {tuple(x.shape)}: "
            f"{_said(error)}. Declare the channels that it takes, or another grid."
        ) from error


def _said(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text[:240]}" if text else type(error).__name__
