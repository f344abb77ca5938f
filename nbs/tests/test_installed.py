"""The package as those have it who never saw the checkout: the wheel in an environment of its own, in an
empty folder; and modules on systems that lack what Unix has."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml
from test_imports import MODULES, NEED_TORCH
from typer.testing import CliRunner

import llmforge
from llmforge.batching import FakeEngine
from llmforge.cli import app
from llmforge.config import load_config
from llmforge.core import ConfigError, MissingExtra, require
from llmforge.files import project_root
from llmforge.project import SCHEMA_LINE, config_schema, make_project
from llmforge.runner import run_experiment
from llmforge.site import build_site
from llmforge.store import Store
from llmforge.studyconfig import load_study

ROOT = project_root()
UNIX = ("resource", "fcntl", "pwd", "grp", "termios", "pty", "tty", "syslog")


def test_the_distribution_has_one_name():
    "What messages say is what pip installs; the import name is another."
    ini = ConfigParser()
    ini.read(ROOT / "settings.ini")
    assert ini["DEFAULT"]["lib_name"] == llmforge.__distribution__ != "llmforge"
    with pytest.raises(MissingExtra, match=rf"pip install '{llmforge.__distribution__}\[local\]'"):
        require("no_such_module_here", "local")
    for page in [*(ROOT / "nbs" / "site").rglob("*.md"), *(ROOT / "nbs").rglob("*.ipynb")]:
        assert "pip install 'llmforge[" not in page.read_text(), page.name


@pytest.mark.slow
def test_every_module_imports_where_unix_is_not():
    "With the modules and functions that Windows lacks out of reach of ours."
    modules = sorted({*MODULES, *NEED_TORCH} - {"jobs"})  # RQ forks
    code = f"""
import builtins, importlib, os, signal
plain = builtins.__import__
def ours_have_none(name, globals=None, *rest, **more):
    if name in {UNIX!r} and str((globals or {{}}).get('__name__')).startswith('llmforge'):
        raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
    return plain(name, globals, *rest, **more)
builtins.__import__ = ours_have_none
import asyncio, psutil, subprocess, multiprocessing  # these know the system that they are on
for name in ('fork', 'geteuid', 'getuid', 'setsid', 'killpg'):
    if hasattr(os, name): delattr(os, name)
