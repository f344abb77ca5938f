"What is published: the folders below outputs/ that git tracks. A reader's own runs lie beside them."

import subprocess
from pathlib import Path

from llmforge.files import project_root


def tracked(
    pattern: str,  # of a file in them, e.g. "plan.json"
) -> list[Path]:
    "The published folders that hold a file."
    command = ["git", "ls-files", f"outputs/*/{pattern}"]
    listed = subprocess.run(command, cwd=project_root(), capture_output=True, text=True).stdout.split()
    return sorted((project_root() / name).parent for name in listed)
