"""The command line: inspect, simulate, train, evaluate, predict and demo.

Every command takes netCDF or zarr, shows its progress, and ends bad input with one message and a
non-zero exit code. ``fieldsym COMMAND --help`` has the options and examples.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields as entries
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fieldsym.config import TrainConfig, listed
from fieldsym.errors import DataError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser
    from rich.console import Console
    from rich.table import Table

    from fieldsym.data.fields import Fields
    from fieldsym.surrogate import Surrogate

ERRORS = (ValueError, OSError)  # ours are ValueErrors; OSError: unreadable, not writable
FAILED, INTERRUPTED = 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 (bad input), 2 (bad options) or 130 (interrupted)."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    parser = _parser()
    options = parser.parse_args(None if arguments is None else list(arguments))
    command = options.pop("command")
    with _warnings_as_notes(console):
        try:
            COMMANDS[command][0](console, **options[command].as_dict())
        except ERRORS as error:
            text = f"fieldsym {command}: {type(error).__name__}: {error}"
            console.print(text, markup=False, soft_wrap=True)
            return FAILED
        except KeyboardInterrupt:
            more = " Go on with --resume true." if command == "train" else ""
            console.print(f"fieldsym {command}: interrupted. Finished files are kept.{more}")
            return INTERRUPTED
    return 0


def inspect(
    console: Console,
    data: list[str],
    variables: str | None = None,
    types: str | None = None,
    levels: str | None = None,
) -> None:
    """Say what a file holds: types, axes, missing values, and which groups act on its grid.

    Args:
        data: files, or a quoted glob
        variables: names separated by commas; default every field on the grid
        types: what the file does not say: "vector u = uwnd, vwnd; pseudoscalar w = vorticity"
        levels: levels of a vertical axis to keep, separated by commas: "500, 850"
    """
    from fieldsym.data.inspect import inspect as look

    with console.status("reading"):
        found = look(_source(data), variables=variables, types=types, levels=listed(levels))
    _stdout(found.text)


def simulate(
    console: Console,
    out: Path,
    grid: int = 64,
    samples: int = 200,
    steps: int = 10,
    interval: float = 2.0,
    viscosity: float = 1e-4,
    forcing: str = "none",
    velocity: bool = False,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Simulate two-dimensional Navier-Stokes flow (vorticity, periodic unit square) into netCDF.

    Args:
        out: file to write
        grid: points along each axis
        samples: trajectories
        steps: stored intervals per trajectory, after the initial state
        interval: time between stored states
        viscosity: kinematic viscosity
        forcing: "none" (D4 and all translations), "cos4" (C4) or "sin+cos" (no quarter turn)
        velocity: store the velocity too
        seed: of the initial states
        overwrite: replace an existing file
    """
    from fieldsym.manifold import Torus
    from fieldsym.simulate.dataset import make_dataset, save_dataset

    _check_target(out, overwrite)
    with _bar(console, "simulating") as update:
        ds = make_dataset(
            Torus((1.0, 1.0)),
            (grid, grid),
            samples=samples,
            steps=steps,
            interval=interval,
            viscosity=viscosity,
            forcing=forcing,
            velocity=velocity,
            seed=seed,
            progress=update,
        )
    save_dataset(ds, out, overwrite=overwrite)
    _stdout(f"wrote {out}: {samples} samples of {steps + 1} states, {grid} × {grid} points")


