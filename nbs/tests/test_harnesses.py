"The same questions through several programs: what is measured of one, and what is said of one that fails."

import pytest

from llmforge.core import ConfigError, EngineError
from llmforge.harnesses import (
    Harness,
    Killed,
    Marginal,
    Turn,
    harness_table,
    in_turns,
    killed_half_way,
    marginal,
    ratios,
    serving_words,
    spread,
    timed,
)

ASK = """
import json, os, urllib.request
def ask(row):
    body = json.dumps({"messages": [{"role": "user", "content": row["question"]}]}).encode()
    with urllib.request.urlopen(urllib.request.Request("$url/chat/completions", body)) as reply:
        return json.load(reply)["choices"][0]["message"]["content"]
rows = [json.loads(line) for line in open("questions.jsonl")]
"""
KEEPING = """
kept = json.load(open("kept.json")) if os.path.exists("kept.json") else {}
for row in rows:
    if row["id"] not in kept:
        kept[row["id"]] = ask(row) in row["answers"]
        json.dump(kept, open("new.json", "w"))
        os.replace("new.json", "kept.json")
"""
SCORE = "import json; kept = json.load(open('kept.json')); print(sum(kept.values()) / len(kept))"


def harness(code, name="some", variable=""):
    return Harness(name, "some-package[api]", variable, {"ask.py": ASK + code}, "ask.py", SCORE)


@pytest.fixture(scope="module")
def words():
    with serving_words() as server:
        yield server


def test_no_difference_is_no_number():
    "On few questions the smaller run may take longer; that is no speed, and none below zero."
    slower = marginal({10: Turn(wall_s=2, cpu_s=2), 20: Turn(wall_s=1, cpu_s=2)})
    assert slower == Marginal(None, None, 1)
    assert ratios([2.0, None, 3.0], [1.0, 1.0, None]) == [2.0, None, None]
    assert (
        spread([1.0, None]) == spread([]) == "–"
        and spread([1234.6, 1000.0, 2000.0]) == "1,235 (1,000 to 2,000)"
    )


def test_sizes_that_do_not_rise_are_refused():
    with pytest.raises(ConfigError, match="fewer questions, at least 1; received 8 and 8"):
        in_turns([harness("")], (8, 8), 1, None)


def test_a_row_for_each_harness(monkeypatch):
    "Ratios are of the same round; what is not installed has no number."
    monkeypatch.setenv("SOME_PYTHON", "/nowhere/python")
    here, slow, absent = (
        harness("", "here"),
        harness("", "slow"),
        harness("", "absent", "SOME_PYTHON"),
    )
    rounds = {
        "here": [Marginal(100, 1, 2), Marginal(50, 2, 3)],
        "slow": [Marginal(10, 10, 9), Marginal(5, 20, 8)],
    }
    rows = harness_table(
        [here, slow, absent], rounds, dict.fromkeys(rounds, Killed(1000, 7, 0.5))
    ).splitlines()
    assert rows[3].endswith("| 7.5 (5 to 10) | 15 (10 to 20) | 10 | 8.5 (8 to 9) | 7 of 1,000 | 0.500 |")
    assert (
        absent.version is None
        and "pip install 'some-package[api]'`" in rows[4]
        and rows[4].count("| – ") == 6
    )


@pytest.mark.slow
def test_the_server_knows_what_was_asked_twice(words):
    "A program that keeps each answer asks for none again, one that keeps none for all; a run asks each once."
    keeping = harness(KEEPING)
    assert timed(keeping, 6, words).cpu_s > 0 and words.counts() == {"requests": 6, "answered": 6, "again": 0}
    assert killed_half_way(keeping, 12, words) == Killed(6, 0, 8 / 12)
    forgetful = harness(KEEPING.replace("os.path.exists", "not "))
    assert killed_half_way(forgetful, 12, words).again == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    "code, says",
    [
        ("raise SystemExit('no such model')", "some ended with 1.*no such model"),
        ("ask(rows[0])", "some asked 1 times for 1 of 3"),
        ("[ask(row) for row in rows * 2]", "some asked 6 times for 3 of 3"),
    ],
)
def test_a_run_that_did_not_do_the_work_is_an_error(words, code, says):
    with pytest.raises(EngineError, match=f"(?s){says}"):
        timed(harness(code), 3, words)


@pytest.mark.slow
def test_one_that_ends_before_it_is_killed_is_an_error(words):
    with pytest.raises(EngineError, match="(?s)some ended with 3 before it was killed.*its last lines"):
        killed_half_way(harness("raise SystemExit(3)"), 4, words)
