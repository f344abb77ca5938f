"Every notebook that people open: badge, install cell, forms; run headless, and once as on a Colab machine."

import ast
import configparser
import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from urllib.parse import unquote

import executing
import nbformat
import papermill
import pytest

from llmforge.config import load_config
from llmforge.files import project_root
from llmforge.notebooks import (
    EXTRAS,
    MODEL,
    SECRETS,
    colab_secrets,
    executable,
    install_cell,
    tutorials,
    with_colab,
)
from llmforge.studyconfig import load_study

pytestmark = pytest.mark.slow

ROOT = project_root()
EXECUTED = executable()
PAGES = [*tutorials(), *EXECUTED]
INI = configparser.ConfigParser(interpolation=None)
INI.read(ROOT / "settings.ini")


def name(path):
    return path.relative_to(ROOT / "nbs").as_posix()


def test_all_that_people_open_are_here():
    assert {name(p) for p in PAGES} >= {
        "run_experiment.ipynb",
        "run_study.ipynb",
        "run_dpo.ipynb",
        "run_dpo_ablation.ipynb",
        "run_cards.ipynb",
        "run_benchmark.ipynb",
        "run_growth.ipynb",
        "run_harnesses.ipynb",
        "run_load.ipynb",
        "tutorials/first_experiment.ipynb",
    }


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_badge_and_install_cell_are_current(path):
    nb = nbformat.read(path, as_version=4)
    assert nb.cells[0].source.startswith("# ") and nb == with_colab(
        nbformat.read(path, as_version=4), path
    ), "run: python -c 'from llmforge.notebooks import write_colab; write_colab()'"


@pytest.mark.parametrize(
    "path", [*PAGES, ROOT / "README.md", *sorted((ROOT / "nbs" / "site").rglob("*.md"))], ids=lambda p: p.name
)
def test_every_badge_leads_to_a_file(path):
    "A link to Colab names this repository, its branch, and a file of it."
    at = f"https://colab.research.google.com/github/{INI['DEFAULT']['repository']}/blob/{INI['DEFAULT']['branch']}/"
    links = re.findall(r"\((https://colab\.research\.google\.com/github/[^)\s\"]+)\)", path.read_text())
    assert links or path.suffix == ".md"
    for link in links:
        assert link.startswith(at) and (ROOT / unquote(link.removeprefix(at))).is_file(), link


def test_install_cell_is_what_the_project_needs():
    "Its extras are in settings.ini, its model is in the README, and it names no folder of anybody's machine."
    assert all(f"{extra}_requirements" in INI["DEFAULT"] for extra in EXTRAS)
    assert f"--no-deps {MODEL} " in (ROOT / "README.md").read_text() and not re.search(
        r"[\s'\"]/\w", install_cell()
    )


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_what_a_notebook_imports_is_installed_by_its_cell(path):
    "Every module that a notebook imports belongs to Python, the project, or what the install cell brings."
    wanted = " ".join(INI["DEFAULT"][k] for k in ("requirements", *(f"{e}_requirements" for e in EXTRAS)))
    brought = {re.split(r"[\[<>=]", r)[0].lower().replace("-", "_") for r in wanted.split()} | {
        "llmforge",
        "IPython",
        "google",
        "numpy",
        "matplotlib",
        "nbformat",
    }  # the last three with seaborn and papermill
    for c in nbformat.read(path, as_version=4).cells:
        if c.cell_type != "code" or c.id == "colab-install":
            continue
        for node in ast.walk(ast.parse(c.source)):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            for top in (n.split(".")[0] for n in names):
                assert top in sys.stdlib_module_names or top in brought, (
                    f"{top} is not among what the install cell installs"
                )


@pytest.mark.parametrize("path", EXECUTED, ids=name)
def test_parameters_are_a_form(path):
    "Each parameter is a field of Colab's form, with words above it; what its list offers exists."
    source = next(
        c.source
        for c in nbformat.read(path, as_version=4).cells
        if "parameters" in c.metadata.get("tags", [])
    )
    lines = source.splitlines()
    assert len(lines) == 2 * len(papermill.inspect_notebook(str(path)))
    for said, field in zip(lines[::2], lines[1::2]):
        assert said.startswith("# @markdown ")
        variable, value, form = re.fullmatch(r"(\w+): \w+ = (.+?)  # @param (.+)", field).groups()
        offered, kind = re.fullmatch(r"(\[.+\] )?(\{.+\})", form).groups()
        if not offered:
            assert (
                json.loads(kind.replace("type:", '"type":'))["type"]
                == {str: "string", int: "integer", bool: "boolean"}[type(ast.literal_eval(value))]
            )
        else:
            assert kind == "{allow-input: true}" and ast.literal_eval(value) in json.loads(offered)
            for choice in json.loads(offered):
                {"config": load_config, "study": load_study}[variable](choice)


