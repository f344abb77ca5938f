"""What somebody may change in a published study, and the sentence that says so.

Each edit of rows is made twice: by somebody who does not know of the hash beside them, and by one who
makes the hash again.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
from datetime import datetime, timedelta

import pytest
from typer.testing import CliRunner

from llmforge.aggregate import result_row, summarise
from llmforge.batching import FakeEngine
from llmforge.cli import app
from llmforge.config import load_config
from llmforge.configfiles import read_yaml
from llmforge.core import StoreError, fingerprint
from llmforge.exports import export_experiment, import_experiment, seal_study
from llmforge.files import project_root
from llmforge.store import Store
from llmforge.study import run_study
from llmforge.studyconfig import load_study

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
    "a flag that is missing": (
        on_row(correct=None),
        r"line \d+: correct is missing, its answer is known",
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
    "a question's id": (
        on_row(example_id="another"),
        r"line \d+: example_id is stored as another, and elsewhere",
    ),
    "a place twice": (on_rows(lambda rows: [r | {"position": 0} for r in rows]), "two rows of one position"),
    "a row twice": (on_rows(lambda rows: [rows[0], *rows[:-1]]), r"runs.jsonl has \d+ lines for \d+"),
    "another's rows": (swapped, "is stored as"),
}
METRICS = ("result", "summary", "metrics")


def minutes_later(time, minutes=9):
    return (datetime.fromisoformat(time) + timedelta(minutes=minutes)).isoformat(timespec="milliseconds")


def begun_in_october(experiment):
    return experiment | dict.fromkeys(("created_at", "started_at"), "2026-10-01T00:00:00.000+00:00")


def one_end_moved(kinds):
    (first, estimate), *others = kinds.items()
    return dict([(first, estimate | {"high": (estimate["value"] + estimate["high"]) / 2}), *others])


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
    "a kind that no row has": (
        on_result(
            "result", "summary", "by_kind", value=lambda kinds: kinds | {"x": next(iter(kinds.values()))}
        ),
        "summary.by_kind.x.value is stored as .* rows give None",
    ),
    "errors": (
        on_result("result", "summary", "errors", value={"EngineError": 1}),
        "summary.errors is stored",
    ),
    "a level": (
        on_result(*METRICS, "f1", "confidence", value=0.99),
        "summary.metrics.f1.confidence is stored as 0.99, its config says 0.95",
    ),
    "an end of an interval, moved a little": (
        on_result(*METRICS, "f1", "low", value=lambda low: low + 1e-6),
        r"summary.metrics.f1.low is stored as 0.\d+, its \d+ rows give 0.\d+",
    ),
    "an end for a kind of question": (
        on_result("result", "summary", "by_kind", value=one_end_moved),
        r"summary.by_kind.*.high is stored as",
    ),
    "an interval beside its value": (
        on_result("result", "summary", "accuracy", "low", value=0.5),
        r"summary.accuracy: 0.5 to 0.15 is no interval of 0.08",
    ),
    "a throughput": (
        on_result("result", "summary", "throughput_tokens_per_s", value=9000.0),
        "throughput is stored as .*, summary.throughput_tokens_per_s as 9000.0",
    ),
    "a rate of questions": (
        on_result("result", "summary", "questions_per_s", value=9000.0),
        "summary.throughput_tokens_per_s is stored as .* rows give",
    ),
    "memory": (
        on_result("result", "peak_memory_mb", value=1.0),
        "peak_memory_mb is stored as 1.0, summary",
    ),
    "a name": (on_result("experiment", "name", value="other"), "name is 'other' in result.json, and"),
    "a time of another zone": (
        on_result("experiment", "completed_at", value="2026-11-24T12:00:41+02:00"),
        r"completed_at is '2026-11-24T12:00:41\+02:00', which is no time in UTC",
    ),
    "no time": (on_result("experiment", "started_at", value="yesterday"), "started_at is 'yesterday', which"),
    "an id that leads elsewhere": (on_result("experiment", "id", value="../../x"), "cannot name a folder"),
    "an absolute id": (on_result("experiment", "id", value="/tmp/x"), "cannot name a folder"),
    "a beginning after the first row": (
        on_result("experiment", "started_at", value=minutes_later),
        r"started_at is .*, \d+ s after its first row",
    ),
    "an end before the last row": (
        on_result("experiment", "completed_at", value=lambda t: minutes_later(t, -9)),
        r"completed_at is .*, \d+ s before its last row|are not in this order",
    ),
    "made after it began": (
        on_result("experiment", "created_at", value=minutes_later),
        "created_at, started_at and completed_at are not in this order",
    ),
    "other questions": (
        on_result("experiment", "dataset_fingerprint", value="0" * 16),
        "dataset_fingerprint is stored as 0{16}, and elsewhere as",
    ),
    "another seed": (
        on_result("experiment", "provenance_json", "seed", value=7),
        "provenance_json.seed is stored as 7, and elsewhere as 0",
    ),
    "a number of questions": (
        on_result("experiment", "provenance_json", "dataset", "examples", value=1000),
        r"dataset.examples is stored as 1000, and elsewhere as \d+",
    ),
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


# --- a whole study, sealed

STUDY = "study-reasoning"


def copied(study, target):
    "A published study with its experiments, in a folder of its own, sealed there."
    plan = json.loads((OUTPUTS / study / "plan.json").read_text())
    ids = plan["plan_json"]["experiments"].values()
    for name in (study, *ids):
        shutil.copytree(OUTPUTS / name, target / name)
    (target / study / "chain.json").unlink(missing_ok=True)
    seal_study(target / study, [target / id for id in ids])
    return target


@pytest.fixture
def sealed(outputs):
    return copied(STUDY, outputs)


def verified(study="reasoning"):
    "Exit code and lines of `llmforge study … --verify`."
    r = CliRunner().invoke(app, ["study", study, "--verify"])
    return r.exit_code, r.stdout + r.stderr


def imported(folder):
    "Exit code and messages of an import of everything in a folder."
    places = sorted(str(p) for p in folder.iterdir() if p.is_dir())
    r = CliRunner().invoke(app, ["import", *places])
    return r.exit_code, r.stdout + r.stderr


def in_plan(old, new, hash_again=False):
    "An edit of the text of plan.json."

    def edit(outputs):
        path = outputs / STUDY / "plan.json"
        text = path.read_text()
        assert old in text
        plan = json.loads(text.replace(old, new, 1))
        if hash_again:
            plan["plan_hash"] = fingerprint(plan["plan_json"])
        path.write_text(json.dumps(plan))

    return edit


def in_arm(edit):
    return lambda outputs: edit(outputs / ARM)


def all_made_again(outputs):
    "A row is turned, and hash and aggregates are made of the turned rows: only seal and page know."
    folder = outputs / ARM
    OF_ROWS["a flag and its score"][0](folder)
    hashed_again(folder)
    rows = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    head = json.loads((folder / "result.json").read_text())
    config, old = load_config(folder / "config.yaml"), head["result"]["summary"]
    new = summarise(rows, config) | {k: old[k] for k in ("throughput_tokens_per_s", "peak_memory_mb")}
    row = result_row({k: v for k, v in new.items() if k in old or k == "metrics"} | {"at_work": None})
    head["result"] |= {k: v for k, v in row.items() if k in head["result"]}
    (folder / "result.json").write_text(json.dumps(head))


def a_text(folder):
    "An answer, but not its score."
    on_row(answer="somebody else")(folder)
    hashed_again(folder)


def without_seal(edit):
    def unsealed(outputs):
        edit(outputs)
        (outputs / STUDY / "chain.json").unlink()

    return unsealed


def in_chain(change):
    def edit(outputs):
        path = outputs / STUDY / "chain.json"
        chain = json.loads(path.read_text())
        change(chain["links"])
        path.write_text(json.dumps(chain))

    return edit


def on_page(outputs):
    "A digit in a verdict's sentence on the study's page."
    path = outputs / STUDY / "study.ipynb"
    text = path.read_text()
    assert "after Holm, n = 200)" in text
    path.write_text(text.replace("after Holm, n = 200)", "after Holm, n = 300)"))


WAS = r"and was .* when study 'reasoning' sealed on"
SEALED = "not what study 'reasoning' sealed on"
BOTH, ONLY_VERIFY = (1, 1), (0, 1)  # exit codes of import and of --verify
OF_STUDIES = {
    "frozen_at": (
        in_plan('"frozen_at": "2026-11-24', '"frozen_at": "2026-11-20'),
        BOTH,
        rf"frozen_at is 2026-11-20.*{WAS}",
    ),
    "min_effect": (
        in_plan('"min_effect": 0.05', '"min_effect": 0.01'),
        BOTH,
        "the plan is not the one that was hashed",
    ),
    "min_effect and the plan's hash": (
        in_plan('"min_effect": 0.05', '"min_effect": 0.01', hash_again=True),
        BOTH,
        rf"plan_hash is \w+, {WAS}",
    ),
    "the same without a seal": (
        without_seal(in_plan('"min_effect": 0.05', '"min_effect": 0.01', hash_again=True)),
        ONLY_VERIFY,
        "FAILED: file: hypotheses.1.min_effect: was 0.01, is 0.05",
    ),
    "started_at": (
        in_arm(on_result("experiment", "started_at", value=lambda t: minutes_later(t, -0.5))),
        BOTH,
        rf"started_at is 2026-11-24T.*{WAS}",
    ),
    "started_at before the plan, without a seal": (
        without_seal(in_arm(on_result("experiment", value=begun_in_october))),
        ONLY_VERIFY,
        f"FAILED: order: {ARM} had begun before the plan was frozen",
    ),
    "the commit in the provenance": (
        in_arm(on_result("experiment", "provenance_json", "commit", value="0" * 40)),
        BOTH,
        f"its provenance is {SEALED}",
    ),
    "a row, its hash, every aggregate": (all_made_again, BOTH, f"its result is {SEALED}"),
    "the same, without a seal ": (
        without_seal(all_made_again),
        ONLY_VERIFY,
        "FAILED: verdicts: study.ipynb does not say",
    ),
    "an interval": (
        in_arm(on_result(*METRICS, "f1", "high", value=0.99)),
        BOTH,
        r"metrics.f1.high is stored as 0.99, its 100 rows give 0\.",
    ),
    "a text": (in_arm(a_text), BOTH, f"its texts are {SEALED}"),
    "an arm is gone": (
        lambda outputs: shutil.rmtree(outputs / ARM),
        ONLY_VERIFY,
        f"FAILED: chain: {ARM} was sealed, and is not here",
    ),
    "a seal": (
        in_chain(lambda links: links[0]["plan"].update(frozen_at="x")),
        BOTH,
        "is broken: link 1 is not",
    ),
    "no seal in the file": (in_chain(lambda links: links.clear()), BOTH, "is broken: it has no link"),
    "a number on the page": (on_page, ONLY_VERIFY, r"FAILED: verdicts: study.ipynb does not say .*n = 200"),
}


@pytest.mark.slow
def test_a_sealed_study_is_sound(sealed):
    code, lines = verified()
    assert code == 0 and "FAILED" not in lines and "ok: chain: seal 1, " in lines
    assert imported(sealed)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("edit, codes, sentence", OF_STUDIES.values(), ids=OF_STUDIES)
def test_studies(sealed, edit, codes, sentence):
    "Import and --verify find it, and one of them says the sentence."
    edit(sealed)
    of_import, of_verify = imported(sealed), verified()
    assert (of_import[0], of_verify[0]) == codes, of_import[1] + of_verify[1]
    assert re.search(sentence, of_verify[1], re.S), of_verify[1]
    assert codes == ONLY_VERIFY or re.search(sentence, of_import[1], re.S), of_import[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "edit, sentence", [*OF_ROWS.values(), *OF_RESULTS.values()], ids=[*OF_ROWS, *OF_RESULTS]
)
def test_what_an_import_refuses_fails_the_check_of_the_study(sealed, edit, sentence):
    edit(sealed / ARM)
    if edit in [edit for edit, _ in OF_ROWS.values()]:
        hashed_again(sealed / ARM)
    code, lines = verified()
    assert code == 1 and re.search(f"FAILED: rows: .*{sentence}", lines, re.S), lines


@pytest.mark.slow
def test_the_card_of_a_judge(outputs):
    copied("study-retrieval", outputs)
    place = next(
        p
        for p in sorted(outputs.glob("retrieval-*"))
        if '"balanced_accuracy"' in (p / "result.json").read_text()
    )
    on_result("result", "summary", "scorer", "card", "balanced_accuracy", value=0.99)(place)
    sentence = "its card of a judge is not what study 'retrieval' sealed on"
    assert imported(outputs)[0] == 1 and sentence in imported(outputs)[1]
    code, lines = verified("retrieval")
    assert code == 1 and sentence in lines


@pytest.mark.slow
def test_a_study_without_a_seal_says_so(sealed):
    (sealed / STUDY / "chain.json").unlink()
    code, lines = verified()
    assert code == 0 and "not shown: chain: there is no chain.json" in lines


WITHOUT = """
study:
  name: without
  question: Is a licence kept?
  base: {engine: {name: fake, batch_size: 2, cache: false}, dataset: {name: meridia, limit: 40}}
  arms: {a: {method: {shots: 0}}, b: {method: {shots: 1}}}
  hypotheses: [{id: H1, claim: An example helps, treatment: b, control: a}]
