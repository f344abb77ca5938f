"The plain papermill command, no output named: on a terminal, piped, with its input piped, and on sources."

import json
import os
import pty
import subprocess
import sys

import pytest

from llmforge.core import ConfigError
from llmforge.files import project_root
from llmforge.launching import _FLAGS, _PAIRS, completed, given_parameters, read_arguments, source_code

ROOT = project_root()
SOURCE = ROOT / "nbs" / "run_experiment.ipynb"
COMMANDS = [
    pytest.param(["papermill"], id="papermill"),
    pytest.param([sys.executable, "-m", "papermill"], id="module", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    "A folder with the package's metadata as pip installs them, entry points too."
    folder = tmp_path_factory.mktemp("metadata")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    # As where JupyterLab is not installed: its parsers of addresses take nbformat three seconds to import.
    (folder / "rfc3987_syntax.py").write_text("raise ImportError\n")
    return folder


@pytest.fixture
def project(tmp_path, outputs, installed, monkeypatch):
    "A folder with a copy of the notebook, from which the command is given."
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(installed), str(ROOT)]))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nbs").mkdir()
    (tmp_path / "nbs" / SOURCE.name).write_text(SOURCE.read_text())
    return tmp_path


def in_terminal(command):
    "Exit code, and what a terminal shows."
    main, ours = pty.openpty()
    process = subprocess.Popen(command, stdin=ours, stdout=ours, stderr=ours)
    os.close(ours)
    shown = b""
    try:
        while part := os.read(main, 65536):
            shown += part
    except OSError:  # the other end is closed
        pass
    os.close(main)
    return process.wait(), shown.decode()


