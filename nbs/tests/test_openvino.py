"""The engine openvino on the real embedded model, held against the local engine."""

import importlib.util

import pytest

try:
    import openvino
    import torch

    from llmforge.openvino import OpenVinoEngine, exported, openvino_engine
except ImportError as e:  # also where torch is missing
    pytest.skip(f"the extra openvino is not installed: {e}", allow_module_level=True)
import same_texts
from transformers import AutoModelForCausalLM, Gemma3TextConfig

from llmforge.config import ExperimentConfig, experiment_id
from llmforge.core import ConfigError, EngineError
from llmforge.engine import Sampling
from llmforge.engineconfig import EngineConfig
from llmforge.local import LocalEngine, local_engine
from llmforge.model import Loaded, load_model, openvino_is_as_good
from llmforge.sections import ModelConfig

pytestmark = pytest.mark.slow

SHOTS = "Question: What is the chemical symbol of gold?\nAnswer: Au\n\n" * 4
THINGS = ["the capital of Italy", "the author of Hamlet", "7 plus 5", "the largest ocean", "H2O"]
PROMPTS = [f"{SHOTS}Question: What is {t}?\nAnswer:" for t in THINGS]


@pytest.fixture(scope="module")
def loaded():
    return load_model(ModelConfig(device="cpu"))


@pytest.fixture(scope="module")
def engine(loaded):
    engine = OpenVinoEngine(loaded, batch_size=4)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def local(loaded):
    engine = LocalEngine(loaded)
    yield engine
    engine.close()


def texts(engine, prompts, sampling):
    return list(map(str, engine.generate_batch([(p, sampling) for p in prompts])))


@pytest.mark.parametrize("stop", [(), ("\n",), (".", "e")])
def test_greedy_texts_are_those_of_the_local_engine(engine, local, stop):
    "Alone, in a batch, and once more when all is known: texts, token counts, reasons to finish."
    sampling = Sampling(max_tokens=6, stop=stop)
    right = texts(local, PROMPTS, sampling)
    assert texts(engine, PROMPTS, sampling) == right
    assert [texts(engine, [p], sampling)[0] for p in PROMPTS] == right


@pytest.mark.parametrize("stop", [(), ("\n",), (".", "e")])
def test_guessed_tokens_change_no_text(loaded, local, stop):
    "Also where a text ends within what was guessed."
    sampling, engine = Sampling(max_tokens=12, stop=stop), OpenVinoEngine(loaded, 4, prompt_lookup=5)
    assert engine.identity["prompt_lookup"] == 5
    for _ in range(2):
        assert texts(engine, PROMPTS, sampling) == texts(local, PROMPTS, sampling)
    engine.close()


def test_keys_and_values_of_eight_bits(loaded, local):
    "They are rounded, so that the texts need not be the same; the lengths and the ends are."
    engine = openvino_engine(ExperimentConfig(name="x", engine={"name": "openvino", "kv_precision": "u8"}))
    assert engine.identity["kv_precision"] == "u8" and "kv_precision" not in local.identity
    given = engine.generate_batch([(p, Sampling(max_tokens=6)) for p in PROMPTS])
    assert [(g.tokens_out, g.finish_reason) for g in given] == [(6, "length")] * len(PROMPTS)
    engine.close()


def test_samples_and_scores_are_those_of_the_local_engine(engine, local):
    "They are computed by the same code, on the same weights."
    sampled = Sampling(temperature=1.0, max_tokens=6, seed=3)
    assert texts(engine, PROMPTS, sampled) == texts(local, PROMPTS, sampled)
    choices = [(PROMPTS[0], Sampling(choices=[" Rome", " Milan"]))]
    assert engine.generate_batch(choices)[0].logprobs == local.generate_batch(choices)[0].logprobs


def test_prompts_that_go_on_from_one_text(engine, local):
    "OpenVINO lets them write into one page; three places within a page are tried."
    first = "The quick brown fox jumps over the lazy dog."
    for more in range(3):
        first += " one" * more + "\n"
        texts(engine, [first], Sampling(max_tokens=1))
        forks = [first + t for t in ("The fox said", "In Paris there is", "Once upon a time", "The fox said")]
        for _ in range(2):
            assert texts(engine, forks, Sampling(max_tokens=5)) == texts(local, forks, Sampling(max_tokens=5))