def train(
    console: Console,
    data: list[str],
    out: Path,
    compare: bool = False,
    resume: bool = False,
    **options: Any,
) -> None:
    """Train a one-step forecast and score it beside persistence and climatology.

    Args:
        data: files, or a quoted glob
        out: folder for the checkpoints and scores
        compare: train a plain FNO of the same width, modes and epochs as well, in OUT/plain
        resume: go on with an interrupted run; the result is that of an uninterrupted one
    """
    from dataclasses import replace

    from fieldsym.data.fields import open_fields
    from fieldsym.forecast import scores

    config = TrainConfig(**{e.name: options[e.name] for e in entries(TrainConfig)})
    with console.status("reading"):
        fields = open_fields(
            _source(data),
            variables=config.variables,
            types=config.types,
            levels=listed(config.levels),
        )
    console.print(f"read {fields}", markup=False)
    _warn_of_violations(fields, config)
    models = {"model": _fit(console, fields, config, out, resume)}
    redundant = config.group == "none" and (
        config.positional_embedding == "grid" or not any(fields.bundle.base.periodic)
    )
    if compare and redundant:
        console.print("note: the model is the plain FNO already; give --group to compare with it")
    elif compare:
        plain = replace(config, group="none", augment="none", positional_embedding="grid")
        models["plain FNO"] = _fit(console, fields, plain, out / "plain", resume)
    table = scores(fields, config, models)
    _save_scores(table, models, out)
    _print_scores(table, fields.units)
    console.print(f"checkpoint: {out / 'best.pt'}", markup=False, soft_wrap=True)


def evaluate(
    console: Console,
    data: list[str],
    models: list[str],
    group: str,
    out: Path,
    model: str | None = None,
    weights: Path | None = None,
    variables: str | None = None,
    types: str | None = None,
    out_types: str | None = None,
    grid: str | None = None,
    samples: int = 32,
    radius: float | None = None,
    overwrite: bool = False,
) -> None:
    """Measure which symmetries models have: tables, netCDF, JSON and one HTML page.

    Args:
        data: files, or a quoted glob; forecasts are compared on the test part. Without data a
            --model is run on random fields
        models: checkpoints, for example runs/d4/best.pt runs/plain/best.pt
        group: elements and generators to test, such as "dihedral(4) * translations" or "se"
        out: folder for report.html, and NAME.nc and NAME.json of each model
        model: any torch module instead of checkpoints, as module:factory, module:Class or
            module:instance; it gets the fields of the data in their units
        weights: state_dict to load into --model
        variables: names separated by commas; default those of the training
        types: what the file does not say; default that of the training. Without data, the types
            of the channels that --model takes: "scalar p + vector u"
        out_types: types of the channels that --model returns; default those that it takes
        grid: points of random fields: "64" is 64 × 64 (the default), "64,96" a rectangle, "64," a
            line
        samples: number of test windows or random fields
        radius: measure continuous rotations inside this disk about the centre
        overwrite: replace a report in the folder
    """
    from fieldsym.audit import audit
    from fieldsym.evaluation import evaluate_checkpoints

    _check_choice(data, models, model, weights=weights, out_types=out_types, grid=grid)
    source = _source(data) if data else None
    with _bar(console, "evaluating") as update:
        if model is None:
            table = evaluate_checkpoints(
                source,
                models,
                group,
                out,
                variables=variables,
                types=types,
                samples=samples,
                radius=radius,
                overwrite=overwrite,
                progress=update,
            )
        else:
            table = audit(
                model,
                group,
                out,
                source=source,
                variables=variables,
                types=types,
                out_types=out_types,
                grid=grid,
                weights=weights,
                samples=samples,
                radius=radius,
                overwrite=overwrite,
                progress=update,
            )
    _print_table(table)
    console.print(f"report: {out / 'report.html'}", markup=False, soft_wrap=True)


def _check_choice(data: list[str], models: list[str], model: str | None, **foreign: object) -> None:
    """Checkpoints on data, or one foreign model; its options go with it alone."""
    if bool(models) == (model is not None):
        raise DataError(
            "Give trained checkpoints with --models, or one torch module with --model "
            "module:factory."
        )
    if not models:
        return
    if not data:
        raise DataError("Checkpoints are evaluated on data: name the files of the training.")
    for name, value in foreign.items():
        if value is not None:
            raise DataError(f"--{name} belongs to --model; checkpoints know theirs. Leave it out.")


