"What a run took: tokens, dollars, first tokens, CPU seconds, and replies that were cut off."

import subprocess
import sys
import time

import pytest
from test_remote import Scripted, delta, events, in_a_thread
from typer.testing import CliRunner

from llmforge.aggregate import cost_estimate
from llmforge.cli import app as command
from llmforge.comparison import compare
from llmforge.config import load_config
from llmforge.cputime import CpuShares, TreeClock
from llmforge.experiment import Experiment, counts_line, results_table
from llmforge.findings import exploratory_table, verdicts
from llmforge.results import cost_line
from llmforge.runner import run_experiment
from llmforge.store import Store
from llmforge.study import run_study
from llmforge.studyconfig import load_study, unmeasured

PRICE = {"input": 1.0, "cached_input": 0.5, "output": 2.0}
USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 40}}
DOLLARS = (60 * 1.0 + 40 * 0.5 + 10 * 2.0) / 1e6


def config(url, name="costs", **engine):
    asked = {"name": "openai", "base_url": url, "api": "completions", "price": PRICE, **engine}
    data = {"name": "meridia", "limit": 10}
    return load_config(
        {"experiment": {"name": name, "engine": asked, "dataset": data, "method": {"shots": 0}}}
    )


async def every_other_cut(request, body):
    "Every second reply ends at max_tokens; of every fifth it is not said what it took."
    n = len(SERVER.bodies)
    usage = [] if n % 5 == 0 else [{"choices": [], "usage": USAGE}]
    return await events(request, delta(" Vessolt"), delta(None, "length" if n % 2 else "stop"), *usage)


SERVER = Scripted(every_other_cut)


@pytest.fixture
def served(outputs):
    SERVER.bodies.clear()
    with in_a_thread(SERVER) as server:
        yield server


@pytest.mark.slow
def test_rows_and_tables_say_what_a_run_took(served):
    store = Store()
    e = Experiment(run_experiment(config(served.url), store, show=False), store)
    assert sum(r["cost"] is None for r in e.rows) == 2 and e.result["cost_n"] == 8
    known = [r for r in e.rows if r["cost"] is not None]
    assert all(r["cost"] == pytest.approx(DOLLARS) and r["tokens_cached"] == 40 for r in known)
    assert all(r["ttft_ms"] > 0 and r["cpu_s"] > 0 for r in e.rows)
    assert {r["finish_reason"] for r in e.rows} == {"stop", "length"}
    assert e.result["cost"] == pytest.approx(8 * DOLLARS) and e.result["cached_share"] == 0.4
    assert e.result["cpu_s"] == pytest.approx(sum(r["cpu_s"] for r in e.rows))
    assert counts_line(e).endswith("; 5 of 10 replies cut off by max_tokens")
    table, line = results_table(e), cost_line(e)
    assert "| time to the first token p50 (ms) |" in table and "| cost / question ($) | 0.0001 |" in table
    assert "40% of those read from the server's cache, $0.0008 for 8 of 10 questions" in line
    assert "with up to 16 at work" in line and "batches" not in line
    shown = CliRunner().invoke(command, ["show", e.id]).output
    assert "5 of 10 replies cut off" in shown and "$0.0008" in shown


@pytest.mark.slow
def test_replies_that_a_filter_held_back_are_counted(outputs):
    async def third_held_back(request, body):
        reason = "stop" if len(server.bodies) % 3 else "content_filter"
        return await events(request, delta(" Vessolt"), delta(None, reason))

    server = Scripted(third_held_back)
    with in_a_thread(server):
        store = Store()
        e = Experiment(run_experiment(config(server.url, price=None), store, show=False), store)
    said = "3 of 10 replies held back by the server's content filter"
    assert counts_line(e).endswith(f"; {said}") and said in cost_line(e)


@pytest.mark.slow
def test_comparisons_say_how_many_replies_were_cut_off(served):
    store = Store()
    a, b = (Experiment(run_experiment(config(served.url, n), store, show=False), store) for n in "ab")
    assert compare(a, b)._repr_markdown_().count("5 of 10 replies cut off by max") == 2


@pytest.mark.slow
def test_without_a_price_nothing_is_said_of_dollars(served):
    store = Store()
    e = Experiment(run_experiment(config(served.url, price=None), store, show=False), store)
    assert {r["cost"] for r in e.rows} == {None} and "cost" not in e.result
    assert "$" not in results_table(e) + cost_line(e)


