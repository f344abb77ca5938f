"Only what git tracks below the folder of results is published; where git tracks nothing there, all of it."

import shutil
import subprocess
from dataclasses import replace

import pytest

from llmforge.card import save_card
from llmforge.cards import make_card
from llmforge.core import DataError, LlmForgeError
from llmforge.files import project_root
from llmforge.published import left_out, left_out_line, published

NAIVE, REACT = "retrieval-naive-meridia-dce1d5fb", "react-04be8240"


def git(folder, *args):
    "A command of git that knows nobody's settings."
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *who, *args], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    "A folder of results with two experiments and a card, inside a new repository."
    for id in (NAIVE, REACT):
        shutil.copytree(project_root() / "outputs" / id, tmp_path / "outputs" / id)
    save_card(replace(make_card("exact_match", "2030-01-01"), metric="mine"), tmp_path / "outputs" / "cards")
    git(tmp_path, "init")
    (tmp_path / ".gitignore").write_text("outputs/*\n")
    return tmp_path


@pytest.mark.slow
def test_what_git_tracks_is_published(checkout):
    "As long as nothing is tracked, all of it; then what is, and a sentence about the rest."
    outputs = checkout / "outputs"
    assert set(published(outputs).experiments) == {NAIVE, REACT} and not left_out(outputs)
    git(checkout, "add", "-f", f"outputs/{NAIVE}")
    assert list(published(outputs).experiments) == [NAIVE] and left_out(outputs) == [REACT]
    assert f"git add -f outputs/{REACT}" in left_out_line([REACT]) and left_out_line([]) == ""
    assert len(published(outputs, everything=True).experiments) == 2
    cards = len(published(outputs, everything=True).cards)
    assert len(published(outputs).cards) == cards - 1
    git(checkout, "add", "-f", "outputs")
    assert len(published(outputs).experiments) == 2 and len(published(outputs).cards) == cards


@pytest.mark.slow
def test_a_damaged_run_that_is_not_published_stops_nothing(checkout):
    outputs = checkout / "outputs"
    git(checkout, "add", "-f", f"outputs/{NAIVE}")
    (outputs / REACT / "result.json").write_text("{}")
    assert list(published(outputs).experiments) == [NAIVE]
    with pytest.raises(LlmForgeError, match="is not an exported experiment"):
        published(outputs, everything=True)


@pytest.mark.slow
def test_a_repository_that_git_cannot_read_is_said(checkout):
    "Rather than that everything is published."
    (checkout / ".git" / "index").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"git does not say what of .* --all"):
        published(checkout / "outputs")
