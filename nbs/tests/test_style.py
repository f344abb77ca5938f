"What makes code readable and a tool can tell; CONTRIBUTING.md says why. The rest is a matter of judgement."

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmforge.files import project_root

ROOT = project_root()
NOTEBOOKS = sorted((ROOT / "nbs").glob("[0-9][0-9]_*.ipynb"))
MODULES = sorted(p for p in (ROOT / "llmforge").glob("*.py") if not p.name.startswith("_"))
CELL = 1_200  # characters of an export cell: what fits on a screen beside its prose
CLASS = 3_000  # of a cell that holds one class, which cannot be cut
MODULE = 425  # lines of a module, without what nbdev writes into it
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def tool(*args):
    p = subprocess.run([sys.executable, "-m", *args], cwd=ROOT, capture_output=True, text=True)
    assert p.returncode == 0, p.stdout[-4000:] + p.stderr[-1000:]


def export_cells(path: Path) -> list[tuple[str, str]]:
    "Id and source of the cells that go into the module."
    cells = json.loads(path.read_text())["cells"]
    sources = [(c["id"], "".join(c["source"])) for c in cells if c["cell_type"] == "code"]
    return [(id, s) for id, s in sources if re.match(r"#\|\s*exports?\b", s)]


def bare(d: ast.stmt) -> bool:
    "A class that is only a name and a docstring, such as an error: a few may share a cell."
    return isinstance(d, ast.ClassDef) and len(d.body) == 1 and ast.get_docstring(d) is not None


def inside(node: ast.AST, kinds) -> bool:
    return any(isinstance(n, kinds) for n in ast.walk(node) if n is not node)


def faults(id: str, source: str) -> list[str]:
    "What is wrong with an export cell."
    tree, found = ast.parse(source), []
    public = [d for d in tree.body if isinstance(d, DEFINITIONS) and not d.name.startswith("_")]
    whole = [d for d in public if not bare(d)]
    if len(whole) > 1:
        found.append(f"{id}: defines {', '.join(d.name for d in whole)}; one definition a cell")
    imports = all(isinstance(d, (ast.Import, ast.ImportFrom)) for d in tree.body)
    one_class = len(whole) == 1 and isinstance(whole[0], ast.ClassDef)
    if not imports and len(source) > (limit := CLASS if one_class else CELL):
        found.append(f"{id}: {len(source)} characters, at most {limit}")
    for n in ast.walk(tree):
        if isinstance(n, ast.IfExp) and inside(n, ast.IfExp):
            found.append(f"{id}: a conditional inside a conditional: {ast.unparse(n)[:80]}")
        if isinstance(n, COMPREHENSIONS) and inside(n, COMPREHENSIONS):
            found.append(f"{id}: a comprehension inside a comprehension: {ast.unparse(n)[:80]}")
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_cells(path):
    assert not (found := [f for cell in export_cells(path) for f in faults(*cell)]), "\n".join(found)


def twice(source: str) -> list[str]:
    "Names that a module defines more than once: only the last of them is ever called."
    named = [d.name for d in ast.parse(source).body if isinstance(d, DEFINITIONS)]
    return sorted({name for name in named if named.count(name) > 1})


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_a_name_is_defined_once(path):
    assert not twice(path.read_text())


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_module_is_one_room(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# %%")]
    assert len(lines) <= MODULE, f"{len(lines)} lines, at most {MODULE}: it holds more than one idea"


def test_the_rules_can_fail():
    "Each rule finds what it is for."
    nested = "x = [a for a in [b for b in c]]"
    assert twice("def f(): pass\nclass g: pass\ndef f(): pass") == ["f"]
    assert len(faults("c", "def f(): pass\ndef g(): pass")) == 1 and not faults(
        "c", "def f(): pass\ndef _g(): pass"
    )
    assert len(faults("c", nested)) == 1 and len(faults("c", "x = 1 if a else 2 if b else 3")) == 1
    assert len(faults("c", "def f():\n" + "    pass\n" * 200)) == 1
    assert not faults("c", 'class A(Exception):\n    "a"\nclass B(Exception):\n    "b"')


@pytest.mark.slow
def test_lint():
    tool("ruff", "check", "nbs", "llmforge")


@pytest.mark.slow
def test_types():
    "mypy passes over the modules that pyproject.toml names."
    tool("mypy")


@pytest.mark.slow
def test_layout():
    "`ruff format nbs` changes nothing."
    tool("ruff", "format", "--check", "nbs")


def test_lines_are_short():
    "Nine lines in ten of the modules have at most 100 characters; none has more than 110 (ruff)."
    lengths = sorted(len(line) for p in MODULES for line in p.read_text().splitlines())
    assert lengths[int(len(lengths) * 0.9)] <= 100
