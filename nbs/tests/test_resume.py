"Stopping a run at any moment costs nothing: no row is lost or doubled, nothing stored is generated again."

import json
import os
import random
import shutil
import signal
import time

import executing
import pytest
from watching import count

from llmforge.batching import FakeEngine, Fault
from llmforge.config import load_config
from llmforge.exports import export_experiment, import_experiment
from llmforge.files import aside_of
from llmforge.runner import run_experiment
from llmforge.store import Store
from llmforge.study import run_study
from llmforge.studyconfig import load_study

pytestmark = pytest.mark.slow

N = 400
CONFIG = {
    "experiment": {
        "name": "killed",
        "engine": {"name": "slow", "batch_size": 8},
        "dataset": {"name": "almanac", "limit": N},
        "method": {"shots": 1},
    }
}

# The process that gets killed: a slow scripted engine that writes down every prompt it is asked.
CHILD = f"""
import os, sys
from llmforge.config import load_config
from llmforge.core import LlmForgeError, engines, fingerprint
from llmforge.batching import FakeEngine
from llmforge.engine import prompt_text
from llmforge.runner import run_experiment

class Slow(FakeEngine):
    def generate_batch(self, requests):
        asked = "".join(fingerprint(prompt_text(p)) + "\\n" for p, _ in requests)
        with open(os.environ["CALLS"], "a") as f: f.write(asked)
        return super().generate_batch(requests)

@engines.register("slow")
def slow(config):
    word, delay = lambda text, s: " " + fingerprint(text, n=4), float(os.environ["DELAY"])
    return Slow(word, delay=delay, batch_size=config.engine.batch_size)

try: print(run_experiment(load_config({CONFIG!r}), show=False))
except LlmForgeError as e: sys.exit(f"{{type(e).__name__}}: {{e}}")
"""


def start(tmp_path, delay=0.06):
    return executing.start(CHILD, CALLS=str(tmp_path / "calls.txt"), DELAY=str(delay))


def test_sigkill_at_eight_random_moments(tmp_path, outputs):
    "Kill a run eight times, then let it end: every example once, nothing stored was generated again."
    rng, cache, calls = random.Random(20), outputs / "generations.db", tmp_path / "calls.txt"
    for _ in range(8):
        stored, called = count(cache, "generations"), len(calls.read_text().split()) if calls.exists() else 0
        p = start(tmp_path)
        while p.poll() is None and len(calls.read_text().split() if calls.exists() else []) <= called:
            time.sleep(0.003)  # until a batch is begun
        time.sleep(rng.random() * 0.12)  # during it, after it, or in the next
        p.send_signal(signal.SIGKILL)
        p.wait()
        assert count(outputs / "llmforge.db", "runs") <= count(cache, "generations") >= stored
    out, err = (p := start(tmp_path)).communicate(timeout=120)
    assert p.returncode == 0, err
    store, id = Store(), out.strip()
    assert (e := store.experiment(id)).status == "COMPLETED" and e.attempt == 1 and e.fence == 9
    ids = [r["example_id"] for r in store.rows(id)]
    assert len(ids) == len(set(ids)) == N == count(cache, "generations")
    assert store.result(id)["n"] == N


def test_nothing_stored_is_generated_twice(tmp_path, outputs):
    "After a kill, the prompts asked again are exactly those whose generation had not been committed."
    p, calls = start(tmp_path), tmp_path / "calls.txt"
    while count(outputs / "generations.db", "generations") < 24:
        time.sleep(0.003)
    p.send_signal(signal.SIGKILL)
    p.wait()
    stored, before = count(outputs / "generations.db", "generations"), calls.read_text().split()
    out, err = (p := start(tmp_path)).communicate(timeout=120)
    assert p.returncode == 0, err
    after = calls.read_text().split()[len(before) :]
    assert len(after) == len(set(after)) == N - stored
    assert len(set(before) & set(after)) == len(before) - stored


def test_second_process_is_told_who_runs(tmp_path, outputs):
    p = start(tmp_path, delay=1)  # it is at work for as long as the second takes to start
    while count(outputs / "llmforge.db", "runs") < 1:
        time.sleep(0.01)
    second = start(tmp_path)
    _, err = second.communicate(timeout=60)
    assert second.returncode != 0 and "AlreadyRunning" in err and f":{p.pid}:" in err
    assert p.poll() is None, "and the first goes on"
    p.send_signal(signal.SIGKILL)
    p.communicate()


def run_here(config, engine, store):
    return run_experiment(load_config(config, "engine=fake"), store, engine, show=False)


def test_failures_are_rows_and_count_as_wrong(outputs):
    "Thirty per cent of the generations fail for good: every example has its row and counts for the accuracy."
    store = Store()
    id = run_here(CONFIG, FakeEngine(" x", faults=[Fault(share=0.3)]), store)
    result, rows = store.result(id), store.rows(id)
    lost = [r for r in rows if r["error_type"]]
    assert len(rows) == N and result["failed"] == len(lost) and 80 < len(lost) < 160
    assert all(
        r["error_type"] == "EngineError" and "injected fault" in r["error"] and not r["correct"] for r in lost
    )
    assert result["summary"]["accuracy"]["n"] == N
    assert "NaN" not in json.dumps(result["summary"])


