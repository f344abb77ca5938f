"""A campaign of kills of one process, as a command: python nbs/tests/killed.py [--kills 500] [--only run,…]

SIGKILL at random moments while an experiment runs, an index is built, an old store is migrated, a study
runs, a result is exported or imported. After each kill the campaign reads what is there, as a stranger
would; killed often enough, the same work is let go to its end. The table counts rows that were stored
and are gone or changed (lost), rows beyond one a question (doubled), and what is there in part (torn).
The suite holds a few kills of each kind; those of server, worker, Redis and PostgreSQL are in kills.py."""

import argparse
import os
import random
import shutil
import signal
import sqlite3
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path

import executing
from test_resume import exports

from llmforge.core import DataError, StoreError
from llmforge.store import Store

BEGIN = """
import os
from pathlib import Path
from llmforge.config import load_config
from llmforge.exports import export_experiment, import_experiment
from llmforge.store import Store
from llmforge.study import run_study
from llmforge.studyconfig import load_study
from llmforge.runner import run_experiment
from llmforge.batching import FakeEngine
from llmforge.data import load_corpus
from llmforge.retriever import make_retriever
work = Path(os.environ["WORK"])
(work / "begun").touch()
"""
EXPERIMENT = {
    "name": "killed",
    "engine": {"name": "fake", "batch_size": 4},
    "dataset": {"name": "almanac", "limit": 400},
    "method": {"shots": 1},
}
STUDY = {
    "name": "killed",
    "question": "Does an example help?",
    "base": {**EXPERIMENT, "dataset": {"name": "meridia", "limit": 40}, "metrics": {"resamples": 100}},
    "arms": {f"shots-{n}": {"method": {"shots": n}} for n in range(4)},
    "hypotheses": [],
}
del STUDY["base"]["name"]
SEARCHED = {**EXPERIMENT, "corpus": "almanac", "retrieval": {"name": "sparse"}}


class Work:
    "What is killed: what it takes, the code of the process, and what may be seen of it at any moment."

    code = ""  # after BEGIN
    longest = 1.0  # seconds from its beginning to about its end

    def __init__(self, folder: Path):
        self.folder, self.rows = folder, {}
        folder.mkdir(parents=True)
        self.prepare()

    def prepare(self):
        pass

    def seen(self):
        "Rows by experiment and question; raises for what is there in part."
        raise NotImplementedError

    def whole(self):
        "Whether all is there, once it has ended."
        raise NotImplementedError

    def start(self, code=""):
        (self.folder / "begun").unlink(missing_ok=True)
        env = {"WORK": str(self.folder), "LLMFORGE_OUTPUTS": str(self.folder / "outputs")}
        return executing.start(BEGIN + (code or self.code), **env, LLMFORGE_CACHE=str(self.folder / "cache"))

    def store(self):
        return Store(f"sqlite:///{self.folder / 'outputs' / 'llmforge.db'}")


def stored(store: Store) -> dict:
    "The rows of all experiments of a store."
    rows = {}
    for id in store.experiments().id:
        for row in store.rows(id):
            assert (id, row["example_id"]) not in rows, "doubled"
            rows[id, row["example_id"]] = row["answer"]
    store.close()
    return rows


class Run(Work):
    code = f"""
config, slow = load_config({{"experiment": {EXPERIMENT!r}}}), FakeEngine("x", delay=0.01, batch_size=4)
run_experiment(config, engine=slow, show=False)
"""
    longest = 1.6

    def seen(self):
        return stored(self.store()) if (self.folder / "outputs" / "llmforge.db").exists() else {}

    def whole(self):
        return len(self.seen()) == 400 and len(exports(self.folder / "outputs")) == 1


class Studied(Run):
    code = f"run_study(load_study({{'study': {STUDY!r}}}), show=False)"
    longest = 0.3

    def seen(self):
        exports(self.folder / "outputs")
        return super().seen()

    def whole(self):
        return len(self.seen()) == 160 and len(exports(self.folder / "outputs")) == 4


class Exported(Run):
    "Written again and again, with texts and without, in the same place."

    code = """
store = Store()
(id,) = store.experiments().id
for i in range(40):
    export_experiment(store, id, work / "exported" / id, texts=bool(i % 2))
"""
    longest = 1.5

    def prepare(self):
        p = self.start(Run.code)
        _, error = p.communicate(timeout=60)
        assert p.returncode == 0, error

    def seen(self):
        exports(self.folder / "exported")
        return super().seen()

    def whole(self):
        return len(exports(self.folder / "exported")) == 1