def test_after_a_failure_the_next_batch_is_answered(engine, local, monkeypatch):
    engine.generate_batch([(PROMPTS[0], Sampling(max_tokens=1))])

    def fail(*_):
        raise RuntimeError("no more")

    monkeypatch.setattr(OpenVinoEngine, "_read", fail)
    with pytest.raises(RuntimeError):
        engine.generate_batch([(PROMPTS[0], Sampling(max_tokens=1))])
    monkeypatch.undo()
    assert texts(engine, PROMPTS[:2], Sampling()) == texts(local, PROMPTS[:2], Sampling())


def test_identity_names_what_computes(engine, local):
    assert engine.identity["engine"] == "openvino" and local.identity["engine"] == "local"
    assert {"openvino", "openvino_genai", "batch_size", "prefix_cache", "weights"} <= engine.identity.keys()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"device": "cuda"}, "experiment.model.device: the engine openvino runs on the cpu; received 'cuda'"),
        ({"dtype": "float16"}, "experiment.model.dtype: the engine openvino has no 'float16'"),
    ],
)
def test_what_it_cannot_do_is_refused(model, message):
    config = ExperimentConfig(name="x", engine={"name": "openvino"}, model=model)
    with pytest.raises(ConfigError, match=message):
        openvino_engine(config)


def test_a_precision_that_auto_chose_is_refused(loaded):
    half = AutoModelForCausalLM.from_config(loaded.model.config).half()
    with pytest.raises(EngineError, match="has no torch.float16, which model.dtype: auto chose"):
        OpenVinoEngine(Loaded(half, loaded.tokenizer, loaded.identity))


def test_sliding_windows_are_refused(loaded):
    "Its mask would be wrong: a small model with random weights."
    config = Gemma3TextConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=6,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=8,
    )
    model = AutoModelForCausalLM.from_config(config).to(torch.float32)
    with pytest.raises(EngineError, match="cannot run a 'gemma3_text' model: its layers must all have full"):
        exported(Loaded(model, loaded.tokenizer, loaded.identity))


@pytest.mark.parametrize(
    ("model", "engine", "as_good"),
    [
        ({}, {"backend": "auto"}, True),
        ({"device": "cpu"}, {"backend": "auto"}, True),
        ({}, {}, False),
        ({"dtype": "bfloat16"}, {"backend": "auto"}, False),
        ({"dtype": "auto"}, {"backend": "auto"}, False),
        ({"device": "cuda"}, {"backend": "auto"}, False),
        ({"name": "gemma-3-270m"}, {"backend": "auto"}, False),
        ({"name": "microsoft/phi-2"}, {"backend": "auto"}, False),
    ],
)
def test_where_it_computes_for_the_local_engine(model, engine, as_good, monkeypatch):
    "Where its texts are known to be the same; the id does not depend on it."
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = ExperimentConfig(name="x", model=model, engine=engine)
    assert openvino_is_as_good(config) == as_good
    assert experiment_id(config, "d") == experiment_id(
        config.model_copy(update={"engine": EngineConfig()}), "d"
    )


def test_what_computes_is_in_the_identity(monkeypatch):
    "With OpenVINO, without it, and where a config asks for torch."
    auto = ExperimentConfig(name="x", engine={"backend": "auto"})
    made = [local_engine(auto), local_engine(ExperimentConfig(name="x"))]
    found = importlib.util.find_spec
    without = lambda name: None if name == "openvino_genai" else found(name)
    monkeypatch.setattr(importlib.util, "find_spec", without)
    made.append(local_engine(auto))
    assert [engine.identity["engine"] for engine in made] == ["openvino", "local", "local"]
    for engine in made:
        engine.close()


def test_published_texts_are_written_again():
    "All of them: `python nbs/tests/same_texts.py retrieval_2`."
    folder = same_texts.folders("retrieval_2")[0]
    asked = same_texts.stored(folder, 8)
    assert same_texts.again(same_texts.asked_by(folder), asked) == ("openvino", 8, None)


def test_a_processor_without_bfloat16_is_told_of(loaded, monkeypatch):
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    wide = AutoModelForCausalLM.from_config(loaded.model.config).bfloat16()
    with pytest.raises(EngineError, match="cannot compute in bfloat16 on this processor; set model.dtype"):
        OpenVinoEngine(Loaded(wide, loaded.tokenizer, loaded.identity))
