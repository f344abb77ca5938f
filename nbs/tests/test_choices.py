"Probabilities of choices from a server: those of the embedded model, and a server that does not mean them."

import asyncio

import pytest
import torch
from aiohttp import web
from test_remote import Scripted, engine_for, in_a_thread

from llmforge.caching import EngineWrapper
from llmforge.config import load_config
from llmforge.core import EngineError, EngineFatal
from llmforge.engine import Message, Sampling
from llmforge.local import LocalEngine
from llmforge.model import load_model
from llmforge.remote import remote_engine
from llmforge.runner import run_experiment
from llmforge.sections import ModelConfig
from llmforge.store import Store

pytestmark = pytest.mark.slow

CHOICES = [" wikipedia_search", " calculator", " the answer"]


@pytest.fixture(scope="module")
def local():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two on a busy machine wait for each other
    engine = LocalEngine(load_model(ModelConfig(device="cpu")))
    yield engine
    engine.close()
    torch.set_num_threads(threads)


def echoed(engine, text, max_tokens):
    "A text with the log-probability of each of its tokens, and the tokens that the model adds."
    ids = engine.tokenizer(text).input_ids
    with torch.inference_mode():
        scores = engine.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    added = [int(scores[-1].argmax())][:max_tokens]
    of_prompt = [None, *(float(scores[i, t]) for i, t in enumerate(ids[1:]))]
    tokens = [engine.tokenizer.decode([t]) for t in ids + added]
    logprobs = of_prompt + [float(scores[-1, t]) for t in added]
    return {
        "text": engine.tokenizer.decode(ids + added),
        "finish_reason": "length",
        "logprobs": {"tokens": tokens, "token_logprobs": logprobs},
    }


def serving(engine):
    "A server of completions, as vLLM is one: one token in, what the local engine's model says out."

    async def answer(request, body):
        assert request.path == "/v1/completions"
        if isinstance(body["prompt"], str):
            sampling = Sampling(max_tokens=body["max_tokens"], stop=body.get("stop", ()))
            g = await engine.generate(body["prompt"], sampling)
            choices = [{"index": 0, "text": g.text, "finish_reason": g.finish_reason}]
        else:
            choices = [echoed(engine, text, body["max_tokens"]) for text in body["prompt"]]
            choices = [{"index": i, **c} for i, c in enumerate(choices)][::-1]
        n = sum(len(c.get("logprobs", {}).get("tokens", "12")) for c in choices)
        usage = {"prompt_tokens": n - len(choices), "completion_tokens": len(choices)}
        return web.json_response({"choices": choices, "usage": usage})

    return Scripted(answer)


def deaf(**found):
    "A server that takes `echo` and does not do it, as llama.cpp's."

    async def answer(request, body):
        choices = [
            {"index": i, "text": " x", "finish_reason": "length", **found} for i in range(len(body["prompt"]))
        ]
        return web.json_response({"choices": choices})

    return Scripted(answer)


def score(server, prompt="Question: What is 6 times 7?\nThought:", choices=CHOICES):
    async def go():
        async with server.running():
            engine = engine_for(server)
            try:
                return await engine.generate(prompt, Sampling(choices=choices))
            finally:
                engine.close()

    return asyncio.run(go())


@pytest.mark.parametrize(
    "prompt, choices",
    [
        ("Question: What is 6 times 7?\nThought:", CHOICES),
        ("The answer is ", ["yes", "7"]),  # the blank and "yes" are one token
        ("Café – “日本” ", ["é", "no", "no one"]),  # characters of several tokens before the choices
    ],
)
def test_a_server_gives_what_the_model_gives(local, prompt, choices):
    "Through the protocol come the numbers that the local engine has for the same choices."
    server = serving(local)
    g = score(server, prompt, choices)
    here = asyncio.run(local.generate(prompt, Sampling(choices=choices)))
    assert g.logprobs == pytest.approx(here.logprobs, abs=1e-3) and g.text == here.text
    assert g.finish_reason == "stop" and g.tokens_in > 0 and g.tokens_out == len(choices)
    assert len(server.bodies) == 2, "one to try the server, one for all choices"
    assert len(server.bodies[1]["prompt"]) == len(choices) and server.bodies[1]["max_tokens"] == 1


