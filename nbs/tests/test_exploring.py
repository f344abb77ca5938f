"Studies that claim nothing: three prompts compared on one's own questions by one file and one command."

import csv
import json

import pytest
from typer.testing import CliRunner

from llmforge.cli import app
from llmforge.config import load_config
from llmforge.core import ConfigError, LlmForgeError
from llmforge.files import shipped
from llmforge.findingpages import write_study
from llmforge.notebooks import execute_notebook
from llmforge.pages import Source
from llmforge.project import make_project
from llmforge.published import published
from llmforge.runner import prepare
from llmforge.studyconfig import experiments, load_study
from llmforge.tabular import as_csv

PROMPTS = """\
study:
  name: prompts
  question: Which prompt gives the most right answers?
  base: {engine: fake, dataset: questions.csv, method: {shots: 0}}
  prompts:
    plain: "Question: {question}\\nAnswer:"
    brief: "Answer in one word.\\nQuestion: {question}\\nAnswer:"
    chat: {format: chat, system: Be brief.}
"""
BASE = {"engine": "fake", "dataset": "questions.csv", "method": {"shots": 0}}
STUDY = {"name": "s", "question": "?", "base": {"engine": "fake"}}


def said(*args, code=0):
    result = CliRunner().invoke(app, list(args))
    assert code is None or result.exit_code == code, result.output
    return result.stdout


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMFORGE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    lines = [f"What is {i} and {i}?,{2 * i}" for i in range(1, 11)]
    (tmp_path / "questions.csv").write_text("\n".join(["question,answer", *lines]))
    (tmp_path / "prompts.yaml").write_text(PROMPTS)
    return tmp_path


@pytest.mark.slow
def test_three_prompts_one_file_one_command(project):
    "Of at most twelve lines; the others are held against the first, as text, as JSON and as CSV."
    assert len(PROMPTS.splitlines()) <= 12
    text = said("study", "prompts.yaml", "--no-notebook")
    assert "No hypotheses: an exploration." in text
    assert "Exploratory, p after Benjamini–Hochberg over 2 comparisons" in text
    assert "brief − plain" in " ".join(text.split()) and "| plain |" in text
    records = json.loads(said("study", "prompts.yaml", "--no-notebook", "--json"))
    assert [(r["control"], r["treatment"], r["metric"]) for r in records] == [
        ("plain", "brief", "accuracy"),
        ("plain", "chat", "accuracy"),
    ]
    table = list(csv.DictReader(said("study", "prompts.yaml", "--no-notebook", "--csv").splitlines()))
    assert [r["treatment"] for r in table] == ["brief", "chat"]


@pytest.mark.slow
def test_a_study_that_claims_nothing_has_its_page(project, outputs):
    "What is explored by default leads to the pages of two arms, the first of the file among them."
    said("study", "prompts.yaml", "--no-notebook")
    source = Source(project / "pages", project / "extra", published(outputs))
    write_study(source, "prompts")
    page = (project / "pages" / "findings" / "prompts.md").read_text()
    assert "| brief − plain | accuracy |" in page and "findings/prompts/plain--brief.html" in page
    assert (project / "pages" / "findings" / "prompts" / "plain--brief.md").exists()


def test_all_questions_of_a_file_are_asked_unless_an_arm_shows_some(project):
    "Ten questions are ten; where one arm shows exemplars, all arms ask what is left."

    def asked(**arms):
        body = {"name": "few", "question": "?", "base": BASE, "arms": arms}
        prepared = {key[0]: prepare(e) for key, e in experiments(load_study({"study": body})).items()}
        return {arm: len(p.data) for arm, p in prepared.items()}, prepared

    two = {"method": {"prompt": {"template": "{question}"}}}
    shown = {"method": {"shots": 2}}
    assert asked(one={}, two=two)[0] == {"one": 10, "two": 10}
    counts, prepared = asked(one={}, two=shown)
    assert counts == {"one": 8, "two": 8}
    alone = load_config({"experiment": {**BASE, "name": "few-two-default", **shown}})
    assert prepared["two"].config.dataset == alone.dataset and len(prepare(alone).data) == 8
    assert asked(one={"dataset": {"exemplars": "none"}}, two=shown)[0] == {"one": 10, "two": 8}