def predict(
    console: Console,
    data: list[str],
    model: Path,
    out: Path,
    steps: int = 1,
    variables: str | None = None,
    types: str | None = None,
    overwrite: bool = False,
) -> None:
    """Forecast from the last states of a file, with its coordinates, units and calendar.

    Args:
        data: files, or a quoted glob
        model: checkpoint of a training
        out: netCDF file to write
        steps: forecasts, each from the one before
        variables: names separated by commas; default those of the training
        types: what the file does not say; default that of the training
        overwrite: replace an existing file
    """
    from fieldsym.data.writers import write_netcdf
    from fieldsym.forecast import forecast_dataset

    _check_target(out, overwrite)
    if any(out.resolve() == Path(path).resolve() for path in data):
        raise DataError(f"{out} is the input of the forecast. Give another file with --out.")
    with console.status("forecasting"):
        ds = forecast_dataset(_source(data), model, steps, variables=variables, types=types)
    write_netcdf(ds, out)
    _stdout(f"wrote {out}: {steps} forecast{'s' if steps > 1 else ''}")


def demo(console: Console, out: Path = Path("demo")) -> None:
    """The main job on simulated data: a plain and a D4 operator side by side, and the report.

    Args:
        out: folder for the data, the checkpoints and the report
    """
    from fieldsym.demo import run

    with _bar(console, "demo") as update:
        table = run(out, progress=update, say=lambda text: console.print(text, markup=False))
    _print_table(table)
    console.print(f"open {out / 'report.html'} in a browser", markup=False, soft_wrap=True)


EXAMPLES = {
    "inspect": "fieldsym inspect era5.nc\n  fieldsym inspect 'currents/*.nc' --variables u,v",
    "simulate": "fieldsym simulate ns.nc --samples 200 --forcing none",
    "train": "fieldsym train ns.nc --out runs/d4 --group 'dihedral(4)'\n"
    "  fieldsym train 'currents/*.nc' --out runs/currents --group 'cyclic(2)' --compare true",
    "evaluate": "fieldsym evaluate ns.nc --models runs/d4/best.pt "
    "--group 'dihedral(4) * translations' --out report\n"
    "  fieldsym evaluate --model mymodels:fno --types 'pseudoscalar w' --grid 64 "
    "--group 'dihedral(4) * translations' --out audit",
    "predict": "fieldsym predict ns.nc --model runs/d4/best.pt --steps 10 --out forecast.nc",
    "demo": "fieldsym demo --out demo",
}
COMMANDS: dict[str, tuple[Callable[..., None], tuple[str, ...]]] = {
    "inspect": (inspect, ("data",)),
    "simulate": (simulate, ("out",)),
    "train": (train, ("data",)),
    "evaluate": (evaluate, ("data",)),
    "predict": (predict, ("data",)),
    "demo": (demo, ()),
}


def _parser() -> ArgumentParser:
    from jsonargparse import ActionConfigFile, ArgumentParser

    formatter = _help_formatter()
    parser = ArgumentParser(
        prog="fieldsym",
        description="Which symmetries fields and neural operators have.",
        formatter_class=formatter,
        allow_abbrev=False,
    )
    commands = parser.add_subcommands(dest="command", metavar="COMMAND")
    for name, (function, positional) in COMMANDS.items():
        summary = (function.__doc__ or "").splitlines()[0]
        own = ArgumentParser(
            prog=f"fieldsym {name}",
            description=summary,
            epilog=f"examples:\n  {EXAMPLES[name]}",
            formatter_class=formatter,
            allow_abbrev=False,
        )
        if "data" in positional:
            # without data a foreign model is measured on random fields
            few: dict[str, Any] = {"nargs": "+"}
            if name == "evaluate":  # without data a foreign model is run on random fields
                few = {"nargs": "*", "default": []}
            own.add_argument("data", **few, type=str, help="files, or a quoted glob")
        if "out" in positional:
            own.add_argument("out", type=Path, help="netCDF file to write")
        if name == "train":
            own.add_argument("--config", action=ActionConfigFile, help="options from a YAML file")
            own.add_class_arguments(TrainConfig)
        if name == "evaluate":
            own.add_argument("--models", nargs="+", type=str, default=[], help="checkpoints")
        skip: set[str | int] = {"console", *positional, "options", "models"}
        own.add_function_arguments(function, as_group=False, as_positional=False, skip=skip)
        commands.add_subcommand(name, own, help=summary)
    return parser


