"Experiments of code that is not here are listed, shown, compared and published, and cannot be run."

import pytest
from typer.testing import CliRunner

from llmforge.cli import app
from llmforge.config import load_config, to_yaml, validate
from llmforge.core import ConfigError, methods
from llmforge.experiment import Experiment, results_table
from llmforge.exports import export_experiment
from llmforge.published import published
from llmforge.runner import run_experiment
from llmforge.store import Store


def config(method):
    return {
        "experiment": {
            "name": method,
            "engine": "fake",
            "dataset": {"name": "meridia", "limit": 8},
            "method": {"name": method, "shots": 0},
        }
    }


@pytest.fixture
def gone(tmp_path, monkeypatch):
    "An ordinary experiment, and one whose method is not registered any more."
    monkeypatch.setenv("LLMFORGE_OUTPUTS", str(tmp_path))

    @methods.register("debate")
    async def debate(ask):
        return await methods.get("naive")(ask)

    try:
        two = [run_experiment(load_config(config(m)), Store(), show=False) for m in ("naive", "debate")]
    finally:
        del methods._entries["debate"]
    return two


def said(*args, code=0):
    result = CliRunner().invoke(app, list(args))
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


@pytest.mark.slow
def test_it_is_listed_shown_and_compared(gone):
    naive, debate = gone
    text = said("list")
    assert all(id in text for id in gone) and "debate" in text
    assert "Not registered here, so it can be read and not run: method 'debate'." in said("show", debate)
    assert "Not registered" not in said("show", naive)
    assert "the configs differ in: method" in said("compare", naive, debate)


@pytest.mark.slow
def test_it_is_published(gone, tmp_path):
    for id in gone:
        export_experiment(Store(), id, tmp_path / id)
    found = published(tmp_path)
    assert set(found.experiments) == set(gone)
    for e in found.experiments.values():
        assert results_table(e) and "name: " + e.config.method.name in to_yaml(e.config)


@pytest.mark.slow
def test_it_cannot_be_run(gone):
    "Also not after a stored one was read: the milder rule ends with the reading."
    e = Experiment(gone[1], Store())
    assert e.missing == ("method 'debate'",) and Experiment(gone[0], Store()).missing == ()
    for wrong in (lambda: load_config(config("debate")), lambda: validate(e.record.config_json)):
        with pytest.raises(ConfigError, match="unknown method 'debate'; allowed"):
            wrong()


@pytest.mark.slow
@pytest.mark.parametrize(
    "section, value, what",
    [
        ("engine", {"name": "abacus"}, "engine 'abacus'"),
        ("dataset", {"name": "mine"}, "dataset 'mine'"),
        ("retrieval", {"name": "titles"}, "retriever 'titles'"),
        ("corpus", {"name": "ours"}, "corpus 'ours'"),
    ],
)
def test_every_kind_of_name(gone, section, value, what, monkeypatch):
    e = Experiment(gone[0], Store())
    stored = dict(e.record.config_json)
    stored[section] = (stored[section] or {}) | value
    if section == "retrieval":
        stored["corpus"] = {"name": "almanac"}
    monkeypatch.setattr(type(e), "record", property(lambda self: type("R", (), {"config_json": stored})))
    assert e.missing == (what,) and getattr(e.config, section).name == value["name"]