@pytest.mark.slow
def test_its_notebook(project):
    "The cells of run_study.ipynb show verdicts; here there are none, and each runs all the same."
    cells = json.loads((shipped("nbs") / "run_study.ipynb").read_text())["cells"]
    sources = ["".join(c["source"]) for c in cells if c["cell_type"] == "code" and c["id"] != "colab-install"]
    shown = []
    values = {"display": lambda *them: shown.extend(them)}
    for source in sources:
        exec(source.replace("studies/retrieval.yaml", "prompts.yaml"), values)
    assert values["done"].config.name == "prompts" and not values["done"].missing


def test_the_example_of_a_new_project(tmp_path, monkeypatch):
    make_project(tmp_path)
    monkeypatch.setenv("LLMFORGE_HOME", str(tmp_path))
    arms = experiments(load_study("prompts.yaml"))
    assert {key[0]: e.method.prompt.format for key, e in arms.items()} == {
        "plain": "completion",
        "brief": "completion",
        "chat": "chat",
    }


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"prompts": {"a": "{question}"}, "arms": {"a": {}, "b": {}}}, "give arms or prompts, not both"),
        ({"prompts": {"a": "{question}"}, "grid": {"seed": [1]}}, "give grid or prompts, not both"),
        ({"prompts": ["{question}", "Q"]}, "study.prompts: must map labels to templates"),
        ({"prompts": {"a": "{question}", "b": 3}}, "study.prompts: must map labels to templates"),
        ({"prompts": {"a": "{question}", "b": "no field"}}, "arm 'b' on 'default'.*\n.*template"),
        ({"prompts": {"a": "{question}", "b": {"sytem": "x"}}}, "did you mean 'system'"),
        ({"prompts": {"a": "{question}"}}, "study.arms"),
    ],
)
def test_wrong_prompts(fields, message):
    with pytest.raises(ConfigError, match=message):
        load_study({"study": STUDY | fields})


IMPORTED = """\
study:
  name: against
  question: Do we answer better than they do?
  base: {engine: fake, dataset: questions.csv, method: {shots: 0}}
  arms: {ours: {}, theirs: {imported: theirs}}
  hypotheses:
    - {id: H1, claim: They are better, treatment: theirs, control: ours, min_effect: 0.05}
"""


@pytest.mark.slow
def test_an_imported_arm_is_named_as_it_was_imported(project):
    "A longer name that begins alike does not stand in its way; two of one name do, and are named."
    (project / "theirs.csv").write_text("question,prediction\nWhat is 1 and 1?,2\n")
    (project / "against.yaml").write_text(IMPORTED)
    for name in ("theirs", "theirs2"):
        said("import", "theirs.csv", "--gold", "questions.csv", "--name", name)
    said("study", "against.yaml", "--no-notebook")
    assert said("show", "theirs").lstrip().startswith("**theirs-")
    (project / "theirs.csv").write_text("question,prediction\nWhat is 1 and 1?,3\n")
    said("import", "theirs.csv", "--gold", "questions.csv", "--name", "theirs")
    (project / "again.yaml").write_text(IMPORTED.replace("name: against", "name: again"))
    text = " ".join(CliRunner().invoke(app, ["study", "again.yaml"]).output.split())
    assert "2 completed experiments begin with 'theirs': theirs-" in text and "give one id whole" in text


