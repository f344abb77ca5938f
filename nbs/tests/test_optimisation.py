"Arms timed in rounds: killed and gone on with, and never without what they do to the answers."

import json
import os
import shutil
import signal
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
from executing import start
from scipy.stats import ttest_1samp
from typer.testing import CliRunner

from llmforge.batching import FakeEngine
from llmforge.board import study_page
from llmforge.cli import app as command
from llmforge.configfiles import read_yaml
from llmforge.core import ConfigError
from llmforge.findingpages import claims
from llmforge.findings import verdict_table
from llmforge.matrix import rounds_path, run_rounds
from llmforge.plainresults import verdict_records
from llmforge.plan import plan_table
from llmforge.published import bound, published
from llmforge.rounds import append_line, interrupted, read_rounds, speed_ratio
from llmforge.speedup import controls_of, judge_speed, matrix_table, speed_up, speed_verdicts
from llmforge.store import Store
from llmforge.study import open_study, run_study
from llmforge.studyconfig import load_study

pytestmark = pytest.mark.slow

PLAN = """
study:
  name: timed
  question: Are batches faster?
  base:
    engine: {name: fake, cache: false, batch_size: 1}
    dataset: {name: meridia, limit: 16}
    method: {shots: 0}
  arms: {sequential: {}, batch_8: {engine: {batch_size: 8}}, inexact: {engine: {batch_size: 4}}}
  speed:
    - {id: S1, claim: batches are twice as fast, treatment: batch_8, control: sequential, at_least: 2}
    - {id: S2, claim: the other is faster, treatment: inexact, control: sequential, at_least: 1.1}
"""


def make(config):
    "Twenty ms a batch; the arm of four writes something else."
    size = config.engine.batch_size
    return FakeEngine("b" if size == 4 else "a", delay=0.02, batch_size=size)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    "The outputs of a study that was run and timed in three rounds, once for all tests."
    folder = tmp_path_factory.mktemp("timed") / "outputs"
    with pytest.MonkeyPatch.context() as m:
        m.setenv("LLMFORGE_OUTPUTS", str(folder))
        run_rounds(run_study(load_study(read_yaml(PLAN)), Store(), make, show=False), 3, make, show=False)
    return folder


@pytest.fixture
def timed(measured, outputs):
    "The study and its rounds, in outputs of the test's own."
    shutil.copytree(measured, outputs)
    study = open_study(load_study(read_yaml(PLAN)), Store())
    return study, run_rounds(study, 3, None, show=False)


def test_a_speed_up_stands_beside_the_answers(timed):
    "The batch is several times as fast and the same; the faster arm that writes another text is refuted."
    study, rounds = timed
    assert len(rounds) == 9
    few = [r for r in rounds if r.number < 2]
    said = judge_speed(study, few)[0].sentence()
    assert said.startswith("S1: inconclusive. ") and "nothing is concluded from 2 rounds: " in said
    taken = [replace(r, others=0.6) for r in rounds]
    assert "while others had the machine" in judge_speed(study, taken)[0].sentence()
    fallen = [
        replace(r, failed=r.questions) if r.number == 0 and r.arm != "sequential" else r for r in rounds
    ]
    assert all("1 turn in which every question failed" in v.sentence() for v in judge_speed(study, fallen))
    seconds = {study.ids[key]: 1 if "sequential" in key else 0.25 for key in study.ids}
    rounds = [replace(r, others=0.0, seconds=seconds[r.id] + r.number / 100) for r in rounds]
    assert speed_up(study, rounds, "batch_8", "sequential").speed.value == pytest.approx(4, rel=0.1)
    first, second = (v.sentence() for v in judge_speed(study, rounds))
    assert first.startswith("S1: supported") and "identical texts 16 of 16" in first
    assert second.startswith("S2: refuted") and "changes answers" in second
    assert controls_of(study) == {"batch_8": "sequential", "inexact": "sequential"}
    assert "**changes answers**" in matrix_table(study, rounds) and "16 of 16" in matrix_table(study, rounds)