for name in ('SIGKILL', 'SIGHUP', 'SIGUSR1', 'SIGALRM'): delattr(signal, name)
for m in {modules!r}: importlib.import_module('llmforge.' + m)
from llmforge.caching import peak_memory_mb
from llmforge.processes import machine, process_gone, process_tag
assert process_gone(process_tag()) is False and len(machine()) == 8
"""
    p = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    sources = [path.read_text() for path in Path(llmforge.__file__).parent.glob("*.py")]
    assert not any("os.uname" in source for source in sources)  # NumPy needs it here, so it cannot be hidden


def test_a_site_says_what_it_needs_before_a_page_is_written(tmp_path, monkeypatch):
    "The first page needs Jinja's markupsafe, which an installation without extras has not."
    monkeypatch.setitem(sys.modules, "sphinx_book_theme", None)
    with pytest.raises(MissingExtra, match=r"\[site\]"):
        build_site(tmp_path / "site", tmp_path)


@pytest.mark.parametrize(
    "config, lacking, extras",
    [
        ("rag_hybrid.yaml", ["torch", "bm25s", "Stemmer"], "local,retrieval"),
        ("naive.yaml", ["transformers"], "local"),
        ("hf_api.yaml", ["aiohttp"], "remote"),
        ("react.yaml method.agent.wikipedia=live", ["httpx"], "wikipedia"),
    ],
)
def test_all_that_is_missing_is_said_at_once(config, lacking, extras, outputs, monkeypatch):
    "In one line that installs it, before a run has begun, and not where the run is only shown."
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    name, *changes = config.split()
    config = load_config(name, ["dataset.limit=2", *changes])
    plain = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in lacking else plain(name))
    said = rf"needs {', '.join(lacking)}, not installed; run: pip install 'llmforge-lab\[{extras}\]'"
    store = Store()
    with pytest.raises(MissingExtra, match=said):
        run_experiment(config, store, show=False)
    assert {e["status"] for e in store.listing()} == {"PENDING"}
    if extras in ("local", "remote"):
        shown = run_experiment(config, store, FakeEngine("an answer"), show=False)
        assert run_experiment(config, store, show=False) == shown


def test_the_next_command_can_be_typed(tmp_path, monkeypatch):
    "Where the folder's name has a space, too."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("llmforge.project.make_project", lambda folder: (1, 0))
    said = CliRunner().invoke(app, ["init", "my work"]).stdout
    assert said == "1 files written; now: cd 'my work'; llmforge run own.yaml\n"


@pytest.mark.slow
def test_a_project_is_made_once(tmp_path):
    "A second time nothing is written over; its configs are valid and name the schema."
    first = make_project(tmp_path)
    (tmp_path / "configs" / "own.yaml").write_text("mine")
    assert make_project(tmp_path) == (0, first[0])
    assert (tmp_path / "configs" / "own.yaml").read_text() == "mine"
    for path in sorted((tmp_path / "configs").rglob("*.yaml"))[1:]:
        if path.name != "own.yaml":
            head = path.read_text().split("\n")[0] + "\n"
            place = os.path.relpath(tmp_path / "configs", path.parent)
            assert head == SCHEMA_LINE.format("" if place == "." else f"{place}/"), path


@pytest.mark.slow
def test_the_schema_has_the_fields_of_configs():
    "Every shipped config and study keeps to it, as far as names go."
    schema = config_schema()
    assert json.dumps(schema)
    definitions = schema["$defs"]
    for path in (ROOT / "configs").rglob("*.yaml"):
        for part, body in yaml.safe_load(path.read_text()).items():
            assert part in schema["properties"]
            if part != "extends":
                assert set(body) <= set(definitions[part]["properties"]), path.name


@pytest.mark.slow
def test_editors_take_what_a_config_may_say():
    "Whole shipped files, the short forms, former names; a wrong name or kind of value is marked."
    from jsonschema import Draft202012Validator  # its import takes seconds

    check = Draft202012Validator(config_schema())
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert not list(check.iter_errors(yaml.safe_load(path.read_text()))), path.name
    short = {
        "name": "short",
        "model": "m",
        "retrieval": "hybrid",
        "repeats": 5,
        "hyperparameters": {"temperature": 0.7},
        "dataset": {"file": "mine.csv"},
        "metrics": {"judge": {"model": "j", "engine": "hf_api", "rubric": "Is it so?"}},
        "breaker": 5,
    }
    load_config({"experiment": {**short, "corpus": "almanac"}})
    assert check.is_valid({"experiment": short})
    for wrong in ({"retrievel": "hybrid"}, {"seed": "one"}, {"metrics": {"judge": {"modell": "j"}}}):
        assert not check.is_valid({"experiment": short | wrong}), wrong
    for config in ({}, {"experiment": {}}, {"extends": "a", "study": {}}, {"extends": ["a"]}):
        assert not check.is_valid(config), config
    assert check.is_valid({"extends": "naive"}) and check.is_valid({"extends": "naive", "experiment": {}})
    names = check.schema["$defs"]["EngineConfig"]["properties"]["name"]
    assert "local" in names["examples"] and check.is_valid({"experiment": {"name": "x", "engine": "mine"}})


@pytest.mark.slow
@pytest.mark.parametrize(
    "part, valid",
    [
        ({"base": "cot", "arms": {"a": {}, "b": {"retrieval": "hybrid", "dataset": {"limit": 5}}}}, True),
        ({"arms": {"a": {"imported": "mine"}, "b": {}}}, True),
        ({"grid": {"retrieval.top_k": [1, 3]}, "datasets": {"d": {"dataset": "almanac"}}}, True),
        ({"prompts": {"plain": "{question}", "chat": {"format": "chat"}}}, True),
        ({"arms": {"a": {}, "b": {"retreival": "hybrid"}}}, False),
        ({"arms": {"a": {}, "b": "hybrid"}}, False),
        ({"arms": {"a": {}}}, False),
        ({"base": {"modell": "m"}, "arms": {"a": {}, "b": {}}}, False),
        ({"base": ["cot"], "arms": {"a": {}, "b": {}}}, False),
        ({"grid": {"retrieval.top_k": 3}}, False),
        ({"prompts": {"a": "{question}", "b": {"formt": "chat"}}}, False),
        ({"arms": {"a": {}, "b": {}}, "datasets": {"d": "almanac"}}, False),
        ({"arms": {"a": {}, "b": {}}, "question": None}, False),
    ],
)
def test_editors_know_the_parts_of_a_study(part, valid):
    "What the schema says of a study is what becomes of it when it is read."
    from jsonschema import Draft202012Validator

    study = {"study": {"name": "s", "question": "q", "base": {}, **part}}
    assert Draft202012Validator(config_schema()).is_valid(study) == valid
    try:
        load_study(study)
    except ConfigError:
        assert not valid
    else:
        assert valid


def test_a_shipped_config_is_found_from_an_empty_folder(tmp_path, monkeypatch):
    "In a project without configs of its own, too; one of the project's own goes first."
    monkeypatch.setenv("LLMFORGE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert load_config("rag_hybrid.yaml").retrieval.name == "hybrid"
    (tmp_path / "configs" / "rag").mkdir(parents=True)
    (tmp_path / "configs" / "rag" / "rag_hybrid.yaml").write_text(
        "extends: rag_naive.yaml\nexperiment: {name: mine}"
    )
    assert load_config("rag_hybrid").name == "mine"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    "An environment with the wheel, and what it needs borrowed from this one."
    work = tmp_path_factory.mktemp("installed")
    left_out = shutil.ignore_patterns(
        ".git", ".venv", "_site", "outputs", "__pycache__", "*.egg-info", "build"
    )
    shutil.copytree(ROOT, work / "source", ignore=left_out)
    call = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", work]
    subprocess.run([*call, work / "source"], check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", work / "env"], check=True)
    python = work / "env" / "bin" / "python"
    (wheel,) = work.glob("llmforge_lab-*.whl")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel]
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}  # what lies there counts as installed
    subprocess.run(pip, check=True, capture_output=True, env=clean)
    (site,) = (work / "env" / "lib").glob("python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    shutil.rmtree(work / "source")
    return work / "env"


@pytest.mark.slow
def test_from_the_wheel_to_a_comparison(environment, tmp_path):
    "Outside the checkout: init, run by the notebook and without, compare, site; the same in an empty folder."
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("LLMFORGE_", "PYTHON"))}

    def run(*args, cwd, code=0):
        command = [environment / "bin" / "llmforge", *args]
        p = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, timeout=500)
        assert p.returncode == code, p.stdout + p.stderr
        return p.stdout

    assert "files written; now: cd work; llmforge run own.yaml" in run("init", "work", cwd=tmp_path)
    work = tmp_path / "work"
    own = run("run", "own.yaml", cwd=work)
    assert "| accuracy (exact match) |" in own and "COMPLETED, see outputs/own-" in own
    assert list(work.glob("outputs/own-*/experiment.ipynb"))
    below = work / "data"
    run("run", "own.yaml", "--no-notebook", "-o", "name=alone", "-o", "retrieval=none", cwd=below)
    assert not (below / "outputs").exists()
    shown = run("compare", "alone", "own", cwd=work)
    assert "question by question" in shown and "the configs differ in: retrieval" in shown
    provenance = json.loads(run("show", "own", "--json", cwd=work))[0]["provenance"]
    assert provenance["packages"]["llmforge"] == llmforge.__version__
    assert run("site", cwd=below) == "../_site/index.html\n"
    for page in work.glob("outputs/*/result.json"):
        id = page.parent.name
        text = (work / "_site" / "experiments" / f"{id}.html").read_text()
        assert f"outputs/{id}/config.yaml" in text and 'href="#trace-0"' in text
        assert (work / "_site" / "data" / "traces" / f"{id}.js").exists()
    assert (work / "_site" / "trace.html").exists() and not (work / "_site" / "learn").exists()
    empty = tmp_path / "empty"
    empty.mkdir()
    few = ["-o", "dataset.limit=2", "-o", "method.shots=0", "-o", "name=here", "-o", "engine=fake"]
    assert "COMPLETED, see outputs/here-" in run("run", "naive.yaml", "--no-notebook", *few, cwd=empty)
    assert [p.name for p in Path(empty).iterdir()] == ["outputs"]
    assert run("site", cwd=empty) == "_site/index.html\n" and list(
        empty.glob("_site/experiments/here-*.html")
    )
