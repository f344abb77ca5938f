"Code of one's own that a config names: files below the project, and what installed packages offer."

import os

import pytest
from typer.testing import CliRunner

from llmforge.api import config_of
from llmforge.board import new_page
from llmforge.cli import app
from llmforge.config import load_config
from llmforge.core import ConfigError, _entry_points, methods
from llmforge.experiment import Experiment, results_table
from llmforge.jobs import request_run, run_job
from llmforge.plugins import _LOADED, _REGISTRIES
from llmforge.runner import prepare, run_experiment
from llmforge.store import Store
from llmforge.studyconfig import load_study

MINE = """
from llmforge.core import methods, metrics, retrievers
from llmforge.tools import tool

@methods.register("shout")
async def shout(question, context):
    return (await context.generate(context.prompt(question, []))).strip().upper()

@metrics.register("brevity")
def brevity(prediction, answers, style="squad"):
    return 1 / max(1, len(prediction.split()))

@retrievers.register("titles")
def titles(searcher, query, k):
    return [(row, 1.0) for row in range(k)]

@tool
def roll(sides: int) -> str:
    "Roll a die."
    return "4"
"""
EXPERIMENT = {
    "name": "mine",
    "plugins": ["mine.py"],
    "engine": "fake",
    "dataset": {"name": "meridia", "limit": 3},
    "method": {"name": "shout", "shots": 0},
    "metrics": {"extra": ["brevity"]},
}


def forget():
    "As in a process that has loaded no plugin."
    for _, names in _LOADED.values():
        for registry, name in names:
            registry._entries.pop(name, None)
    _LOADED.clear()


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMFORGE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    yield tmp_path
    forget()


def said(*args, code=0):
    result = CliRunner().invoke(app, list(args))
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def test_every_kind_of_code_in_one_file(project):
    config = load_config({"experiment": EXPERIMENT | {"retrieval": "titles", "dataset": "meridia"}})
    assert config.retrieval.name == "titles" and config.plugins == ("mine.py",)
    agent = {"name": "react", "agent": {"tools": ["roll"]}}
    assert load_config({"experiment": {"name": "a", "plugins": ["mine.py"], "method": agent}})


def test_the_content_is_part_of_the_id(project):
    "Not the file's name; and a file that is named and not there has no id."
    first = prepare(load_config({"experiment": EXPERIMENT}))
    assert list(first.code) == ["mine.py"] and len(first.code["mine.py"]) == 16
    (project / "same.py").write_text(MINE)
    forget()
    assert prepare(load_config({"experiment": EXPERIMENT | {"plugins": ["same.py"]}})).id == first.id
    forget()
    (project / "mine.py").write_text(MINE.replace("upper", "lower"))
    assert prepare(load_config({"experiment": EXPERIMENT})).id != first.id


@pytest.mark.slow
def test_it_is_run_shown_and_compared_without_the_code(project):
    (project / "mine.yaml").write_text(f"experiment: {EXPERIMENT}")
    assert "mine-" in said("run", "mine.yaml", "--no-notebook")
    e = Experiment(Store().listing()[0]["id"], Store())
    assert e.record.provenance_json["code"] == prepare(e.config).code
    assert {r["answer"] for r in e.rows} and all(r["answer"] == r["answer"].upper() for r in e.rows)
    forget()
    (project / "mine.py").write_text("raise SystemExit('read, not run')")
    assert "brevity" in said("show", "mine") and "Not registered" not in results_table(
        Experiment(e.id, Store())
    )
    assert e.id in said("list") and "question by question" in said("compare", "mine", "mine")
    assert "shout" in new_page(Store(), e.id)
    told = said("run", "mine.yaml", "--no-notebook", code=2)
    assert "mine.py, line 1: SystemExit: read, not run" in told


@pytest.mark.slow
def test_a_study_and_a_worker_load_them(project):
    arms = {"plain": {"method": "naive"}, "loud": {"method": "shout"}}
    study = {"name": "s", "question": "?", "base": EXPERIMENT, "arms": arms}
    assert load_study({"study": study}).arms.keys() == arms.keys()
    elsewhere = {"study": study | {"base": {**EXPERIMENT, "plugins": []}, "arms": arms}}
    forget()
    with pytest.raises(ConfigError, match="unknown method 'shout'"):
        load_study(elsewhere)
    elsewhere["study"]["arms"] = {
        "plain": {"method": "naive"},
        "loud": arms["loud"] | {"plugins": ["mine.py"]},
    }
    elsewhere["study"]["base"]["metrics"] = {}
    elsewhere["study"]["base"]["method"] = "naive"
    assert load_study(elsewhere)
    store, ready = Store(), prepare(load_config({"experiment": EXPERIMENT}))
    values = ready.config.model_dump(mode="json")
    id = store.create_experiment(ready.id, "mine", values, ready.data.fingerprint, None, None)
    request_run(store, id)
    forget()
    run_job(id)
    assert store.experiment(id).status == "COMPLETED"