def test_claims_about_speed_are_one_family(timed):
    "2.11 times, give or take 2% a round: enough for one claim of twice as fast, not for that and another."
    study, rounds = timed
    logs = np.log(2.11) + np.array([0.02, 0.0, -0.02])
    seconds = {"sequential": (1.0, 1.0, 1.0), "batch_8": np.exp(-logs).tolist(), "inexact": (1.0, 1.0, 1.0)}
    rounds = [replace(r, others=0.0, seconds=seconds[r.arm][r.number]) for r in rounds]

    def judged(*claimed, **plan):
        claims = [study.config.speed[0].model_copy(update={"id": f"S{x}", "at_least": x}) for x in claimed]
        config = study.config.model_copy(update={"speed": tuple(claims), **plan})
        return judge_speed(replace(study, config=config), rounds)

    for claimed, levels, words in (
        ((2,), (0.95,), ["supported"]),
        ((2, 2.01), (0.975, 0.975), ["inconclusive", "inconclusive"]),
        ((2, 1.5), (0.95, 0.975), ["supported", "supported"]),
        ((3, 2), (0.975, 0.95), ["refuted", "supported"]),
    ):
        verdicts = judged(*claimed)
        assert [v.verdict for v in verdicts] == words
        for v, level in zip(verdicts, levels):
            test, s = ttest_1samp(logs, np.log(v.claim.at_least)), v.found.speed
            assert (v.p, *np.log([s.low, s.high])) == pytest.approx(
                (test.pvalue, *test.confidence_interval(level))
            )
            assert s.confidence == pytest.approx(level)
    first, second = judged(2, 2.01)
    assert first.p_adjusted == second.p_adjusted == 2 * first.p
    assert "claimed at least 2 (97.5% interval, p = .044 against 2, p = .087 after Holm, n = 3 rounds); " in (
        first.evidence()
    )
    loose, _ = judged(2, 2.01, correction="none")
    assert loose.verdict == "supported" and "(95% interval, p = .044 against 2, n = 3" in loose.evidence()


def test_what_is_claimed_about_speed_is_told_wherever_verdicts_are(timed, outputs):
    "By the command, as data, by the dashboard and on a page; it is no exploration."
    study, rounds = timed
    rounds_path(study).unlink()
    for r in rounds:  # as on a machine that nothing else uses
        append_line(rounds_path(study), asdict(replace(r, others=0.0)))
    (file := outputs.parent / "timed.yaml").write_text(PLAN)
    said = CliRunner().invoke(command, ["study", str(file)])
    assert said.exit_code == 0 and "S1: " in said.stdout and "S2: refuted. the other is" in said.stdout
    assert "÷" in plan_table(study) and "at least 1.1 times" in plan_table(study)
    for text in (said.stdout, plan_table(study), verdict_table(study)):
        assert "exploration" not in text
    records = verdict_records("timed", speed_verdicts(study, outputs / "study-timed"))
    assert [(r["hypothesis"], r["verdict"], r["n"]) for r in records][1:] == [("S2", "refuted", 3)]
    assert records[0]["ratio"] > 0 and records[0]["difference"] is None
    assert 0 <= records[0]["p"] <= records[0]["p_adjusted"] and records[0]["correction"] == "holm"
    assert "S2: refuted" in study_page(Store(), "timed")
    page = claims(published(outputs), "timed")
    sentence = bound("{{timed/S2:sentence}}", published(outputs))
    assert "after Holm" in sentence and ": refuted" in sentence
    assert "refuted" in page and "batch_8 against sequential" in page


def test_no_claim_about_speed_stands_on_a_changed_plan_or_is_older_than_its_runs(timed):
    study, rounds = timed
    changed = replace(study, tampered=("speed.0.at_least: was 2, is 1.2",))
    assert {v.verdict for v in judge_speed(changed, rounds)} == {"tampered"}
    late = replace(study, late=(study.ids["batch_8", "default", 0],))
    first, second = judge_speed(late, rounds)
    assert first.stamp.endswith(" (post hoc)") and not second.post_hoc


def test_a_claim_whose_arms_were_never_timed_is_not_measured(timed):
    study, _ = timed
    rounds_path(study).unlink()
    first, _ = speed_verdicts(study, rounds_path(study).parent)
    assert first.sentence() == "S1: not measured. batches are twice as fast: no rounds were timed"


def test_what_is_measured_is_not_measured_again(timed):
    study, rounds = timed
    assert run_rounds(study, 3, None, show=False) == rounds
    append_line(rounds_path(study), {"began": ["batch_8", "default", 3]})
    assert (
        interrupted(rounds_path(study)) == 1 and read_rounds(rounds_path(study), study.ids.values()) == rounds
    )


def test_a_machine_that_is_never_quiet_is_not_waited_for(timed, monkeypatch):
    "A turn is measured again where others took part; where that did not help, the next one only once."
    study, _ = timed
    monkeypatch.setattr("llmforge.matrix.UNDISTURBED", -1)
    rounds = run_rounds(study, 4, make, show=False)
    assert [r.attempts for r in rounds if r.number == 3] == [3, 1, 1]


def test_rounds_of_other_work_do_not_count(timed):
    study, rounds = timed
    append_line(rounds_path(study), asdict(replace(rounds[0], id="other-0123", seconds=1e9)))
    assert read_rounds(rounds_path(study), study.ids.values()) == rounds


