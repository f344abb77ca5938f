"""The site of a project without lessons, as `llmforge init` makes one, and what a second build does."""

import shutil
import subprocess

import pytest
from typer.testing import CliRunner

import llmforge.site as built_by
from llmforge.cli import app
from llmforge.core import DataError
from llmforge.files import project_root
from llmforge.published import experiment_page
from llmforge.site import build_site

pytestmark = pytest.mark.slow
OUTPUTS = project_root() / "outputs"
NAIVE, REACT = "retrieval-naive-meridia-dce1d5fb", "react-04be8240"
MERIDIA = "reasoning-naive-meridia-3f481077"


def contents(site):
    "Every file of a site with its bytes."
    return {p.relative_to(site).as_posix(): p.read_bytes() for p in site.rglob("*") if p.is_file()}


@pytest.fixture
def project(tmp_path, monkeypatch):
    "A project with two experiments, and a further page of its own."
    home = tmp_path / "project"
    (home / "configs").mkdir(parents=True)
    (home / "llmforge-project.txt").touch()
    for id in (NAIVE, REACT):
        shutil.copytree(OUTPUTS / id, home / "outputs" / id)
    pages = home / "nbs" / "site"
    pages.mkdir(parents=True)
    (pages / "more.md").write_text(f"---\norphan: true\n---\n# More\n\n{{{{{NAIVE}:accuracy:.2f}}}}\n")
    monkeypatch.setenv("LLMFORGE_HOME", str(home))
    monkeypatch.setenv("LLMFORGE_OUTPUTS", str(home / "outputs"))
    monkeypatch.setenv("LLMFORGE_CACHE", str(tmp_path / "cache"))
    return home


@pytest.fixture
def clean(tmp_path, monkeypatch):
    "Builds from nothing; what the site holds then."

    def build():
        with monkeypatch.context() as m:
            m.setenv("LLMFORGE_CACHE", str(tmp_path / "empty"))
            made = contents(build_site(tmp_path / "clean"))
        for name in ("empty", "clean"):
            shutil.rmtree(tmp_path / name)
        return made

    return build


def differing(a, b):
    return {name for name in {*a, *b} if a.get(name) != b.get(name)}


def test_a_second_build_does_what_changed(project, clean, monkeypatch):
    "Nothing for the same; after a removal, and for pages that somebody changed, what a clean build gives."
    site = build_site()
    first = contents(site)
    wanted = [
        "index",
        "leaderboard",
        "compare",
        "trace",
        "experiments/index",
        "findings/index",
        "cards/index",
        "benchmarks",
    ]
    assert {f"{name}.html" for name in [*wanted, "more", f"experiments/{REACT}"]} <= set(first)
    assert not any(name.startswith(("learn/", "api/")) for name in first)
    assert experiment_page(NAIVE) in (site / "more.html").read_text()

    with monkeypatch.context() as m:
        m.setattr(built_by, "run_sphinx", lambda *args: pytest.fail("Sphinx was run for the same"))
        assert build_site() == site and contents(site) == first

    (site / "index.html").write_text("changed by hand")
    shutil.rmtree(project / "outputs" / REACT)
    second = contents(build_site())
    assert f"experiments/{REACT}.html" not in second and f"data/traces/{REACT}.js" not in second
    assert not any(REACT.encode() in content for content in second.values())
    assert differing(second, clean()) == set()


def test_pages_are_rendered_again_where_they_change(project, clean, tmp_path):
    """A page whose text changes, alone; a new experiment's neighbours; all pages where a title changes.
    In the end, and after a build that failed, the site is that of a build from nothing."""
    site = build_site()
    (html,) = (tmp_path / "cache" / "sites").glob("*/sphinx/html")

    def rendered():
        before = {page: page.stat().st_mtime_ns for page in html.rglob("*.html")}
        build_site()
        return {p.relative_to(html).as_posix() for p, at in before.items() if p.stat().st_mtime_ns != at}

    page = project / "nbs" / "site" / "more.md"
    text = page.read_text()
    page.write_text(f"{text}\nAn afterthought.\n")
    assert rendered() == {"more.html", "genindex.html", "search.html"}
    shutil.copytree(OUTPUTS / MERIDIA, project / "outputs" / MERIDIA)
    assert {"experiments/index.html", "leaderboard.html"} <= (some := rendered()) and "yours.html" not in some
    page.write_text(text := text.replace("# More", "# Much more"))
    assert f"experiments/{NAIVE}.html" in rendered()
    made = contents(site)
    assert differing(made, clean()) == set()

    page.write_text(f"{text}\n[](nowhere.md)\n")
    with pytest.raises(DataError, match="more.md"):
        build_site()
    page.write_text(text)
    assert contents(build_site()) == made


def test_the_command_says_what_it_left_out(project, tmp_path):
    "A run that git does not track has no page, and is named with what publishes it; with --all it has one."
    for command in (["git", "init"], ["git", "add", "-f", f"outputs/{NAIVE}"]):
        subprocess.run(command, cwd=project, check=True, capture_output=True)
    pages = {}
    for more in ([], ["--all"]):
        site = tmp_path / "_".join(["site", *more])
        said = CliRunner().invoke(app, ["site", str(site), *more])
        assert said.exit_code == 0, said.output
        pages[bool(more)] = said.output, (site / "experiments" / f"{REACT}.html").exists()
    assert f"1 local, not on the site: {REACT}." in pages[False][0] and not pages[False][1]
    assert (
        f"git add -f outputs/{REACT}" in pages[False][0] and "local" not in pages[True][0] and pages[True][1]
    )