@pytest.mark.parametrize("body", ["mapping", "yaml"])
def test_a_stranger_names_no_code(project, body):
    "And what is refused was not run."
    (project / "mine.py").write_text("open('ran', 'w')")
    text = f"experiment: {EXPERIMENT}"
    with pytest.raises(ConfigError, match="plugins: a config from outside may name no code"):
        config_of({"experiment": EXPERIMENT} if body == "mapping" else {"yaml": text})
    assert not os.path.exists("ran")


@pytest.mark.parametrize(
    "source, message",
    [
        (
            "import helpers",
            "mine.py, line 1: ModuleNotFoundError: No module named 'helpers'; a plugin is one",
        ),
        ("x = 1\ndef f(:\n", "mine.py, line 2: SyntaxError"),
        ("\x00", "mine.py: SyntaxError|mine.py: ValueError"),
        ("\n\n1 / 0", "mine.py, line 3: ZeroDivisionError"),
        ("exit()", "mine.py, line 1: SystemExit"),
        (
            "from llmforge.core import methods\nmethods.register('naive')(print)",
            "mine.py registers the method 'naive', which there is already",
        ),
    ],
)
def test_what_is_wrong_is_said_and_leaves_nothing(project, source, message):
    before = {r.kind: r.names() for r in _REGISTRIES}
    (project / "mine.py").write_text(source)
    with pytest.raises(ConfigError, match=message):
        load_config({"experiment": EXPERIMENT})
    assert {r.kind: r.names() for r in _REGISTRIES} == before and methods.get("naive").__name__ == "naive"


@pytest.mark.parametrize(
    "plugins, message",
    [
        (["gone.py"], "'gone.py' does not exist"),
        (["../mine.py"], "lies outside the project"),
        (["link.py"], "lies outside the project"),
        (["mine"], "must be files that end with .py"),
        ("mine.py", "experiment.plugins: .*received 'mine.py'"),
        ([1], "experiment.plugins.0"),
    ],
)
def test_only_files_of_the_project(project, tmp_path_factory, plugins, message):
    outside = tmp_path_factory.mktemp("outside") / "mine.py"
    outside.write_text(MINE)
    (project / "link.py").symlink_to(outside)
    with pytest.raises(ConfigError, match=message):
        load_config({"experiment": EXPERIMENT | {"plugins": plugins}})
    assert "shout" not in methods


def test_two_plugins_do_not_share_a_name(project):
    "The first stays; a changed file replaces its own names, and takes away what it registers no more."
    (project / "other.py").write_text(MINE)
    with pytest.raises(ConfigError, match="other.py registers the method 'shout', which there is already"):
        load_config({"experiment": EXPERIMENT | {"plugins": ["mine.py", "other.py"]}})
    assert "shout" in methods
    (project / "mine.py").write_text(MINE.replace('"shout"', '"cry"'))
    load_config({"experiment": EXPERIMENT | {"method": "cry"}})
    assert "shout" not in methods


def forget_installed():
    _entry_points.cache_clear()
    vars(methods).pop("installed", None)


@pytest.fixture
def package(tmp_path, monkeypatch):
    "An installed package with a method that works, one that cannot be imported, and one called naive."
    site = tmp_path / "site"
    about = site / "shouting-1.2.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting\nVersion: 1.2\n")
    points = "loud = shouting:loud\nbroken = shouting:gone\nnaive = shouting:loud"
    (about / "entry_points.txt").write_text(f"[llmforge.methods]\n{points}\n")
    (site / "shouting.py").write_text("async def loud(question, context):\n    return 'A'\n")
    monkeypatch.syspath_prepend(site)
    forget_installed()
    yield about
    forget_installed()
    methods._entries.pop("loud", None)


def test_a_package_brings_names(package):
    "Its version is part of the id, and kept with the result; a built-in name stays what it is."
    config = load_config({"experiment": EXPERIMENT | {"plugins": [], "metrics": {}, "method": "loud"}})
    store, first = Store(), prepare(config)
    e = Experiment(run_experiment(config, store, show=False), store)
    assert {r["answer"] for r in e.rows} == {"A"}
    assert e.record.provenance_json["code"] == {"method loud": "shouting 1.2"} == first.code
    assert methods.get("naive").__module__ == "llmforge.methods"
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting\nVersion: 1.3\n")
    forget_installed()
    assert prepare(config).id != first.id
    with pytest.raises(ConfigError, match="method 'broken' of the package shouting 1.3 cannot be loaded"):
        methods.get("broken")
    with pytest.raises(ConfigError, match="unknown method 'lout'; allowed: .*loud.*did you mean 'loud'"):
        methods.get("lout")
