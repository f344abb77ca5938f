"""SIGKILL at ten moments of a training, and what was resumed: a table. The suite itself has two kills.

python nbs/tests/killed_training.py"""

import json
import os
import signal
import tempfile
import time
from pathlib import Path

from executing import start
from test_align import CHILD, config_of, small_model

from llmforge.config import to_yaml
from llmforge.contents import adapter_content
from llmforge.text import table
from llmforge.trainings import read_training

MOMENTS = 10


def begin(work: Path, cache: str):
    there = {"LLMFORGE_CACHE": str(work / cache), "LLMFORGE_DATA": str(work), "OMP_NUM_THREADS": "1"}
    return start(CHILD, str(work / "c.yaml"), **there)


def finished(process) -> Path:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return Path(out.split()[-1])


def last_step(work: Path, cache: str) -> int:
    "The last step that a whole checkpoint holds; 0 before the first."
    found = (work / cache / "adapters").glob("*-unfinished/checkpoint-*/trainer_state.json")
    steps = []
    for path in found:
        try:
            steps.append(json.loads(path.read_text())["global_step"])
        except (OSError, ValueError):
            continue
    return max(steps, default=0)


def killed_at(work: Path, cache: str, share: float, seconds: float) -> tuple[int, bool]:
    "Kill a training after a share of the whole time; the step it had kept, and whether it was at work."
    process = begin(work, cache)
    time.sleep(share * seconds)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return last_step(work, cache), alive


def main() -> None:
    work = Path(tempfile.mkdtemp())
    os.environ["LLMFORGE_DATA"] = str(work)
    model = small_model(work / "model")
    asked = config_of(model, work, n=30, epochs=1, batch_size=2, learning_rate=1e-3)
    (work / "c.yaml").write_text(to_yaml(asked))
    finished(begin(work, "first"))  # which also waits for the imports of the process that forks
    started = time.perf_counter()
    whole = finished(begin(work, "whole"))
    seconds, rows = time.perf_counter() - started, []
    for i in range(MOMENTS):
        cache = f"killed-{i}"
        step, alive = killed_at(work, cache, (i + 0.5) / MOMENTS, seconds)
        resumed = finished(begin(work, cache))
        curve = read_training(resumed).steps == read_training(whole).steps
        same = adapter_content(resumed) == adapter_content(whole)
        left = [p.name for p in resumed.parent.glob("*unfinished")]
        rows.append(
            (f"{(i + 0.5) / MOMENTS:.0%}", "yes" if alive else "no, done", step, curve, same, not left)
        )
    head = [
        "killed at",
        "still at work",
        "kept up to step",
        "curve equal",
        "adapter equal",
        "nothing left over",
    ]
    print(table(head, rows))


if __name__ == "__main__":
    main()
