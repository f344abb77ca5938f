"README.md is nbs/index.ipynb, and its commands are the ones that CI runs."

import re

import pytest

from llmforge.files import project_root
from llmforge.notebooks import readme_text


@pytest.mark.slow  # the import of nbformat
def test_readme_is_current():
    current = (project_root() / "README.md").read_text() == readme_text()
    mend = "python -c 'from llmforge.notebooks import write_readme; write_readme()'"
    assert current, f"README.md is not what nbs/index.ipynb says; run: {mend}"


def test_its_pictures_are_there_and_no_others():
    readme = (project_root() / "README.md").read_text()
    assert sorted(re.findall(r"\((nbs/readme/.+?)\)", readme)) == sorted(
        p.relative_to(project_root()).as_posix() for p in (project_root() / "nbs" / "readme").iterdir()
    )


def commands(path):
    "The blocks of commands of a page."
    return re.findall(r"```bash\n(.*?)```", (project_root() / path).read_text(), flags=re.S)


def test_readme_is_a_page():
    assert len((project_root() / "README.md").read_text().splitlines()) <= 110


def test_ci_runs_the_readme_command():
    "The command that the README gives for the tests is the one in .ci/run, line for line."
    block = next(b for b in commands("README.md") if "pytest" in b)
    assert block in (project_root() / ".ci" / "run").read_text()


def test_the_home_page_gives_the_same_two_commands():
    readme, home = commands("README.md"), commands("nbs/site/index.md")
    assert [b for b in readme if b.startswith("python3 -m venv")] == home


def test_the_site_is_built_as_contributing_says():
    workflow = (project_root() / ".github" / "workflows" / "pages.yml").read_text()
    command = re.search(
        r"`(pip install [^`]*&& llmforge site)`", (project_root() / "CONTRIBUTING.md").read_text()
    )
    assert command[1] in workflow