def with_pipes(command, stdin):
    "Exit code, and what comes out of both pipes."
    p = subprocess.run(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return p.returncode, p.stdout


def called(how, command):
    if how == "terminal":
        return in_terminal(command)
    if how == "piped":
        return with_pipes(command, subprocess.DEVNULL)
    read, write = os.pipe()
    os.close(write)  # the pipe is there, and nobody writes
    with os.fdopen(read) as empty:
        return with_pipes(command, empty)


def check(project, code, shown):
    "The source is as it was, the executed notebook is in its place, and both were said."
    assert code == 0, shown
    assert "the executed notebook goes to outputs/rag_hybrid.ipynb (name - to have it printed)" in shown
    assert (project / "nbs" / SOURCE.name).read_text() == SOURCE.read_text()
    assert not shown.lstrip().startswith("{")
    return json.loads((project / "outputs" / "rag_hybrid.ipynb").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("papermill", COMMANDS)
@pytest.mark.parametrize("how", ["terminal", "piped", "stdin-piped"])
def test_the_plain_command(how, papermill, project):
    command = [*papermill, "nbs/run_experiment.ipynb", "-p", "config", "rag_hybrid.yaml", "--prepare-only"]
    nb = check(project, *called(how, command))
    assert nb["metadata"]["papermill"]["parameters"] == {"config": "rag_hybrid.yaml"}


@pytest.mark.slow
@pytest.mark.parametrize("how, changes", [("terminal", ""), ("stdin-piped", "engine=fake retrieval=sparse")])
def test_it_runs(how, changes, project, kernels):
    "All of it, on a few questions: on a terminal with the embedded model."
    given = ["-p", "config", "rag_hybrid.yaml", "-p", "overrides", f"dataset.limit=2 {changes}"]
    command = ["papermill", "nbs/run_experiment.ipynb", *given]
    nb = check(project, *(told := called(how, command)))
    assert "WARNING" not in told[1]  # of a connection without encryption, on this machine
    assert any("recall@1" in json.dumps(cell.get("outputs", [])) for cell in nb["cells"])
    if changes:
        check(project, *called(how, command))  # a second time it writes over what it wrote


@pytest.mark.slow
def test_a_source_is_never_an_output(project):
    command = ["papermill", "nbs/run_experiment.ipynb", "nbs/../nbs/run_experiment.ipynb", "--prepare-only"]
    code, shown = called("piped", command)
    assert code == 2 and "is a notebook's source, which would be lost; name another one" in shown
    assert (project / "nbs" / SOURCE.name).read_text() == SOURCE.read_text()


@pytest.mark.slow
def test_a_source_in_the_place_of_the_output_stays(project, outputs):
    "Also where the name is ours: somebody put a notebook of their own there."
    outputs.mkdir()
    (outputs / "rag_hybrid.ipynb").write_text(SOURCE.read_text())
    code, shown = called("piped", ["papermill", "nbs/run_experiment.ipynb", "--prepare-only"])
    assert code == 2 and "which would be lost" in shown
    assert (outputs / "rag_hybrid.ipynb").read_text() == SOURCE.read_text()


@pytest.mark.parametrize("output", [[], ["out.ipynb"]], ids=["no output", "output"])
@pytest.mark.parametrize("how", [["-p", "confg", "x"], ["-r", "confg", "x"], ["-y", "confg: x"]])
def test_a_parameter_that_there_is_not_is_said_before_anything_runs(how, output, outputs):
    with pytest.raises(
        ConfigError, match=r"no parameter 'confg' \(did you mean 'config'\?\); allowed: config, ov"
    ):
        completed([str(SOURCE), *output, *how])


@pytest.mark.parametrize("page", sorted((ROOT / "outputs").glob("*/*.ipynb")), ids=lambda page: page.stem)
def test_a_published_page_may_be_executed_again(page, outputs):
    "Its notebook says with which command, though the page has been cleaned since."
    (outputs / page.parent.name).mkdir(parents=True)
    copy = outputs / page.parent.name / page.name
    copy.write_text(page.read_text())
    completed([str(SOURCE), str(copy)])
    nb = json.loads(page.read_text())
    for cell in nb["cells"]:
        cell |= {"metadata": {}, "outputs": []}
    copy.write_text(json.dumps(nb | {"metadata": {}}))
    with pytest.raises(ConfigError, match="is a notebook's source"):
        completed([str(SOURCE), str(copy)])


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_cell_that_fails_is_a_sentence(project, command):
    "One line, and not papermill's traceback; what is no error of ours stays Python's to tell."
    code, shown = called("piped", [*command, "nbs/run_experiment.ipynb", "-p", "config", "nope.yaml"])
    assert code == 1 and "Traceback" not in shown
    assert shown.splitlines()[-1].startswith("error: config 'nope.yaml' does not exist"), shown
    code, shown = called("piped", [*command, "nbs/run_experiment.ipynb", "-k", "no-kernel"])
    assert code == 1 and "Traceback" in shown and "no-kernel" in shown


@pytest.mark.slow
def test_a_folder_that_cannot_be_made_is_a_sentence(project, monkeypatch):
    (project / "file").write_text("")
    monkeypatch.setenv("LLMFORGE_OUTPUTS", str(project / "file" / "outputs"))
    code, shown = called("stdin-piped", ["papermill", "nbs/run_experiment.ipynb", "--prepare-only"])
    assert code == 2 and shown.startswith("error: the folder ") and "Traceback" not in shown
    assert (project / "nbs" / SOURCE.name).read_text() == SOURCE.read_text()


@pytest.mark.slow
def test_the_folder_of_an_output_is_made(project):
    "Where it can be; what is filled in or lies elsewhere is papermill's to open."
    command = ["papermill", "nbs/run_experiment.ipynb", "new/below/a.ipynb", "--prepare-only"]
    assert called("piped", command)[0] == 0 and (project / "new" / "below" / "a.ipynb").is_file()
    command[2] = "new/below/a.ipynb/b.ipynb"
    code, shown = called("piped", command)
    assert code == 2 and shown.startswith("error: the folder new/below/a.ipynb of the output cannot be made")
    completed([str(SOURCE), "made_{config}/a.ipynb"])
    completed([str(SOURCE), "s3://bucket/a.ipynb"])
    assert not {"made_{config}", "s3:"} & set(os.listdir(project))


@pytest.mark.slow
def test_another_notebook_is_papermills_affair(project):
    "Printed, as papermill does, and without a word of ours."
    nb = json.loads(SOURCE.read_text())
    nb["cells"] = [c for c in nb["cells"] if c["cell_type"] == "markdown"]
    (project / "other.ipynb").write_text(json.dumps(nb))
    code, shown = called("piped", ["papermill", "other.ipynb", "--prepare-only"])
    assert code == 0 and '"nbformat": 4' in shown and "llmforge:" not in shown


@pytest.mark.slow
def test_help_is_for_the_notebook(project):
    code, shown = called("piped", ["papermill", "nbs/run_experiment.ipynb", "--help-notebook"])
    assert code == 0 and "overrides" in shown and "no output" not in shown


@pytest.mark.slow  # the import of papermill
def test_the_lists_are_papermills():
    "Which options take no value and which take two is what papermill's own command says."
    from papermill.cli import papermill

    options = [p for p in papermill.params if p.param_type_name == "option"]
    flags = {name for o in options if o.is_flag for name in [*o.opts, *o.secondary_opts]}
    assert flags | {"-h", "--help"} == set(_FLAGS)
    assert {name for o in options if o.nargs == 2 for name in o.opts} == set(_PAIRS)


@pytest.mark.parametrize(
    "given, paths, parameters",
    [
        ("-p config cot.yaml a.ipynb", ["a.ipynb"], {"config": "cot.yaml"}),
        ("a.ipynb -pconfig cot.yaml", ["a.ipynb"], {"config": "cot.yaml"}),
        ("--parameters=config cot.yaml a.ipynb", ["a.ipynb"], {"config": "cot.yaml"}),
        ("-r config cot.yaml --cwd . a.ipynb -", ["a.ipynb", "-"], {"config": "cot.yaml"}),
        ("--kernel=python3 --log-output a.ipynb b.ipynb", ["a.ipynb", "b.ipynb"], {}),
        ("-k python3 -- a.ipynb", ["a.ipynb"], {}),
        ("-y config:\u00a0x -b Y29uZmlnOiB5 a.ipynb", ["a.ipynb"], {"config": "y"}),
        ("-f no/such/file -b %% a.ipynb", ["a.ipynb"], {}),
        ("a.ipynb -p config", ["a.ipynb"], {}),
        ("a.ipynb -r config cot.yaml -p config y -y config:\u00a0z", ["a.ipynb"], {"config": "cot.yaml"}),
        ("a.ipynb -y", ["a.ipynb"], {}),
        ("", [], {}),
    ],
)
def test_reading(given, paths, parameters):
    arguments = read_arguments(given.split(" ") if given else [])
    assert arguments.paths == paths and given_parameters(arguments) == parameters


@pytest.mark.parametrize(
    "config, name",
    [
        ("studies/a.b.yaml", "a.b"),
        ("../../etc/x{y}.yaml", "x_y_"),
        ("", "notebook"),
        ("..", ".."),
        ("naïve.yaml", "naïve"),
    ],
)
def test_the_name_stays_in_the_folder(config, name, outputs):
    arguments, _ = completed([str(SOURCE), "-p", "config", config])
    assert arguments[-1] == str(outputs / f"{name}.ipynb")


def test_executed_notebooks_are_no_sources(tmp_path):
    "Neither papermill's own nor those that `llmforge run` left, which are without papermill's metadata."
    published = sorted((ROOT / "outputs").glob("*/experiment.ipynb"))
    assert published and not any(source_code(str(path)) for path in published)
    sources = [*(ROOT / "nbs").glob("run_*.ipynb"), *(ROOT / "nbs" / "tutorials").glob("*.ipynb")]
    assert [path.name for path in sources if not source_code(str(path))] == []
