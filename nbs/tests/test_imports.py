"Importing is instant, and every module but the three that run a model imports where torch is not installed."

import subprocess
import sys
from pathlib import Path

import llmforge
from llmforge.files import project_root

NEED_TORCH = {"model", "prefix", "local"}
MODULES = sorted(
    p.stem
    for p in Path(llmforge.__file__).parent.glob("*.py")
    if not p.stem.startswith("_") and p.stem not in NEED_TORCH
)
BLOCKED = ("torch", "transformers", "sentence_transformers", "datasets", "vllm")


def python(code):
    p = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    return p.stdout


def test_import_loads_nothing():
    "`import llmforge` loads no other package and no module of its own: that is what makes it instant."
    new = python(
        "import sys; before = set(sys.modules); import llmforge; print(*sorted(set(sys.modules) - before))"
    ).split()
    assert new == ["llmforge"]


def test_no_module_needs_torch():
    "With torch and its kind made unimportable, each module still imports."
    python(f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Block())
import importlib
for m in {MODULES!r}: importlib.import_module(f'llmforge.{{m}}')
assert not set(sys.modules) & set({BLOCKED!r})
""")


def test_version_has_one_value():
    from configparser import ConfigParser

    ini = ConfigParser()
    ini.read(project_root() / "settings.ini")
    assert ini["DEFAULT"]["version"] == llmforge.__version__


def test_layers():
    "A module imports only from modules whose notebook has a smaller number."
    from llmforge.site import imports

    graph = imports()
    order = {name: i for i, name in enumerate(graph)}
    assert set(MODULES) | NEED_TORCH == set(graph)
    for name, used in graph.items():
        assert all(order[m] < order[name] for m in used), f"{name} imports {used}"
