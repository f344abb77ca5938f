"What is published: the files below outputs/ that git tracks. A reader's own runs lie beside them."

import shutil
import subprocess
from pathlib import Path

from llmforge.files import project_root


def tracked_files(
    pattern: str = "*",  # of their path below outputs/
) -> list[Path]:  # from the project's root; without git all that lie there
    "The published files."
    root = project_root()
    command = ["git", "ls-files", f"outputs/{pattern}"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True).stdout.split()
    if not (root / ".git").exists():
        listed = [p.relative_to(root) for p in (root / "outputs").glob(f"**/{pattern}") if p.is_file()]
    return sorted(map(Path, listed))


def tracked(
    name: str,  # of a file in them, e.g. "plan.json"
) -> list[Path]:
    "The published folders that hold a file."
    return [(project_root() / path).parent for path in tracked_files(f"*/{name}")]


def copy_tracked(
    folder: Path,  # gets outputs/ with the published files
) -> None:
    "Copy what is published."
    for path in tracked_files():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(project_root() / path, folder / path)
