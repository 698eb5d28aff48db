"""The demonstration: unforced Navier–Stokes, a plain and a D4 operator side by side, one report.

Vorticity is a pseudoscalar, and the flow on a square torus commutes with all of D4 and with every
translation. The D4 operator cannot help but do so; the plain one has to learn it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fieldsym.config import TrainConfig
from fieldsym.data.fields import open_fields
from fieldsym.errors import DataError
from fieldsym.evaluation import windows_of, write_reports
from fieldsym.group import dihedral, translations
from fieldsym.report import table
from fieldsym.simulate.dataset import make_dataset, save_dataset
from fieldsym.simulate.navier_stokes import NavierStokes
from fieldsym.symmetry.evaluate import evaluate
from fieldsym.train import parts, train

if TYPE_CHECKING:
    from rich.table import Table

VISCOSITY, INTERVAL, STEPS = 1e-4, 2.0, 10
DATA = "navier_stokes.nc"
CONFIG = TrainConfig(
    hidden_channels=24, epochs=15, batch_size=16, learning_rate=4e-3, train=0.6, valid=0.1
)
MODELS = {"plain FNO": CONFIG, "D4 FNO": replace(CONFIG, group="dihedral(4)")}


def run(
    out: Path,
    *,
    grid: int = 64,
    samples: int = 60,
    config: TrainConfig | None = None,
    progress: Callable[..., None] = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
) -> Table:
    """Simulate, train both operators, evaluate them and write the report.

    Parameters
    ----------
    out : folder for ``navier_stokes.nc``, the checkpoints and ``report.html``
    grid, samples : size of the simulation
    config : TrainConfig shared by both operators, default that of the demonstration
    progress : called with (done, total, text)
    say : called with one line per stage

    Returns
    -------
    rich Table, the comparison

    Raises
    ------
    DataError   if the folder holds something else already, or data of another size.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()) and not (out / DATA).exists():
        raise DataError(f"{out} holds other files. Give an empty or new folder with --out.")
    out.mkdir(parents=True, exist_ok=True)
    models = MODELS if config is None else {
        "plain FNO": config, "D4 FNO": replace(config, group="dihedral(4)")
    }  # fmt: skip
    say(f"1/3 simulating {samples} flows on {grid} × {grid} points")
    _simulate(out / DATA, grid, samples, progress)
    fields = open_fields(out / DATA)
    if fields.values.shape != (samples, STEPS + 1, 1, grid, grid):
        raise DataError(
            f"{out / DATA} holds {fields.shape_text}; the demonstration takes {samples} samples, "
            f"{STEPS + 1} steps, {grid} × {grid} points. Give a new folder with --out."
        )
    reports = {}
    group = dihedral(4) * translations(2)
    truth = NavierStokes(fields.bundle.base, time=INTERVAL, viscosity=VISCOSITY)
    for name, own in models.items():
        say(f"2/3 training the {name} ({own.epochs} epochs)")
        folder = out / name.replace(" ", "_")
        model = train(
            fields,
            own,
            folder,
            resume=(folder / "last.pt").exists(),
            progress=lambda done, total, errors: progress(
                done, total, f"epoch {done}/{total}, validation error {errors['valid']:.4f}"
            ),
        )
        say(f"3/3 evaluating the {name}")
        x, y = windows_of(parts(fields, own)[2], model, 32)
        reports[name] = evaluate(
            model,
            group,
            x,
            model.in_bundle,
            model.out_bundle,
            y=y,
            truth=truth,
            region=fields.bundle.base.disk(0.4),
            units=fields.units,
            name=name,
            progress=progress,
        )
    write_reports(reports, out)
    return table(reports)


def _simulate(path: Path, grid: int, samples: int, progress: Callable[..., None]) -> None:
    from fieldsym.manifold import Torus

    if path.exists():
        return
    ds = make_dataset(
        Torus((1.0, 1.0)),
        (grid, grid),
        samples=samples,
        steps=STEPS,
        interval=INTERVAL,
        viscosity=VISCOSITY,
        progress=progress,
    )
    save_dataset(ds, path)