def _help_formatter() -> type:
    import argparse

    from jsonargparse import DefaultHelpFormatter

    class Formatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
        """Keep the line breaks of the examples."""

    return Formatter


def _source(data: list[str]) -> str | list[str]:
    return data[0] if len(data) == 1 else data


def _check_target(out: Path, overwrite: bool) -> None:
    """Before the work: the file may be written, and its folder is there."""
    if out.exists() and not overwrite:
        raise DataError(f"{out} exists. Give another file, or --overwrite true.")
    if not out.parent.is_dir():
        raise DataError(f"Cannot write {out}: there is no folder {out.parent}. Make it first.")


def _stdout(text: str) -> None:
    sys.stdout.write(f"{text.rstrip()}\n")


@contextmanager
def _warnings_as_notes(console: Console) -> Iterator[None]:
    """Show warnings as one line each, without the place in the code."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        console.print(f"note: {message}", markup=False, soft_wrap=True)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module="fieldsym")
        warnings.showwarning = show  # type: ignore[assignment]
        yield


@contextmanager
def _bar(console: Console, label: str) -> Iterator[Callable[..., None]]:
    """A progress bar; the function it gives takes (done, total) and an optional text."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task(label, total=None, note="")

        def update(done: int, total: int, note: str = "") -> None:
            progress.update(task, completed=done, total=total, note=note or f"{done}/{total}")

        yield update


def _fit(
    console: Console, fields: Fields, config: TrainConfig, out: Path, resume: bool
) -> Surrogate:
    from fieldsym.train import train as fit

    name = "plain FNO" if config.group == "none" else f"FNO with {config.group}"
    with _bar(console, f"training {name}") as update:

        def progress(done: int, total: int, errors: dict[str, float]) -> None:
            text = ", ".join(f"{k} {v:.4f}" for k, v in errors.items())
            update(done, total, f"epoch {done}/{total}: {text}")

        return fit(fields, config, out, resume=resume, progress=progress)


def _warn_of_violations(fields: Fields, config: TrainConfig) -> None:
    """Measure on the data whether the declared types and group fit them."""
    from fieldsym.evaluation import mask_note, violation_of_data
    from fieldsym.group import named

    said = violation_of_data(fields, config)
    for text in (said, mask_note(fields, named(config.group, fields.bundle.base.dim))):
        if text:
            warnings.warn(text, stacklevel=2)


def _save_scores(
    table: dict[str, dict[str, float]], models: dict[str, Surrogate], out: Path
) -> None:
    from fieldsym.surrogate import save_json

    sizes = {n: sum(p.numel() for p in m.parameters()) for n, m in models.items()}
    save_json({"scores": table, "parameters": sizes}, out / "scores.json")


def _print_scores(table: dict[str, dict[str, float]], units: dict[str, str]) -> None:
    from rich.table import Table

    columns = list(next(iter(table.values())))
    shown = Table("one-step forecast of the test part", *(_header(c, units) for c in columns))
    for name, row in table.items():
        shown.add_row(name, *(f"{row[c]:.4g}" for c in columns))
    _print_table(shown)


def _header(column: str, units: dict[str, str]) -> str:
    if column == "relative":
        return "relative L2 error (normalised)"
    unit = units.get(column.removeprefix("rmse "), "")
    return f"{column} ({unit})" if unit else column


def _print_table(table: Table) -> None:
    from rich.console import Console

    Console().print(table)