def test_interrupt_keeps_the_experiment_open(outputs, request):
    "Ctrl-C is not a failure: the experiment stays RUNNING, its lease is free, and the next call goes on."
    former = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, former))
    store, n = Store(), iter(range(10**6))

    def reply(text, sampling):
        if next(n) == 10:
            os.kill(
                os.getpid(), signal.SIGINT
            )  # the main thread's; one raised here would be an engine's failure
            time.sleep(0.2)
        return " x"

    with pytest.raises(KeyboardInterrupt):
        run_here(CONFIG, FakeEngine(reply, batch_size=8), store)
    id = store.experiments().id[0]
    assert store.experiment(id).status == "RUNNING"
    assert run_here(CONFIG, FakeEngine(" x"), store) == id and store.experiment(id).status == "COMPLETED"


def test_sampled_answers_do_not_depend_on_the_interruption(outputs, tmp_path):
    "The seed of an example comes from its id, so a run in two halves samples what a run in one does."
    seeds = {}

    def seen(text, sampling):
        return f" {seeds.setdefault(text, sampling.seed)}"

    config = load_config(CONFIG, "engine=fake sampling.temperature=0.8 name=sampled")
    id = run_experiment(config, store := Store(), FakeEngine(seen), show=False)
    other = run_experiment(
        config,
        again := Store(f"sqlite:///{tmp_path}/again.db"),
        FakeEngine(lambda t, s: f" {s.seed}"),
        show=False,
    )
    assert [r["answer"] for r in store.rows(id)] == [r["answer"] for r in again.rows(other)] and len(
        set(seeds.values())
    ) == N


STUDY = {
    "study": {
        "name": "killed",
        "question": "Does an example help?",
        "base": {
            "engine": {"name": "fake", "batch_size": 4},
            "dataset": {"name": "meridia", "limit": 8},
            "metrics": {"resamples": 100},
        },
        "arms": {f"shots-{n}": {"method": {"shots": n}} for n in range(5)},
        "hypotheses": [],
    }
}
STUDY_CHILD = f"""
import os
from pathlib import Path
from llmforge.study import run_study
from llmforge.studyconfig import load_study
Path(os.environ["LLMFORGE_OUTPUTS"]).mkdir(exist_ok=True)
(Path(os.environ["LLMFORGE_OUTPUTS"]) / "begun").touch()
run_study(load_study({STUDY!r}), show=False)
"""


def exports(outputs):
    "The folders that a reader takes for exports; each is whole, and can be imported."
    folders = [p.parent for p in outputs.glob("[!.]*/result.json")]
    for folder in folders:
        assert import_experiment(Store("sqlite://"), folder) == folder.name
    return folders


def test_a_study_that_is_killed_again_and_again_is_exported_whole(outputs):
    "At no moment a reader meets half an export; in the end all arms are there, and nothing hidden is left."
    rng, begun, kills = random.Random(13), outputs / "begun", 0
    for i in range(12):
        p = executing.start(STUDY_CHILD)
        while p.poll() is None and not begun.exists():
            time.sleep(0.002)
        time.sleep(0.15 * rng.random() + 0.02 * i)  # ever further into the study
        p.send_signal(signal.SIGKILL)
        kills += p.wait() == -signal.SIGKILL
        begun.unlink()
        exports(outputs)
    p = executing.start(STUDY_CHILD)
    _, err = p.communicate(timeout=120)
    assert p.returncode == 0 and kills >= 5, (kills, err)
    store = Store()
    assert [e.status for e in store.experiments().itertuples()] == ["COMPLETED"] * 5
    assert sorted(f.name for f in exports(outputs)) == sorted(store.experiments().id)
    assert (outputs / "study-killed" / "plan.json").exists()
    assert [p for p in outputs.rglob(".*") if p.name.startswith(".")] == []


def test_whatever_is_completed_and_not_whole_on_disk_is_exported_again(outputs):
    "Missing, cut, changed, half written; what a killed process left beside it is removed. The rest is left."
    study = load_study(STUDY)
    ids = sorted(run_study(study, show=False).ids.values())
    whole = {p: p.read_bytes() for id in ids for p in (outputs / id).iterdir()}
    shutil.rmtree(outputs / ids[0])
    (outputs / ids[1] / "result.json").unlink()
    (outputs / ids[2] / "runs.jsonl").write_bytes(b"{")
    (outputs / ids[3] / "config.yaml").write_text("experiment: {}")
    killed = executing.start("pass")
    killed.wait()
    left = aside_of(outputs / ids[1] / "runs.jsonl")
    left = left.with_name(left.name.replace(f"-{os.getpid()}-", f"-{killed.pid}-"))
    left.write_text("half")
    export_experiment(Store(), ids[4], outputs / ids[4], texts=False)
    without = {p: p.read_bytes() for p in (outputs / ids[4]).iterdir()}
    run_study(study, make=lambda config: 1 / 0, show=False)
    assert {p: p.read_bytes() for id in ids for p in (outputs / id).iterdir()} == whole | without