def test_configs_for_a_t4():
    "Half precision (a T4 has no bfloat16), single for a training; a pinned revision, no download of data."
    for path in sorted((ROOT / "configs" / "t4").glob("*.yaml")):
        c = load_config(path)
        assert (
            c.model.dtype == ("float32" if c.alignment.name == "dpo" else "float16")
            and re.fullmatch(r"[0-9a-f]{40}", c.model.revision)
            and c.dataset.name == "almanac"
            and c.engine.batch_size <= (64 if c.engine.name == "vllm" else 16)
        )


def test_secrets_come_from_the_vault_or_the_environment(monkeypatch, colab):
    "What is in the environment stays, what the vault holds is added, what it refuses or lacks is left unset."
    monkeypatch.syspath_prepend(colab)
    for s in SECRETS:
        monkeypatch.delenv(s, raising=False)
    monkeypatch.setenv("QDRANT_API_KEY", "mine")
    monkeypatch.setenv("HF_TOKEN", "")
    del os.environ["HF_TOKEN"]  # so that it is unset again afterwards
    colab_secrets()
    assert (
        os.environ["HF_TOKEN"] == "from-the-vault"
        and os.environ["QDRANT_API_KEY"] == "mine"
        and "LLMFORGE_STORE" not in os.environ
    )


@pytest.fixture
def colab(tmp_path):
    "A folder with a package `google.colab` that has the vault's interface; the real one is on Colab only."
    package = tmp_path / "vault" / "google" / "colab"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "errors.py").write_text("class Error(Exception): pass\n")
    (package / "userdata.py").write_text(
        "from google.colab import errors\n"
        "class SecretNotFoundError(errors.Error): pass\n"
        "class NotebookAccessError(Exception): pass\n"
        "def get(key):\n"
        "    if key == 'HF_TOKEN': return 'from-the-vault'\n"
        "    raise NotebookAccessError(key) if key == 'LLMFORGE_STORE' else SecretNotFoundError(key)\n"
    )
    return tmp_path / "vault"


STUDY = """
study:
  name: smallest
  question: Does reading help?
  base: naive.yaml
  datasets: {almanac: {dataset: {name: almanac, kinds: [single_hop], limit: 3}}}
  arms:
    none: {method: {shots: 1}}
    hybrid: {method: {shots: 1}, retrieval: {name: hybrid, top_k: 1}}
  hypotheses:
    - {id: H1, claim: Reading gives more right answers, metric: accuracy, treatment: hybrid, control: none,
       direction: higher, min_effect: 0.1}
"""


def execute(path, tmp_path, **parameters):
    "Run a notebook as papermill's command does, from the project's root."
    page, p = executing.papermill(path, tmp_path, **parameters)
    assert p.returncode == 0, p.stdout[-2000:] + p.stderr[-2000:]
    return nbformat.read(page, as_version=4)


def test_smallest_study(tmp_path, kernels):
    (tmp_path / "smallest.yaml").write_text(STUDY)
    nb = execute(ROOT / "nbs" / "run_study.ipynb", tmp_path, study=tmp_path / "smallest.yaml")
    assert any("Reading gives more right answers" in json.dumps(c.get("outputs", [])) for c in nb.cells)


DPO = """
study:
  name: smallest_dpo
  question: What does DPO cost?
  base:
    method: {name: naive, shots: 1}
    dataset: {name: meridia, limit: 2}
    sampling: {max_tokens: 4}
  arms: {base: {}, dpo: {alignment: {name: dpo, pairs: 4, batch_size: 2}}}
  hypotheses: [{id: H1, claim: It costs nothing, treatment: dpo, control: base, margin: 0.03}]
"""


def test_smallest_alignment(tmp_path, kernels):
    (tmp_path / "smallest.yaml").write_text(DPO)
    sizes = {"held_out": 4, "prompts": 1, "control_pairs": 0}
    nb = execute(ROOT / "nbs" / "run_dpo.ipynb", tmp_path, study=tmp_path / "smallest.yaml", **sizes)
    shown = json.dumps([c.get("outputs", []) for c in nb.cells])
    assert "the shorter wins" in shown and "log-probability of the preferred reply" in shown


def test_smallest_ablation(tmp_path, kernels):
    (tmp_path / "smallest.yaml").write_text(DPO)
    given = {"study": tmp_path / "smallest.yaml", "reference": "dpo", "held_out": 4, "prompts": 1}
    given |= {"controls": 2, "control_pairs": 2}
    nb = execute(ROOT / "nbs" / "run_dpo_ablation.ipynb", tmp_path, **given)
    shown = json.dumps([c.get("outputs", []) for c in nb.cells])
    assert all(word in shown for word in ("margin (nats)", "image/png", "P1: ", "P2: ", "P3: "))