def test_replies_from_the_cache_have_no_unknown_price():
    "They cost nothing; what the others cost is told by those that were paid for."
    row = {"error_type": None, "tokens_in": 100, "tokens_out": 10, "cost": 0.5, "cached": False}
    cached = row | {"cost": None, "cached": True}
    assert cost_estimate([row, cached], 6).endswith("6 questions × 100 tokens in, 10 out ≈ $3.0000")
    assert cost_estimate([cached], 6).endswith("at a price that these do not tell: they came from the cache")
    assert cost_estimate([row, row | {"cost": None}], 6).endswith("at an unknown price")


def test_where_no_question_succeeded_the_server_is_not_said_to_be_silent():
    failed = {"error_type": "EngineError", "tokens_in": None, "tokens_out": None, "cost": None}
    silent = failed | {"error_type": None}
    assert cost_estimate([failed], 6) == "cost: unknown, since none of the first questions succeeded"
    assert cost_estimate([failed, silent], 6).startswith("tokens: the server does not say")


def test_shares_add_up_to_what_the_process_used():
    clock = TreeClock()
    before, shares, used = clock(True), CpuShares(), []
    for _ in range(20):
        with shares.question() as outer, shares.question() as inner:
            while time.process_time() % 0.01 < 0.005:
                pass
        used += [outer.seconds, inner.seconds]
    whole = clock(True) - before
    assert 0.5 * whole < sum(used) <= whole and min(used) >= 0


def test_other_processes_are_looked_for_only_where_there_are_some():
    "A look at all processes of the machine costs more than ten questions to a fast engine."
    code = (
        "import subprocess, sys; from llmforge.cputime import TreeClock; clock = TreeClock(); clock(True); "
        "print('psutil' in sys.modules); child = subprocess.Popen(['sleep', '9']); clock(True); "
        "print('psutil' in sys.modules); child.kill(); print(child.wait())"
    )
    p = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert p.stdout.split() == ["False", "True", "-9"]


async def by_length(request, body):
    "The price of a prompt is that of its length."
    usage = {"prompt_tokens": len(body["prompt"]) // 4, "completion_tokens": 2}
    return await events(request, delta(" Vessolt"), delta(None, "stop"), {"choices": [], "usage": usage})


@pytest.mark.slow
def test_a_study_claims_what_a_question_costs_and_when_its_first_token_comes(outputs):
    claim = {"id": "H1", "claim": "Two examples cost more", "treatment": "two", "control": "none"}
    with in_a_thread(Scripted(by_length)) as server:
        study = {
            "name": "dollars",
            "question": "What do examples cost?",
            "base": {
                "engine": {"name": "openai", "base_url": server.url, "api": "completions", "price": PRICE}
            },
            "datasets": {"few": {"dataset": {"name": "meridia", "limit": 12}}},
            "arms": {"none": {"method": {"shots": 0}}, "two": {"method": {"shots": 2}}},
            "hypotheses": [claim | {"metric": "cost", "min_effect": 1e-6}],
            "exploratory": ["ttft_ms", "cost"],
        }
        done = run_study(load_study({"study": study}), show=False)
    (verdict,) = verdicts(done)
    assert verdict.verdict == "supported" and verdict.n == 12
    assert 1e-5 < verdict.effect.value < 1e-3 and "claimed at least +1e-06" in str(verdict)
    explored = exploratory_table(done)
    assert "time to the first token" in explored and "cost of a question" in explored


@pytest.mark.parametrize(
    ("metric", "engine", "why"),
    [
        ("cost", {"name": "local"}, "cost is measured of servers alone; the engine is local"),
        ("ttft_ms", {"name": "fake"}, "ttft_ms is measured of servers alone; the engine is fake"),
        (
            "cost",
            {"name": "ollama"},
            "cost needs engine.price, e.g. price: {input: 0.1, output: 0.4}; there is none",
        ),
        ("ttft_ms", {"name": "ollama", "stream": False}, "ttft_ms needs engine.stream: true; it is false"),
        ("ttft_ms", {"name": "ollama"}, ""),
        ("cost", {"name": "ollama", "price": PRICE}, ""),
    ],
)
def test_what_a_claim_about_servers_needs(metric, engine, why):
    assert unmeasured(metric, load_config({"experiment": {"name": "x", "engine": engine}})) == why