@pytest.mark.slow
def test_an_imported_run_is_an_arm(project):
    "Compared on the questions that both have, with the same tables; its answers came first: post hoc."
    lines = [f"What is {i} and {i}?,{2 * i}" for i in range(1, 13)]
    (project / "more.csv").write_text("\n".join(["question,answer", *lines]))
    (project / "theirs.csv").write_text("\n".join(["question,prediction", *lines]))
    (project / "against.yaml").write_text(IMPORTED)
    assert "no completed experiments begin with 'theirs'; import the answers first" in " ".join(
        CliRunner().invoke(app, ["study", "against.yaml"]).output.split()
    )
    said("import", "theirs.csv", "--gold", "more.csv", "--name", "theirs")
    text = " ".join(said("study", "against.yaml", "--no-notebook").split())
    n = json.loads(said("show", "against-ours", "--json"))[0]["result"]["attempted"]
    assert n < 12 and f"n = {n}): supported (post hoc)" in text
    compared = " ".join(said("compare", "against-ours", "theirs").split())
    assert f"compared on the {n} questions that both have, of {n} and 12" in compared
    checks = said("study", "against", "--verify", code=None)
    assert "ids: ok" in checks or "are those of their configs" in checks
    assert "every arm has a row for each of" in checks


def test_imported_arms_alone(project):
    "Nothing is run; the questions counted are those of what was imported."
    for name, answer in (("one", "{}"), ("two", "x{}")):
        lines = [f"What is {i} and {i}?,{answer.format(2 * i)}" for i in range(1, 11)]
        (project / f"{name}.csv").write_text("\n".join(["question,prediction", *lines]))
        said("import", f"{name}.csv", "--gold", "questions.csv", "--name", name)
    arms = "{one: {imported: one}, two: {imported: two}}"
    (project / "both.yaml").write_text(f"study: {{name: both, question: '?', arms: {arms}}}")
    assert "two − one" in " ".join(said("study", "both.yaml", "--no-notebook").split())
    h = "[{id: H1, claim: better, treatment: two, control: one}]"
    (project / "claim.yaml").write_text(
        f"study: {{name: claim, question: '?', arms: {arms}, hypotheses: {h}}}"
    )
    shown = said("study", "claim.yaml", "--no-notebook")
    assert "(post hoc)" in shown and "SHA-256" in shown
    assert "--pilot" not in shown and "first run" not in shown  # whoever answered cannot be asked


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"arms": {"a": {}, "b": {"imported": "x", "seed": 1}}}, "arms.b: an imported arm has the one key"),
        ({"arms": {"a": {}, "b": {"imported": 3}}}, "arms.b: an imported arm has the one key"),
        ({"arms": {"a": {}, "b": {"imported": "x"}}, "seeds": [1, 2]}, "one data set and one seed"),
        (
            {"arms": {"a": {}, "b": {"imported": "x"}}, "exemplars": "b"},
            "exemplars: unknown 'b'; allowed: a, own",
        ),
    ],
)
def test_wrong_imported_arms(fields, message):
    with pytest.raises(ConfigError, match=message):
        load_study({"study": STUDY | fields})


def test_what_arms_vary_must_be_given_where_one_is_run():
    study = {"name": "s", "question": "?", "arms": {"a": {}, "b": {"imported": "x"}}}
    with pytest.raises(ConfigError, match="base: is missing; it is what the arms vary"):
        load_study({"study": study})


def test_cells_of_csv_are_inert():
    "A text that a spreadsheet would run is none any more; numbers stay numbers."
    record = {"a": "=1+1", "b": -0.5, "c": "Paris", "d": "@x", "e": ["=1"]}
    (row,) = csv.DictReader(as_csv([record]).splitlines())
    assert row == {"a": "'=1+1", "b": "-0.5", "c": "Paris", "d": "'@x", "e": '["=1"]'}


@pytest.mark.slow
def test_a_kernel_that_dies_is_a_sentence(project):
    "And nothing of the notebook is left half made."
    source = (shipped("nbs") / "run_experiment.ipynb").read_text()
    notebook = json.loads(source)
    notebook["cells"] = [c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", [])]
    notebook["cells"].append(
        {**notebook["cells"][0], "id": "dies", "metadata": {}, "source": "import os; os.kill(os.getpid(), 9)"}
    )
    (project / "nbs").mkdir()
    (project / "nbs" / "run_experiment.ipynb").write_text(json.dumps(notebook))
    with pytest.raises(LlmForgeError, match="the kernel of run_experiment.ipynb ended, or did not start"):
        execute_notebook("run_experiment", {}, project / "out" / "e.ipynb", show=False)
    assert not [p for p in (project / "out").iterdir() if p.suffix == ".ipynb"]
