"Latency of one request: questions asked again one at a time, and what a table says of it."

import pytest

from llmforge.batching import FakeEngine
from llmforge.config import load_config
from llmforge.core import EngineError
from llmforge.experiment import Experiment, alone_estimate, results_table
from llmforge.exports import export_experiment, import_experiment
from llmforge.runner import run_experiment
from llmforge.store import Store


def config(**more):
    fields = {"name": "a", "engine": {"name": "fake"}, "method": {"shots": 0}, "dataset": {"limit": 8}}
    return load_config({"experiment": {**fields, **more}})


class Watched(FakeEngine):
    "Counts how many questions are at work at once, and how many were asked."

    asked = 0
    together: list = []

    async def generate(self, prompt, sampling):
        Watched.asked += 1
        Watched.together[-1] += 1
        try:
            return await super().generate(prompt, sampling)
        finally:
            Watched.together.append(0)


def test_asked_again_one_at_a_time_and_not_from_the_cache(outputs, tmp_path):
    Watched.asked, Watched.together = 0, [0]
    store = Store()
    id = run_experiment(config(metrics={"alone": 3}), store, Watched("yes"), show=False)
    e = Experiment(id, store)
    assert Watched.asked == 8 + 3 and Watched.together[-4:-1] == [1, 1, 1]
    assert [m["example"] for m in e.result["alone"]] == [r["example_id"] for r in e.rows[:3]]
    assert alone_estimate(e).n == 3 and len(e.rows) == 8 and e.result["attempted"] == 8
    assert "latency of one request alone p50 (ms)" in results_table(e)
    export_experiment(store, id, tmp_path / id)
    other = Store(f"sqlite:///{tmp_path}/other.db")
    assert alone_estimate(Experiment(import_experiment(other, tmp_path / id), other)) == alone_estimate(e)


def test_a_question_that_fails_alone_has_no_time(outputs):
    class Failing(FakeEngine):
        asked = 0

        async def generate(self, prompt, sampling):
            self.asked += 1
            if self.asked == 9:  # the first of those alone
                raise EngineError("not now")
            return await super().generate(prompt, sampling)

    store = Store()
    id = run_experiment(config(metrics={"alone": 2}), store, Failing("yes"), show=False)
    e = Experiment(id, store)
    times = [m["latency_ms"] for m in e.result["alone"]]
    assert e.result["failed"] == 0 and times[0] is None and times[1] >= 0 and alone_estimate(e).n == 1


@pytest.mark.parametrize("n", [0, 100])
def test_none_or_all(outputs, n):
    store = Store()
    e = Experiment(run_experiment(config(metrics={"alone": n}), store, FakeEngine("yes"), show=False), store)
    assert alone_estimate(e).n == min(n, 8) and ("alone" in results_table(e)) == (n > 0)