def test_smallest_cards(tmp_path, kernels):
    nb = execute(ROOT / "nbs" / "run_cards.ipynb", tmp_path, scorers="")
    assert any("exact_match" in json.dumps(c.get("outputs", [])) for c in nb.cells)


def test_smallest_benchmark(tmp_path, kernels):
    nb = execute(ROOT / "nbs" / "run_benchmark.ipynb", tmp_path, prompts=1, rounds=1)
    shown = json.dumps([c.get("outputs", []) for c in nb.cells])
    assert "times the plain loop" in shown
    assert "identical texts" in shown and "Sustainable rate" in shown


def test_smallest_growth(tmp_path, kernels):
    nb = execute(ROOT / "nbs" / "run_growth.ipynb", tmp_path, sizes="30", questions="20 40")
    shown = json.dumps([c.get("outputs", []) for c in nb.cells])
    assert "exponent" in shown and "passages / s" in shown


def test_smallest_harnesses(tmp_path, kernels, monkeypatch):
    "Where no other harness is installed, their rows say how it comes there, and have no number."
    for variable in ("LM_EVAL_PYTHON", "INSPECT_PYTHON"):
        monkeypatch.delenv(variable, raising=False)
    sizes = {"prompts": 8, "few": 4, "rounds": 1}
    nb = execute(ROOT / "nbs" / "run_harnesses.ipynb", tmp_path, **sizes)
    shown = next(c for c in nb.cells if c.id == "harnesses-table").outputs[0]["data"]["text/markdown"]
    rows = [line.strip("| ").split(" | ") for line in shown.splitlines()[2:]]
    ours, *others = rows
    assert ours[0] == "LlmForge" and ours[-2:] == ["0 of 4", "0.625"]
    assert [row[0].split(",")[0] for row in others] == ["lm-eval", "lm-eval", "Inspect", "Inspect"]
    assert all(
        row[1].startswith("not installed: `python -m venv ") and set(row[2:]) == {"–"} for row in others
    )


def test_on_a_new_colab_machine(tmp_path, colab, monkeypatch):
    """In an empty folder and an environment without the project, the install cell clones and installs,
    and the smallest experiment runs to its end."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout, so nothing can be cloned from it")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "machine")], check=True)
    python = tmp_path / "machine" / "bin" / "python"
    here = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    (Path(here) / "preinstalled.pth").write_text(
        sysconfig.get_path("purelib") + "\n"
    )  # as Colab has torch: packages, but not ours (its finder is not found through this)
    kernel = tmp_path / "jupyter" / "kernels" / "colab"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(
        json.dumps(
            {
                "argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                "display_name": "colab",
                "language": "python",
            }
        )
    )
    home = f"https://github.com/{INI['DEFAULT']['repository']}"
    for k, v in {
        "JUPYTER_PATH": tmp_path / "jupyter",
        "PYTHONPATH": colab,
        "GIT_CONFIG_COUNT": 1,
        "GIT_CONFIG_KEY_0": f"url.file://{ROOT}.insteadOf",
        "GIT_CONFIG_VALUE_0": home,
        "PIP_NO_BUILD_ISOLATION": "false",
        "PIP_NO_DEPS": 1,
    }.items():
        monkeypatch.setenv(k, str(v))
    for k in ("LLMFORGE_OUTPUTS", "LLMFORGE_HOME", "HF_TOKEN"):
        monkeypatch.delenv(k, raising=False)
    nb = nbformat.read(ROOT / "nbs" / "run_experiment.ipynb", as_version=4)
    nb.cells.insert(0, nbformat.v4.new_code_cell("import google.colab  # Colab's kernel does"))
    nb.cells.append(
        nbformat.v4.new_code_cell(
            "import os, llmforge\n"
            "secret = os.environ['HF_TOKEN'] == 'from-the-vault'\n"
            "print(llmforge.__file__, secret, Store().experiment(experiment.id).status)"
        )
    )
    (tmp_path / "content").mkdir()
    nbformat.write(nb, tmp_path / "colab.ipynb")
    papermill.execute_notebook(
        str(tmp_path / "colab.ipynb"),
        str(tmp_path / "out.ipynb"),
        kernel_name="colab",
        cwd=str(tmp_path / "content"),
        progress_bar=False,
        parameters=dict(config="naive.yaml", overrides="dataset.limit=2 method.shots=1"),
    )
    said = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[-1].outputs[0].text
    assert said.split() == [
        str(tmp_path / "content" / "llmforge" / "llmforge" / "__init__.py"),
        "True",
        "COMPLETED",
    ], said