class Imported(Exported):
    code = """
for name in range(30):
    Store(f"sqlite:///{work}/other-{name}.db").close()
    (folder,) = (p.parent for p in (work / "outputs").glob("killed-*/result.json"))
    import_experiment(Store(f"sqlite:///{work}/other-{name}.db"), folder)
"""
    longest = 3.0

    def seen(self):
        rows = {}
        for path in sorted(self.folder.glob("other-*.db")):
            store = Store(f"sqlite:///{path}")
            found = stored(store)
            assert len(found) in (0, 400), f"{len(found)} of 400 rows"
            rows |= {(path.name, *key): answer for key, answer in found.items()}
        return rows

    def whole(self):
        return len(self.seen()) == 30 * 400


class Indexed(Work):
    code = f"""
config = load_config({{"experiment": {SEARCHED!r}}})
make_retriever(config.retrieval, load_corpus(config.corpus))
"""
    longest = 0.4

    def seen(self):
        return {}

    def whole(self):
        indexes = [p for p in (self.folder / "cache").rglob("index.json")]
        return len(indexes) == 1 and not list((self.folder / "cache").rglob(".*-*"))


class Migrated(Work):
    code = """
for path in sorted(work.glob("old-*.db")):
    Store(f"sqlite:///{path}").close()
"""
    longest = 0.2

    def prepare(self):
        for source in sorted((Path(__file__).parent / "stores").glob("schema-*.sql")):
            for i in range(4):
                with sqlite3.connect(self.folder / f"old-{source.stem}-{i}.db") as db:
                    db.executescript(source.read_text())
                db.close()

    def seen(self):
        """The rows, read without migrating. From a copy with its journal: who reads a store whose writer was
        killed rolls back what that left, and has to write for it."""
        rows = {}
        with tempfile.TemporaryDirectory() as folder:
            for path in sorted(self.folder.glob("old-*.db*")):
                shutil.copyfile(path, Path(folder, path.name))
            for path in sorted(Path(folder).glob("old-*.db")):
                with closing(sqlite3.connect(path)) as db:
                    read = db.execute("SELECT experiment_id, example_id, answer FROM runs").fetchall()
                rows |= {(path.name, *key): answer for *key, answer in read}
        return rows

    def whole(self):
        before = len(self.seen())
        for path in self.folder.glob("old-*.db"):
            Store(f"sqlite:///{path}").close()
        return before == len(self.seen()) > 0


KINDS = {
    "run": Run,
    "study": Studied,
    "export": Exported,
    "import": Imported,
    "index": Indexed,
    "migration": Migrated,
}


def killed_once(work: Work, rng: random.Random) -> bool:
    "Start the work and kill it at a random moment; whether it was still at it."
    p = work.start()
    while p.poll() is None and not (work.folder / "begun").exists():
        time.sleep(0.001)
    end = time.monotonic() + rng.uniform(0, work.longest)
    while p.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    p.send_signal(signal.SIGKILL)
    return p.wait() == -signal.SIGKILL


def compared(work: Work, found: dict) -> None:
    "Count what a look finds wrong."
    try:
        now = work.seen()
    except (AssertionError, DataError, StoreError, sqlite3.Error) as e:
        found["doubled" if "doubled" in str(e) else "torn"] += 1
        print(f"{type(work).__name__}: {e}", flush=True)
        return
    found["lost"] += sum(now.get(key, ()) != answer for key, answer in work.rows.items())
    work.rows = now


def campaign(kind: str, kills: int, rng: random.Random, folder: Path) -> dict:
    "Kill work of a kind until it has been killed so often; each five times at most, then it is let end."
    found = dict.fromkeys(("kills", "ended whole", "works", "lost", "doubled", "torn"), 0)
    while found["kills"] < kills:
        work = KINDS[kind](folder / f"{kind}-{found['works']}")
        found["works"] += 1
        for _ in range(5):
            died = killed_once(work, rng)
            found["kills"] += died
            compared(work, found)
            if not died:
                break
        p = work.start()
        _, error = p.communicate(timeout=120)
        if p.returncode:
            raise SystemExit(f"{kind} ended with {p.returncode}: {error[-2000:]}")
        compared(work, found)
        with suppress(AssertionError, DataError, StoreError):
            found["ended whole"] += work.whole()
        shutil.rmtree(work.folder)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--only", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng, kinds = random.Random(asked.seed), asked.only.split(",")
    print("| killed | kills | ended whole | rows lost | rows doubled | torn |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            found = campaign(kind, -(-asked.kills // len(kinds)), rng, Path(folder))
            ended = f"{found['ended whole']} of {found['works']}"
            cells = [kind, found["kills"], ended, found["lost"], found["doubled"], found["torn"]]
            print("|", *(f"{cell} |" for cell in cells), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
