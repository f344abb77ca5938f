"Importing is instant, and every module but the four that run a model imports where torch is not installed."

import re
import subprocess
import sys
from pathlib import Path

import pytest

import llmforge
from llmforge.files import VARIABLES, project_root

NEED_TORCH = {"model", "prefix", "local", "openvino"}
MODULES = sorted(
    p.stem
    for p in Path(llmforge.__file__).parent.glob("*.py")
    if not p.stem.startswith("_") and p.stem not in NEED_TORCH
)
BLOCKED = ("torch", "transformers", "sentence_transformers", "datasets", "vllm", "openvino")


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


@pytest.mark.slow
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
    from llmforge.architecture import imports

    graph = imports()
    order = {name: i for i, name in enumerate(graph)}
    assert set(MODULES) | NEED_TORCH == set(graph)
    for name, used in graph.items():
        assert all(order[m] < order[name] for m in used), f"{name} imports {used}"


def test_every_environment_variable_is_in_the_table():
    "What the package reads is in `VARIABLES`, what is there is read, and no text names any other."
    code = "\n".join(p.read_text() for p in Path(llmforge.__file__).parent.glob("*.py"))
    read = set(re.findall(r"environ(?:\.get\(|\[)\s*[\"'](LLMFORGE_\w+)", code))
    named = {v.name for v in VARIABLES}
    assert read == named
    texts = [
        p.read_text() for p in (project_root() / "nbs").rglob("*") if p.suffix in (".ipynb", ".py", ".md")
    ]
    assert set(re.findall(r"\bLLMFORGE_[A-Z_]+\b", "\n".join([code, *texts]))) == named


WRITING, READING = "2345", "678"  # wings, by the first digit of a notebook's number


def wings_of_modules():
    "Module -> its wing."
    from llmforge.docs import lessons, module_of, wing_of

    return {module_of(path): wing_of(path) for path in lessons()}


def imports_across(of, forbidden):
    "Modules of some wings -> what they import from wings that they may not; only where there is such."
    from llmforge.architecture import imports

    wing = wings_of_modules()
    wrong = {
        name: sorted(m for m in used if wing[m] in forbidden)
        for name, used in imports().items()
        if wing[name] in of
    }
    return {name: used for name, used in wrong.items() if used}


def test_reading_does_not_import_writing():
    "What looks at results meets what makes them only at the wall."
    assert not imports_across(READING, forbidden=WRITING)


def test_ground_and_wall_stand_alone():
    "What both wings rest on imports neither of them."
    assert not imports_across("01", forbidden="23456789")


def test_every_wing_has_a_title():
    from llmforge.docs import WINGS

    assert set(wings_of_modules().values()) <= set(WINGS)


def test_the_command_says_its_version():
    from typer.testing import CliRunner

    from llmforge.cli import app

    assert CliRunner().invoke(app, ["--version"]).output == f"llmforge {llmforge.__version__}\n"