@pytest.mark.parametrize(
    "change",
    [
        {"seconds": 0},
        {"seconds": "1"},
        {"seconds": float("nan")},
        {"questions": 0},
        {"failed": -1},
        {"latency": {}},
        {"latency": {"p50": "<b>", "p95": 1.0, "p99": 1.0}},
        {"latency": None},
        {"others": None},
        {"arm": 3},
        {"id": ["x"]},
        {"failed": 10**6},
        {"tokens_out": -5},
    ],
)
def test_lines_that_are_no_rounds_do_not_count(timed, change):
    "A file may come from anywhere: a time of 0, a text for a number, a percentile that is missing."
    study, rounds = timed
    line = json.dumps(asdict(rounds[0]) | {"number": 77} | change)
    with rounds_path(study).open("a") as f:
        f.write(line + "\n")
    assert read_rounds(rounds_path(study), study.ids.values()) == rounds


@pytest.mark.parametrize("line", [b"\xff\xfe", b"[" * 100_000, b"9" * 5000], ids=["bytes", "deep", "digits"])
def test_lines_that_cannot_be_read_do_not_count(timed, line):
    study, rounds = timed
    with rounds_path(study).open("ab") as f:
        f.write(line + b"\n")
    assert read_rounds(rounds_path(study), study.ids.values()) == rounds


def test_arms_without_rounds_in_common(timed):
    _, rounds = timed
    assert speed_ratio(rounds[:1], rounds[5:6]).n == 0


def test_one_round_has_no_interval(timed):
    study, rounds = timed
    one = speed_up(study, [r for r in rounds if r.number == 0], "batch_8", "sequential").speed
    assert one.n == 1 and one.value > 0 and one.low is None and one.high is None


@pytest.mark.parametrize("number", [3, 5])
def test_the_interval_of_a_speed_up_holds_the_truth(timed, number):
    "Machines drift from round to round, for both arms alike. Three standard errors are 2 points."
    _, rounds = timed
    rng, held = np.random.default_rng(number), 0

    def timed_once(arm, i, seconds):
        return replace(rounds[0], arm=arm, number=i, seconds=float(seconds))

    for _ in range(1000):
        drift = rng.normal(0, 0.2, number)
        slow, fast = (np.exp(drift + rng.normal(0, 0.05, number)) for _ in range(2))
        a = [timed_once("a", i, seconds) for i, seconds in enumerate(slow)]
        b = [timed_once("b", i, seconds / 5) for i, seconds in enumerate(fast)]
        found = speed_ratio(a, b)
        held += found.low <= 5 <= found.high
    assert 0.93 <= held / 1000 <= 0.97


def test_a_claim_needs_arms():
    with pytest.raises(ConfigError, match="speed.0.treatment: unknown 'batch_9'"):
        load_study(read_yaml(PLAN.replace("treatment: batch_8", "treatment: batch_9")))


def test_a_study_without_claims_has_the_plan_that_it_had():
    study = load_study(read_yaml(PLAN.split("  speed:")[0]))
    assert "speed" not in study.model_dump(mode="json")


KILLED = """
import sys; sys.path.insert(0, sys.argv[1])
from test_optimisation import *
from llmforge.batching import FakeEngine
study = run_study(load_study(read_yaml(PLAN)), Store(), make, show=False)
run_rounds(study, 3, lambda c: FakeEngine("a", delay=0.1, batch_size=c.engine.batch_size), show=False)
"""


@pytest.mark.slow
def test_killed_in_the_middle(outputs):
    "What was complete stays, the turn at which it was killed is measured from its beginning, and is counted."
    child = start(KILLED, os.path.dirname(__file__))
    study = open_study(load_study(read_yaml(PLAN)), Store())
    deadline = time.monotonic() + 100
    while len(before := read_rounds(rounds_path(study), study.ids.values())) < 2:
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.02)
    time.sleep(0.3)
    child.send_signal(signal.SIGKILL)
    child.wait()
    before = read_rounds(rounds_path(study), study.ids.values())
    done = run_rounds(run_study(study.config, Store(), make, show=False), 3, make, show=False)
    assert done[: len(before)] == before and 2 <= len(before) < len(done) == 9
    assert interrupted(rounds_path(study)) == 1


def test_the_command(tmp_path, outputs):
    (tmp_path / "s.yaml").write_text(PLAN)
    said = CliRunner().invoke(command, ["bench", str(tmp_path / "s.yaml"), "--rounds", "1"])
    assert said.exit_code == 0 and "S1: " in said.output and "identical" in said.output, said.output
