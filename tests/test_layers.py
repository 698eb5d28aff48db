"""Imports point down, the four verbs are siblings, and importing the package stays light."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import fieldsym

PACKAGE = Path(fieldsym.__file__).parent
LAYERS = [
    "errors", "group manifold lattice_velocities", "representation", "bundle", "action", "lie",
    "operators", "data", "simulate", "symmetry testing", "surrogate report config", "train cloning",
    "forecast", "evaluation", "audit", "demo", "cli",
]  # fmt: skip
RANK = {name: i for i, row in enumerate(LAYERS) for name in row.split()}
VERBS = ("enforce", "promote", "discover", "evaluate")
# Group.stabiliser moves fields: a question users ask of the group, answered by the layer of actions
UPWARD = {("group", "action_stabiliser.stabiliser")}
RE_EXPORTING = ("__init__", "simulate")
HEAVY = ("xarray", "neuralop", "matplotlib", "lightning", "rich", "pandas", "scipy", "jsonargparse")


def layer(module):
    """The first part that has a rank (``report_page`` belongs to ``report``), or None."""
    first = module.split(".")[0]
    return next((n for n in (first, first.split("_")[0]) if n in RANK), None)


def imported_modules(path):
    """What a file imports from the package, apart from imports for type checkers."""
    tree = ast.parse(path.read_text())
    for node in _running(tree):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{a.name}" for a in node.names]
        else:
            names = []
        yield from (n.removeprefix("fieldsym.") for n in names if n.startswith("fieldsym."))


def _running(node):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from _running(child)


def verb(module):
    return next((v for v in VERBS if module.startswith(f"symmetry.{v}")), None)


def allowed(here, there):
    if (here, there) in UPWARD:
        return True
    a, b = layer(here), layer(there)
    if a is None or b is None or (a, b) == ("data", "operators"):
        return False
    if verb(here) and verb(there):
        return verb(here) == verb(there)
    return a == b or RANK[b] < RANK[a]


def violations(package):
    """Imports that point up or sideways, and re-exports that hide a leaf module."""
    bad = []
    for path in sorted(package.rglob("*.py")):
        here = ".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__")
        found = list(imported_modules(path))
        if here not in ("__init__", "__main__"):
            bad += [f"{here} imports {there}" for there in found if not allowed(here, there)]
        if path.name == "__init__.py" and here not in RE_EXPORTING and found:
            bad.append(f"{here} re-exports {found[0]}")
    return bad


def test_imports_point_down():
    assert not violations(PACKAGE)


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("group.py", "from fieldsym.bundle import Bundle", "group imports bundle.Bundle"),
        ("group.py", "def f():\n    import fieldsym.lie", "group imports lie"),
        ("group.py", "from fieldsym.manifold import Torus", "group imports manifold.Torus"),
        ("data/fields.py", "from fieldsym.operators.fno import FNO",
         "data.fields imports operators.fno.FNO"),
        ("data/cards.py", "from fieldsym.train import train", "data.cards imports train.train"),
        ("symmetry/promote.py", "from fieldsym.symmetry.enforce import enforce",
         "symmetry.promote imports symmetry.enforce.enforce"),
        ("symmetry/discover.py", "from fieldsym.testing import x",
         "symmetry.discover imports testing.x"),
        ("lie.py", "from fieldsym import Bundle", "lie imports Bundle"),
        ("odd.py", "from fieldsym.errors import GridError", "odd imports errors.GridError"),
        ("operators/__init__.py", "from fieldsym.operators.fno import FNO",
         "operators re-exports operators.fno.FNO"),
        ("report_page.py", "from fieldsym.cli import main", "report_page imports cli.main"),
    ],
)  # fmt: skip
def test_planted_violations_are_reported(tmp_path, file, line, message):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(line)
    assert violations(tmp_path) == [message]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("operators/fno.py", "from fieldsym.bundle import Bundle"),
        ("group.py", "if TYPE_CHECKING:\n    from fieldsym.manifold import Manifold"),
        ("symmetry/evaluate_rows.py", "from fieldsym.symmetry.evaluate_parts import x"),
        ("data/fields.py", "from fieldsym.data import cards"),
        ("__init__.py", "from fieldsym.operators.fno import FNO"),
        ("cli.py", "import torch\nfrom fieldsym.train import train"),
        ("group.py", "def f():\n    from fieldsym.action_stabiliser import stabiliser"),
    ],
)
def test_imports_that_point_down_are_not(tmp_path, file, line):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(line)
    assert violations(tmp_path) == []


def test_importing_is_light():
    """Nothing beyond torch and numpy, and not much time: files and figures load where used."""
    code = (
        "import json, sys, time, torch, numpy\n"
        "start = time.perf_counter()\n"
        "before = torch.get_num_threads(), torch.get_default_dtype()\n"
        "import fieldsym\n"
        "assert before == (torch.get_num_threads(), torch.get_default_dtype())\n"
        f"heavy = [m for m in {HEAVY} if m in sys.modules]\n"
        "print(json.dumps([time.perf_counter() - start, heavy]))\n"
    )
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True,
        cwd=PACKAGE.parent,
    )  # fmt: skip
    seconds, heavy = json.loads(out.stdout)
    assert heavy == []
    assert seconds < 3


def test_public_names_exist():
    assert all(hasattr(fieldsym, name) for name in fieldsym.__all__)
    assert len(set(fieldsym.__all__)) == len(fieldsym.__all__)
