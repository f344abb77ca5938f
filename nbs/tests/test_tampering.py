"""What somebody may change in a published study, and the sentence that says so.

Each edit of rows is made twice: by somebody who does not know of the hash beside them, and by one who
makes the hash again.
"""

import hashlib
import json
import re
import shutil

import pytest

from llmforge.core import StoreError
from llmforge.exports import import_experiment
from llmforge.files import project_root
from llmforge.store import Store

OUTPUTS = project_root() / "outputs"
ARM = "reasoning-chain_of_thought-almanac-b4581eab"


@pytest.fixture
def arm(tmp_path):
    return shutil.copytree(OUTPUTS / ARM, tmp_path / ARM)


def hashed_again(folder):
    "Write the hash of the rows into result.json."
    text = (folder / "result.json").read_text()
    digest = hashlib.sha256((folder / "runs.jsonl").read_bytes()).hexdigest()
    (folder / "result.json").write_text(re.sub(r'(?<="runs_sha256": ")\w+', digest, text))


def on_rows(change):
    "An edit of the list of rows."

    def edit(folder):
        path = folder / "runs.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows = change(rows)
        path.write_text("".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows))

    return edit


def on_row(**values):
    "An edit of the first row that is wrong."

    def change(rows):
        i = next(i for i, row in enumerate(rows) if not row["correct"])
        rows[i] |= {k: v(rows[i]) if callable(v) else v for k, v in values.items()}
        return rows

    return on_rows(change)


def on_result(*path, value):
    "An edit of a field of result.json."

    def edit(folder):
        head = at = json.loads((folder / "result.json").read_text())
        for name in path[:-1]:
            at = at[name]
        at[path[-1]] = value(at[path[-1]]) if callable(value) else value
        (folder / "result.json").write_text(json.dumps(head))

    return edit


def swapped(folder):
    other = next(p for p in OUTPUTS.glob("reasoning-naive-almanac-*/runs.jsonl"))
    shutil.copyfile(other, folder / "runs.jsonl")


ROWS = "runs.jsonl is not what result.json was computed from"
OF_ROWS = {
    "a flag": (on_row(correct=1.0), r"line \d+: correct is stored as 1.0, its exact_match gives 0"),
    "a flag and its score": (
        on_row(correct=1.0, scores=lambda row: row["scores"] | {"exact_match": 1.0}),
        r"accuracy is stored as 0\.\d+, its \d+ rows give 0\.\d+",
    ),
    "an error": (
        on_row(error_type="EngineError", error="x"),
        r"answered is stored as \d+, its \d+ rows give",
    ),
    "tokens": (on_row(tokens_out=lambda row: row["tokens_out"] + 1), "tokens_used is stored as"),
    "a latency": (on_row(latency_ms=1.0, cached=False), r"latency_p\d\d is stored as"),
    "a kind": (on_row(trace=lambda r: r["trace"] | {"attributes": {"kind": "z"}}), "by_kind.* is stored as"),
    "a row less": (on_rows(lambda rows: rows[1:]), r"the result is over (\d+) examples, runs.jsonl has \d+"),
    "a row more": (
        on_rows(lambda rows: [*rows, rows[0] | {"example_id": "more", "position": len(rows)}]),
        r"the result is over \d+ examples, runs.jsonl has \d+ lines",
    ),
    "a row twice": (on_rows(lambda rows: [rows[0], *rows[:-1]]), r"runs.jsonl has \d+ lines for \d+"),
    "another's rows": (swapped, "is stored as"),
}
METRICS = ("result", "summary", "metrics")
OF_RESULTS = {
    "accuracy": (
        on_result("result", "accuracy", value=0.99),
        r"accuracy is stored as 0.99, its \d+ rows give",
    ),
    "answered": (on_result("result", "summary", "answered", value=1), "summary.answered is stored as 1"),
    "an estimate": (
        on_result(*METRICS, "f1", "value", value=0.99),
        "summary.metrics.f1.value is stored as 0.99, its",
    ),
    "an n": (on_result(*METRICS, "f1", "n", value=9000), "summary.metrics.f1.n is stored as 9000"),
    "a metric that no row has": (
        on_result(*METRICS, value=lambda m: m | {"faithfulness": m["f1"]}),
        "summary.metrics.faithfulness.value is stored as .* rows give None",
    ),
    "which score counts": (
        on_result("result", "summary", "accuracy_is", value="contains"),
        "accuracy_is is stored as contains, its config says exact_match",
    ),
    "a kind of question": (
        on_result("result", "summary", "by_kind", value=lambda kinds: dict(list(kinds.items())[1:])),
        "summary.by_kind.* is stored as None",
    ),
    "errors": (
        on_result("result", "summary", "errors", value={"EngineError": 1}),
        "summary.errors is stored",
    ),
    "an id that leads elsewhere": (on_result("experiment", "id", value="../../x"), "cannot name a folder"),
    "an absolute id": (on_result("experiment", "id", value="/tmp/x"), "cannot name a folder"),
    "the config's hash": (on_result("experiment", "config_hash", value="0" * 16), "not the config that ran"),
}


def refused(folder, sentence):
    "Whether an import is refused with a sentence, and leaves nothing behind."
    store = Store("sqlite://")
    with pytest.raises(StoreError, match=f"cannot be imported: .*{sentence}"):
        import_experiment(store, folder)
    return not store.listing()


def test_what_nobody_changed_is_taken(arm):
    assert import_experiment(Store("sqlite://"), arm) == ARM


@pytest.mark.parametrize("edit, sentence", OF_ROWS.values(), ids=OF_ROWS)
def test_rows(arm, edit, sentence):
    edit(arm)
    assert refused(arm, ROWS)
    hashed_again(arm)
    assert refused(arm, sentence)


@pytest.mark.parametrize("edit, sentence", OF_RESULTS.values(), ids=OF_RESULTS)
def test_results(arm, edit, sentence):
    edit(arm)
    assert refused(arm, sentence)
