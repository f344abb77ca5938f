"README.md is nbs/index.ipynb, and its commands are the ones that CI runs."

import re

from llmforge.files import project_root
from llmforge.notebooks import readme_text


def test_readme_is_current():
    current = (project_root() / "README.md").read_text() == readme_text()
    mend = "python -c 'from llmforge.notebooks import write_readme; write_readme()'"
    assert current, f"README.md is not what nbs/index.ipynb says; run: {mend}"


def test_its_pictures_are_there_and_no_others():
    readme = (project_root() / "README.md").read_text()
    assert sorted(re.findall(r"\((nbs/readme/.+?)\)", readme)) == sorted(
        p.relative_to(project_root()).as_posix() for p in (project_root() / "nbs" / "readme").iterdir()
    )


def test_the_site_is_published_by_the_readmes_command():
    workflow = (project_root() / ".github" / "workflows" / "pages.yml").read_text()
    lines = (project_root() / "README.md").read_text().splitlines()
    command = next(line for line in lines if line.endswith("&& llmforge site"))
    assert command.removeprefix("python3 -m venv .venv && . .venv/bin/activate && ") in workflow


def test_ci_runs_the_readme_command():
    "The command that the README gives for the tests is the one in .ci/run, word for word."
    command = next(
        line
        for line in (project_root() / ".ci" / "run").read_text().splitlines()
        if "pytest" in line and not line.startswith("#")
    )
    assert command in (project_root() / "README.md").read_text()
