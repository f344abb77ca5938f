"Arms that write something else are caught, on the real embedded model."

import copy
import json
from dataclasses import replace

import pytest

from llmforge.batching import FakeEngine
from llmforge.config import load_config
from llmforge.configfiles import read_yaml
from llmforge.core import EngineError, StoreError, fingerprint
from llmforge.equivalence import differing, equivalence, equivalence_of, first_difference, text_of
from llmforge.experiment import Experiment
from llmforge.pooling import groups_of
from llmforge.predictions import import_predictions
from llmforge.runner import run_experiment
from llmforge.store import Store
from llmforge.study import run_study
from llmforge.studyconfig import load_study

PLAN = """
study:
  name: same
  question: Are the answers the same?
  base:
    engine: {name: fake, cache: false}
    dataset: {name: meridia, limit: 90}
    method: {shots: 0}
  arms: {a: {engine: {batch_size: 1}}, b: {engine: {batch_size: 2}}, c: {engine: {batch_size: 4}}}
"""


def made(text, sampling):
    return f" word{fingerprint(text, n=4)} and more\nrest"


def failing(text, sampling):
    if int(fingerprint(text, n=2), 16) % 5 == 0:
        raise EngineError("broken")
    return made(text, sampling)


def longer(text, sampling):
    return made(text, sampling).replace("rest", "rest of it")


@pytest.fixture
def study(outputs):
    scripts = {1: made, 2: longer, 4: failing}
    make = lambda config: FakeEngine(scripts[config.engine.batch_size], batch_size=config.engine.batch_size)
    return run_study(load_study(read_yaml(PLAN)), Store(), make, show=False)


@pytest.mark.slow
def test_failures_are_not_identical(study):
    "A question that one side failed on is in the count, and is no identical pair."
    found = equivalence_of(study, "c", "a")
    lost = study.store.result(study.ids["c", "default", 0])["failed"]
    assert lost and found.n == 90 and found.texts == found.answers == 90 - lost
    assert found.mark == "changes answers" and found.first == ()


@pytest.mark.slow
def test_an_arm_against_itself(study):
    found = equivalence_of(study, "a", "a")
    assert found.mark == "identical" and found.texts_share.low > 0.9 and found.p < 0.05
    assert "ruled out" in found.sentence() and "cache" not in found.sentence()


@pytest.mark.slow
def test_what_a_cache_repeats_shows_nothing(outputs):
    "The same generations read twice are said to be that."
    plan = PLAN.replace("cache: false", "cache: true").replace("name: same", "name: kept")
    done = run_study(load_study(read_yaml(plan)), Store(), show=False)
    found = equivalence_of(done, "b", "a")
    assert found.cached == 90 and "90 pairs from the generation cache, which show nothing" in found.sentence()


@pytest.mark.slow
def test_other_questions_are_refused(study, outputs):
    plan = PLAN.replace("limit: 90", "limit: 90, skip: 90").replace("name: same", "name: other")
    other = run_study(load_study(read_yaml(plan)), study.store, show=False)
    mixed = replace(study, ids=study.ids | {("b", "default", 0): other.ids["b", "default", 0]})
    with pytest.raises(StoreError, match="their questions differ"):
        equivalence_of(mixed, "b", "a")


@pytest.mark.slow
def test_imported_answers_to_some_of_the_questions(outputs, tmp_path):
    "Compared on those, in groups by the passages that one side knows, whichever is the control."
    store = Store()
    config = {"name": "own", "engine": "fake", "dataset": {"name": "meridia", "limit": 30}}
    id = run_experiment(load_config({"experiment": config}), store, FakeEngine(made), show=False)
    own, gold, answers = Experiment(id, store), tmp_path / "gold.jsonl", tmp_path / "answers.jsonl"
    asked = [(r["example_id"], r["input_text"], r["trace"]["attributes"]["expected"]) for r in own.rows[:20]]
    questions = [{"id": i, "question": text, "answers": right} for i, text, right in asked]
    gold.write_text("".join(json.dumps(q) + "\n" for q in questions))
    answers.write_text("".join(json.dumps({"id": i, "prediction": right[0]}) + "\n" for i, _, right in asked))
    theirs = Experiment(import_predictions(store, answers, gold), store)
    a, b = {("", 0): own}, {("", 0): theirs}
    one, other = equivalence(a, b), equivalence(b, a)
    assert (
        one.n == other.n == 20 and one.answers == other.answers == 0 and differing(a, b, 99).count("\n") == 21
    )
    there, back = one.accuracy, other.accuracy
    assert there.groups == back.groups < 20 and there.paired.p == back.paired.p
    assert there.effect.low == pytest.approx(-back.effect.high)
    assert groups_of([a, b]) == groups_of([b, a])


@pytest.mark.parametrize("a, b, at", [("", "", None), ("ab", "ac", 1), ("a", "ab", 1), ("é", "e", 0)])
def test_first_difference(a, b, at):
    assert first_difference(a, b) == at


def test_the_text_of_an_agent_is_all_that_it_wrote():
    calls = [{"kind": "llm", "output": text} for text in ("Thought", "Answer")]
    row = {"output_text": "Answer", "trace": {"kind": "chain", "children": calls}}
    assert text_of(row) == "Thought\nAnswer" and text_of(row | {"trace": None}) == "Answer"


def rounded(loaded):
    "The model with its weights as eight-bit numbers, a scale for each row of a matrix."
    import torch

    model = copy.deepcopy(loaded.model)
    with torch.no_grad():
        for name, w in model.named_parameters():
            if w.ndim == 2 and "embed" not in name:
                scale = w.abs().amax(dim=1, keepdim=True) / 127
                w.copy_((w / scale).round() * scale)
    return replace(loaded, model=model)


@pytest.mark.slow
def test_eight_bits_are_caught(outputs):
    "Batches change nothing in float32; weights rounded to eight bits change answers, and are marked so."
    pytest.importorskip("torch")
    from llmforge.local import LocalEngine
    from llmforge.model import load_model
    from llmforge.sections import ModelConfig

    plan = PLAN.replace("name: fake, ", "").replace("limit: 90", "limit: 6").replace("shots: 0", "shots: 2")
    study = load_study(read_yaml(plan))
    loaded = load_model(ModelConfig(device="cpu"))
    coarse = rounded(loaded)

    def make(config):
        size = config.engine.batch_size
        return LocalEngine(coarse if size == 2 else loaded, size)

    done = run_study(study, Store(), make, show=False)
    assert equivalence_of(done, "c", "a").mark == "identical"
    caught = equivalence_of(done, "b", "a")
    assert caught.mark == "changes answers" and caught.answers < 6 and not caught.not_inferior
