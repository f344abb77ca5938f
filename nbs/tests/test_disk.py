"""Disks that are full, may not be written to, or hold something else where a folder belongs; damaged files.

Each is one sentence with what to do, nothing is lost, and the same command goes on when the cause is gone."""

import gzip
import json
import os
import shutil
import sqlite3
import subprocess
import sys

import pytest
from executing import command

from llmforge.files import project_root, remedy

CONFIG = """\
experiment:
  name: disk
  engine: {name: fake}
  method: {shots: 0}
  dataset: {file: q.jsonl}
"""
STUDY = """\
study:
  name: pair
  question: Which is better?
  base: {engine: {name: fake}, method: {shots: 0}}
  arms: {a: {}, b: {method: chain_of_thought}}
  datasets: {mine: {dataset: {file: q.jsonl}}}
"""
AGAIN = "then the same command goes on"


@pytest.fixture
def project(tmp_path, monkeypatch, kernels):
    "A folder with a config, a study, questions, and a place for results that is a folder of its own."
    monkeypatch.setenv("LLMFORGE_HOME", str(tmp_path))
    monkeypatch.setenv("LLMFORGE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "c.yaml").write_text(CONFIG)
    (tmp_path / "s.yaml").write_text(STUDY)
    lines = [json.dumps({"id": f"q{i}", "question": f"{i}?", "answers": [str(i)]}) for i in range(8)]
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    return tmp_path


def call(project, *args, code=0, forked=True, before=None):
    """What the real command prints; it never shows a traceback, and an error is its last line.

    A forked one does not tidy up at its end, as an interpreter that is started does."""
    args = [str(arg) for arg in args]
    if not forked:
        started = [sys.executable, "-c", "from llmforge.cli import main; main()", *args]
        p = subprocess.run(started, cwd=project, capture_output=True, text=True, preexec_fn=before)
    else:
        p = command("llmforge", *args, cwd=project)
    assert p.returncode == code and "Traceback" not in p.stderr + p.stdout, p.stdout + p.stderr
    return (p.stderr.strip().splitlines() or [""])[-1] if code else p.stdout


def run(project, *more, **options):
    return call(project, "run", "c.yaml", "--no-notebook", *more, **options)


def test_what_to_do_is_told_by_kind():
    assert "free some space" in remedy(OSError(28, "No space left on device"))
    assert "LLMFORGE_OUTPUTS" in remedy(OSError(30, "Read-only file system"))
    assert "a file where a folder belongs" in remedy(NotADirectoryError(20, "Not a directory"))
    assert (
        remedy(OSError(110, "timed out"))
        == remedy(OSError("x"))
        == remedy(ValueError())
        == remedy(None)
        == ""
    )
    with pytest.raises(sqlite3.OperationalError) as e:
        sqlite3.connect("/nowhere/x.db").execute("SELECT 1")
    assert "writable" in remedy(e.value)


@pytest.mark.slow
def test_damaged_files_of_data_are_one_sentence(project):
    whole = gzip.compress((project / "q.jsonl").read_bytes())
    (project / "cut.jsonl.gz").write_bytes(whole[:-20])
    (project / "plain.jsonl.gz").write_bytes((project / "q.jsonl").read_bytes())
    (project / "cut.csv.gz").write_bytes(whole[:-20])
    for name in ("cut.jsonl.gz", "plain.jsonl.gz"):
        said = run(project, "-o", f"dataset.name={name}", code=2)
        assert said.startswith(f"error: load inputs: {name}: cannot be read"), said
        assert said.endswith("it is damaged: fetch or write it again")
    (project / "cut.jsonl.gz").write_bytes(whole)
    assert "COMPLETED" in run(project, "-o", "dataset.name=cut.jsonl.gz")


@pytest.mark.slow
def test_damaged_caches_and_stores(project, outputs):
    "A damaged row is asked again, a damaged file is named, and results come back from what is exported."
    run(project)
    cache = outputs / "generations.db"
    with sqlite3.connect(cache) as db:
        assert db.execute("UPDATE generations SET generation = '{'").rowcount == 8
    db.close()
    assert "COMPLETED" in run(project, "-o", "name=again")
    for path in outputs.glob("generations.db*"):
        path.unlink()
    cache.write_text("no database, but long enough to be taken for one " * 40)
    said = run(project, "-o", "name=third", code=1)
    assert (
        f"the generation cache {cache}: file is not a database; move that file away" in said and AGAIN in said
    )
    cache.unlink()
    assert "COMPLETED" in run(project, "-o", "name=third")
    for path in outputs.glob("llmforge.db*"):
        path.unlink()
    (outputs / "llmforge.db").write_text("no database, but long enough to be taken for one " * 40)
    said = call(project, "list", code=1)
    assert "llmforge.db') failed: file is not a database; move that file away" in said
    (outputs / "llmforge.db").unlink()
    call(project, "import", outputs)
    assert call(project, "list").count("COMPLETED") == 3


@pytest.mark.slow
def test_a_file_where_a_folder_belongs(project, outputs, monkeypatch):
    outputs.write_text("x")
    for asked in (("run", "c.yaml"), ("study", "s.yaml"), ("import", "e"), ("list",)):
        said = call(project, *asked, code=2)
        assert said.startswith(f"error: the folder {outputs} cannot be made") and "LLMFORGE_OUTPUTS" in said
    outputs.unlink()
    id = run(project).strip().splitlines()[-1].partition(":")[0]
    shutil.rmtree(outputs / id)
    for place in (outputs / id, outputs / "study-pair", project / "away", project / "site"):
        place.write_text("x")
    for asked in (
        ("run", "c.yaml", "--no-notebook"),
        ("study", "s.yaml"),
        ("export", id, project / "away"),
    ):
        said = call(project, *asked, code=1)
        assert "move away what lies in its place" in said and said.endswith(AGAIN), said
    assert "is a file, and the site is a folder" in call(project, "site", project / "site", code=2)
    for place in (outputs / id, outputs / "study-pair", project / "away"):
        place.unlink()
    run(project)
    call(project, "study", "s.yaml")
    call(project, "export", id, project / "away")
    assert (outputs / id / "result.json").is_file() and (project / "away" / "result.json").is_file()
    monkeypatch.setenv("LLMFORGE_CACHE", str(project / "c.yaml"))
    said = run(project, "-o", "corpus=almanac", "-o", "retrieval=sparse", code=2)
    assert "cannot be made" in said and "LLMFORGE_CACHE" in said


@pytest.mark.slow
@pytest.mark.parametrize("kb", [0, 60, 100, 200])
def test_a_disk_that_is_full_at_some_point(project, kb):
    "No file grows beyond some size; the same command goes on once it may."

    resource = pytest.importorskip("resource")

    def small():
        resource.setrlimit(resource.RLIMIT_FSIZE, (kb * 1024, resource.RLIM_INFINITY))

    lines = [json.dumps({"id": f"q{i}", "question": f"{i}?", "answers": [str(i)]}) for i in range(400)]
    (project / "q.jsonl").write_text("\n".join(lines))
    said = run(project, code=1, forked=False, before=small)
    assert said.startswith("error: ") and "free some space" in said and said.endswith(AGAIN), said
    assert "400 attempted, 400 answered" in run(project)


def mounted(folder, options):
    "A small file system of its own at a folder, where this process may mount one."
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a file system")


@pytest.mark.slow
def test_a_folder_that_may_not_be_written_to(project, outputs, monkeypatch):
    "Every command says so; what was there is there, and all go on when it may be."
    mounted(outputs, "size=20m")
    try:
        id = run(project).strip().splitlines()[-1].partition(":")[0]
        saved = project / "saved"
        call(project, "export", id, saved, forked=False)  # the store is a single file again
        subprocess.run(["mount", "-o", "remount,ro", str(outputs)], check=True)
        commands = (
            ("run", "c.yaml"),
            ("run", "c.yaml", "--no-notebook"),
            ("study", "s.yaml"),
            ("import", saved),
            ("export", id),
        )
        for asked in commands:
            said = call(project, *asked, code=1)
            assert said.startswith("error: ") and "LLMFORGE_OUTPUTS" in said and said.endswith(AGAIN), said
        monkeypatch.delenv("LLMFORGE_HOME")  # the site is made of a checkout's lessons
        said = call(project_root(), "site", outputs / "site", code=1)
        assert said.startswith("error: Read-only file system: ") and said.endswith(AGAIN)
        monkeypatch.setenv("LLMFORGE_HOME", str(project))
        subprocess.run(["mount", "-o", "remount,rw", str(outputs)], check=True)
        assert "COMPLETED" in run(project)
        call(project, "study", "s.yaml")
    finally:
        subprocess.run(["umount", str(outputs)], check=True)


@pytest.mark.slow
def test_a_disk_without_room(project, outputs):
    mounted(outputs, "size=1m")
    try:
        with open(outputs / "ballast", "wb", buffering=0) as f, pytest.raises(OSError):
            while f.write(b"x" * 4096) == 4096:
                pass
            raise OSError
        for asked in (("run", "c.yaml", "--no-notebook"), ("run", "c.yaml"), ("study", "s.yaml")):
            said = call(project, *asked, code=1)
            assert said.startswith("error: ") and "free some space" in said and said.endswith(AGAIN), said
        (outputs / "ballast").unlink()
        assert "COMPLETED" in run(project)
    finally:
        subprocess.run(["umount", str(outputs)], check=True)
