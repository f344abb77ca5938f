"The notebooks are the source: modules are exported from them, and they run as they stand, outputs and all."

import json
import re
import shutil

import pytest
from executing import command, run_as_stored
from tracked import copy_tracked

from llmforge.files import project_root

ROOT = project_root()
LESSONS = sorted(p.name for p in (ROOT / "nbs").glob("[0-9][0-9]_*.ipynb")) + ["index.ipynb"]
TUTORIALS = sorted(f"tutorials/{p.name}" for p in (ROOT / "nbs" / "tutorials").glob("*.ipynb"))


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    "A copy of the project to export and execute in, so that a test never changes the checkout."
    project = tmp_path_factory.mktemp("copy") / "project"
    left_out = shutil.ignore_patterns(
        ".git", ".venv", "_site", "__pycache__", "_docs", "_proc", "*.egg-info", "outputs"
    )
    shutil.copytree(ROOT, project, ignore=left_out)
    copy_tracked(project)
    return project


def call(*args, cwd):
    p = command(*args, cwd=cwd, PYTHONPATH=str(cwd), LLMFORGE_HOME=str(cwd))
    assert p.returncode == 0, p.stdout + p.stderr


@pytest.mark.slow
def test_modules_are_exported(copy):
    "Drift gate 1: nbdev-export changes no module."
    call("nbdev-export", cwd=copy)
    for module in sorted((ROOT / "llmforge").glob("*.py")):
        assert (copy / "llmforge" / module.name).read_text() == module.read_text(), (
            f"{module.name} is not what its notebook exports: run nbdev-export"
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", LESSONS + TUTORIALS)
def test_notebook_runs_as_stored(name, copy):
    "Drift gate 2: executing and cleaning a lesson or tutorial leaves it as it is, outputs included."
    before = (ROOT / "nbs" / name).read_text()
    run_as_stored(copy / "nbs" / name, copy)
    assert (copy / "nbs" / name).read_text() == before, (
        f"{name}: outputs have drifted: nbdev-test nbs/{name} --save && nbdev-clean"
    )


@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorials_are_short_and_leave_nothing_behind(name):
    "Five minutes to read, no module of their own, and results in a folder that goes away."
    cells = json.loads((ROOT / "nbs" / name).read_text())["cells"]
    code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    assert len(cells) <= 25 and "#| export" not in code and "#| default_exp" not in code
    assert "tempfile.TemporaryDirectory()" in code and 'os.environ["LLMFORGE_OUTPUTS"]' in code


@pytest.mark.parametrize(
    "path",
    sorted(
        [
            *(ROOT / "nbs").glob("*.ipynb"),
            *(ROOT / "nbs" / "tutorials").glob("*.ipynb"),
            *(ROOT / "outputs").glob("*/*.ipynb"),
        ]
    ),
    ids=lambda p: f"{p.parent.name}/{p.name}",
)
def test_notebook_hygiene(path):
    "No machine paths and no tokens in what is stored; papermill notebooks keep their tagged cell and kernel."
    nb = json.loads(path.read_text())
    outputs = json.dumps([c.get("outputs", []) for c in nb["cells"]])
    assert not re.search(r"/(home|root|tmp|work|Users)/\w|hf_[A-Za-z0-9]{20,}", outputs)
    assert nb["metadata"]["kernelspec"]["name"] == "python3"
    if path.name.startswith("run_"):
        assert any("parameters" in c["metadata"].get("tags", []) for c in nb["cells"])


@pytest.mark.slow
def test_clean_keeps_the_parameters_tag(copy):
    "nbdev-clean would delete the tag, and `papermill -p` would silently do nothing."
    path = copy / "nbs" / "run_experiment.ipynb"
    call("nbdev-clean", "--fname", str(path), cwd=copy)
    import papermill

    assert set(papermill.inspect_notebook(str(path))) == {"config", "overrides"}