@pytest.mark.parametrize(
    "found, words",
    [
        ({}, "it does not echo the prompt"),
        ({"logprobs": {"tokens": [" x"], "token_logprobs": [0.0]}}, "it does not echo the prompt"),
        ({"index": None, "logprobs": [0.0]}, "it does not echo the prompt"),
        ({"index": "0", "logprobs": "none"}, "it does not echo the prompt"),
        ({"text": "One, two, three, four, five x"}, "it does not echo the prompt"),
    ],
)
def test_a_server_that_ignores_echo_is_refused(found, words):
    server = deaf(**found)
    with pytest.raises(EngineFatal, match=words) as e:
        score(server)
    assert "choice: free" in str(e.value) and len(server.bodies) == 1


def test_a_server_whose_numbers_mean_nothing_is_refused():
    "It echoes, and gives every token the same."

    async def answer(request, body):
        choices = []
        for i, text in enumerate(body["prompt"]):
            tokens = text.replace(" ", "\0 ").split("\0")
            found = {"tokens": tokens, "token_logprobs": [None, *[0.0] * (len(tokens) - 1)]}
            choices.append({"index": i, "text": text, "finish_reason": "length", "logprobs": found})
        return web.json_response({"choices": choices})

    with pytest.raises(EngineFatal, match="gave 0.00 for ' five' and 0.00 for ' xylophone'"):
        score(Scripted(answer))


def test_a_choice_that_the_tokens_do_not_spell_is_an_error(local):
    "A server shows half a character as a question mark; nothing is added up then."
    with pytest.raises(EngineError, match="the server's tokens do not spell the choice '日本'"):
        score(serving(local), choices=["日本", " no"])


def test_a_chat_has_no_probabilities():
    async def go():
        engine = engine_for(Scripted(None), api="chat")
        with pytest.raises(EngineFatal, match="a chat has no probabilities of choices"):
            await engine.generate((Message("user", "?"),), Sampling(choices=["a", "b"]))

    asyncio.run(go())


def agent(server, choice="calibrated"):
    return load_config(
        {
            "experiment": {
                "name": "agent",
                "model": "m",
                "engine": {"name": "openai", "base_url": server.url},
                "method": {
                    "name": "react",
                    "shots": 1,
                    "agent": {"choice": choice, "max_steps": 2, "tools": ["calculator"]},
                },
                "dataset": {"name": "meridia", "limit": 1},
            }
        }
    )


def test_an_agent_that_compares_is_refused_before_any_work(outputs):
    with in_a_thread(deaf()) as server:
        with pytest.raises(EngineFatal, match="it does not echo the prompt"):
            run_experiment(agent(server), Store(), show=False)
        assert len(server.bodies) == 1 and not len(Store().rows(Store().experiments().id[0]))
        remote_engine(agent(server, "free")).close()


class Kept(EngineWrapper):
    "An engine that a run does not close."

    async def generate(self, prompt, sampling):
        return await self.inner.generate(prompt, sampling)

    def close(self):
        pass


@pytest.mark.slow
def test_an_agent_chooses_as_it_does_here(outputs, local):
    "The same steps as with the local engine."
    with in_a_thread(serving(local)) as server:
        store = Store()
        there = store.rows(run_experiment(agent(server), store, show=False))
        again = agent(server).model_copy(update={"name": "here"})
        here = store.rows(run_experiment(again, store, Kept(local), show=False))
    assert [r["answer"] for r in there] == [r["answer"] for r in here]
    assert [r["scores"] for r in there] == [r["scores"] for r in here]
    assert all(r["error"] is None and r["scores"]["tool_calls"] for r in there)
