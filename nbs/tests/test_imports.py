"Importing is instant, and every module but the four that run a model imports where torch is not installed."

import ast
import importlib
import json
import re
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path

import pytest

import llmforge
from llmforge.core import former_names
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


@pytest.mark.slow
def test_a_plot_needs_matplotlib_alone():
    "To import seaborn, with pandas and SciPy's statistics, takes longer than to show a completed run."
    python(
        "import sys; from llmforge.plots import one_axes; one_axes()[0].canvas.draw();"
        "heavy = {'seaborn', 'pandas', 'scipy.stats'} & set(sys.modules); assert not heavy, heavy"
    )


def test_version_has_one_value():
    from configparser import ConfigParser

    ini = ConfigParser()
    ini.read(project_root() / "settings.ini")
    assert ini["DEFAULT"]["version"] == llmforge.__version__


@cache
def graph_of_imports():
    "Each module -> those of ours that it imports: every source is parsed, once for all tests."
    from llmforge.architecture import imports

    return imports()


@pytest.mark.parametrize(
    "statement, names",
    [
        ("from llmforge.runner import run", {"runner"}),
        ("from .runner import run", {"runner"}),
        ("from llmforge import runner", {"runner"}),
        ("from . import runner, store", {"runner", "store"}),
        ("import json, llmforge.runner as r", {"runner"}),
        ("import trace", set()),
        ("from llmforgery import runner", set()),
    ],
)
def test_no_form_of_import_is_overlooked(statement, names):
    from llmforge.architecture import _named

    assert _named(ast.parse(statement).body[0]) == names


def test_layers():
    "A module imports only from modules whose notebook has a smaller number."
    graph = graph_of_imports()
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
    wing = wings_of_modules()
    wrong = {
        name: sorted(m for m in used if wing[m] in forbidden)
        for name, used in graph_of_imports().items()
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


# what version 0.1 had and nothing has today: tables of the Almanac in code, parts of the decoding loop, of
# the site and of the store that became private or were replaced
GONE = {
    "almanac": "ARTICLES ASKS BIRTH DEATH NOUNS POOL",
    "bench": "in_turns",
    "findings": "CORRECTIONS corrected",
    "logs": "VERDICTS",
    "local": "KV Node Row drop_row nucleus path pour same sample stream turns",
    "runner": "Work plan",
    "site": "check_links executed grid",
    "stats": "corrected_rate",
    "store": "NEW_IN_2 SCHEMA_VERSION",
    "study": "log",
    "tradeoffs": "BORROWED",
}
FIRST = "6488d8a"  # the commit of version 0.1


def former_name(former, today):
    "A line of the table; slow where the name led to a module that loads torch."
    loads_torch = former.split(".")[1] in NEED_TORCH
    return pytest.param(former, today, marks=pytest.mark.slow if loads_torch else ())


@pytest.mark.parametrize("former, today", [former_name(*line) for line in former_names().items()])
def test_a_former_name_is_what_it_became(former, today):
    "Each line of the table leads to the thing itself, with a warning that names its place; and is needed."
    module, _, name = former.rpartition(".")
    place, _, attribute = today.rpartition(".")
    with pytest.warns(DeprecationWarning, match=re.escape(f"{former} is now {today}")):
        found = getattr(importlib.import_module(module), name)
    assert found is vars(importlib.import_module(place))[attribute]
    assert name not in vars(importlib.import_module(module))


@pytest.mark.slow  # it imports torch
def test_every_public_name_of_the_first_version_is_found():
    "Nothing that a script could import from version 0.1 is lost without being listed as gone."

    def git(*args):
        return subprocess.run(["git", *args], cwd=project_root(), capture_output=True, text=True).stdout

    paths = [p for p in git("ls-tree", "--name-only", FIRST, "llmforge/").split() if p.endswith(".py")]
    if not paths:
        pytest.skip(f"this copy of the repository has no commit {FIRST}")
    for path in paths:
        source = git("show", f"{FIRST}:{path}")
        public = re.search(r"^__all__ = (\[.*?\])", source, re.M | re.S)
        names = set(ast.literal_eval(public[1])) if public else set()
        module = importlib.import_module(f"llmforge.{Path(path).stem}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            missing = {name for name in names if not hasattr(module, name)}
        assert missing == set(GONE.get(Path(path).stem, "").split()), path


@pytest.mark.slow
def test_no_module_of_ours_uses_a_former_name():
    "The layers are those of the import statements: none of them goes through the table."
    for path in Path(llmforge.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                used = {f"llmforge.{node.module}.{a.name}" for a in node.names}
                assert not used & former_names().keys(), path.name


def prose(path):
    "The text of a page, or of a notebook without its code."
    text = path.read_text()
    if path.suffix == ".md":
        return text
    return "\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")


def test_no_page_names_what_has_moved():
    "What lessons, tutorials and pages call by its full name is found there."
    folder = Path(__file__).parents[1]
    pages = [*folder.glob("*.ipynb"), *folder.glob("tutorials/*.ipynb"), *folder.glob("site/**/*.md")]
    named = {path.name: set(re.findall(r"llmforge(?:\.[A-Za-z_]\w*)+", prose(path))) for path in pages}
    moved = {page: found for page, names in named.items() if (found := names & former_names().keys())}
    assert any(named.values()) and not moved


def test_an_unknown_name_is_an_attribute_error():
    import llmforge.engine

    with pytest.raises(AttributeError, match="module 'llmforge.engine' has no attribute 'Fake'"):
        _ = llmforge.engine.Fake
    with pytest.raises(ImportError, match="cannot import name 'Bm26' from 'llmforge.retrieval'"):
        from llmforge.retrieval import Bm26  # noqa: F401


def test_former_names_of_config_fields_are_attributes():
    from llmforge.config import load_config

    config = load_config({"experiment": {"name": "x", "metrics": {"judge": "groundedness", "extra": ["f2"]}}})
    for section, former, today in [
        (config.metrics, "faithfulness", "judge"),
        (config.metrics, "also", "extra"),
        (config.dataset, "pool", "exemplars"),
        (config, "breaker", "max_consecutive_failures"),
    ]:
        with pytest.warns(DeprecationWarning, match=f"{former} is now {today}"):
            assert getattr(section, former) == getattr(section, today)
    with pytest.raises(AttributeError, match="no attribute 'jugde'"):
        _ = config.metrics.jugde