"""


class Uneven(FakeEngine):
    "Some batches take longer than others."

    def generate_batch(self, requests):
        self.delay = 0.001 * (1 + len(self.batches) % 7)
        return super().generate_batch(requests)


@pytest.mark.slow
def test_a_study_published_without_its_texts_is_sound(outputs, monkeypatch):
    "Imported elsewhere, all its numbers are those of its rows, the intervals of latencies among them."
    config = load_study(read_yaml(WITHOUT))
    study = run_study(config, make=lambda config: Uneven("no idea", batch_size=2), show=False)
    for id in study.ids.values():
        export_experiment(study.store, id, outputs / id, texts=False)
        assert "no idea" not in (outputs / id / "runs.jsonl").read_text()
    monkeypatch.setenv("LLMFORGE_STORE", f"sqlite:///{outputs}/elsewhere.db")
    assert imported(outputs)[0] == 0
    _, lines = verified("without")
    assert "FAILED" not in lines and "ok: chain: seal 1" in lines and "ok: rows: 2 of 2" in lines, lines


def commit(root, when):
    "Commit everything in a folder at some time."
    env = os.environ | {"GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for args in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "x"]):
        subprocess.run(["git", *args], cwd=root, env=env, check=True)


@pytest.mark.slow
def test_git_knows_a_plan_under_another_name_and_from_before_a_field_came(sealed, tmp_path, monkeypatch):
    "The file was renamed since, and says with a later field what its lack meant then."
    today = (project_root() / "configs" / "studies" / "reasoning.yaml").read_text()
    studies = tmp_path / "home" / "configs" / "studies"
    studies.mkdir(parents=True)
    monkeypatch.setenv("LLMFORGE_HOME", str(tmp_path / "home"))
    first = "".join(line for line in today.splitlines(True) if "exemplars: own" not in line)
    assert first != today
    (studies / "a b.yaml").write_text(first)
    commit(tmp_path / "home", "2026-11-24T11:00:00+00:00")
    (studies / "a b.yaml").rename(studies / "reasoning.yaml")
    commit(tmp_path / "home", "2026-11-26T11:00:00+00:00")
    (studies / "reasoning.yaml").write_text(today)
    commit(tmp_path / "home", "2026-11-28T11:00:00+00:00")
    assert re.search("ok: git: commit .* of 2026-11-24 11:00 UTC has this plan", verified()[1])


def test_a_study_that_is_not_there(outputs):
    outputs.mkdir(exist_ok=True)
    code, lines = verified()
    assert code == 1 and "no plan.json" in lines
