"Servers: faults, keys, streams in crumbs, budgets; against a real server in this process."

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
import warnings
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, replace

import pytest
from aiohttp import web
from typer.testing import CliRunner

from llmforge.caching import CachedEngine, RetryingEngine, make_engine
from llmforge.check import _server_line, checks
from llmforge.cli import app as command
from llmforge.client import Busy, Client
from llmforge.config import experiment_id, load_config, to_yaml
from llmforge.core import ConfigError, EngineError, EngineFatal, fingerprint
from llmforge.engine import Generation, Message, Sampling, ToolCall, ToolMessage
from llmforge.engineconfig import EngineConfig, PriceConfig
from llmforge.files import project_root
from llmforge.remote import Budget, Patience, RemoteEngine, server_facts
from llmforge.runner import run_experiment
from llmforge.server import Server, key_in, refusal, server_of
from llmforge.store import Store
from llmforge.tables import Status
from llmforge.wire import EventStream, Reply, request_body, requested_wait, seconds_of, token_counts

KEY = "sk-planted-0123456789abcdef"
USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 40}}


class Scripted:
    "A server whose answers a function makes; it remembers what it was asked."

    keepalive = 75.0  # seconds after which it drops a connection that is not used

    def __init__(self, answer):
        self.answer, self.bodies, self.headers, self.url = answer, [], [], ""
        self.times = []

    def saying(self, found):
        async def say(request):
            return web.json_response(found)

        return say

    async def handle(self, request):
        self.times.append(time.monotonic())
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        return await self.answer(request, body)

    @asynccontextmanager
    async def running(self, facts=None):
        app = web.Application()
        app.router.add_post("/v1/{path:.*}", self.handle)
        for path, found in (facts or {}).items():
            app.router.add_get(path, self.saying(found))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, keepalive_timeout=self.keepalive)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"
        try:
            yield self
        finally:
            await runner.cleanup()


@contextmanager
def in_a_thread(server, facts=None):
    "The same, for code that is not asynchronous."
    loop, ready = asyncio.new_event_loop(), threading.Event()
    over = asyncio.Event()

    async def serve():
        async with server.running(facts):
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


async def events(request, *data, end="data: [DONE]\n\n"):
    "A streamed answer."
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    for one in data:
        await response.write(f"data: {json.dumps(one)}\n\n".encode())
    await response.write(end.encode())
    return response


def delta(text=None, finish=None, **more):
    return {"choices": [{"index": 0, "delta": {"content": text, **more}, "finish_reason": finish}]}


def asked(body):
    "The text that a request asks about."
    return body["prompt"] if "prompt" in body else body["messages"][-1]["content"]


async def echo(request, body):
    return await events(request, delta(asked(body)), delta(None, "stop"), {"choices": [], "usage": USAGE})


def engine_for(server, attempts=4, pause=0.01, max_cost=None, **more):
    options = {k: more.pop(k) for k in ("limit", "timeout", "stream") if k in more}
    where = Server(server.url, more.pop("api", "completions"), "m", **more)
    return RemoteEngine(Client(where, **options), Patience(attempts, pause), Budget(max_cost))


def ask(answer, prompt="hello", sampling=None, **more):
    "One generation by a server with this answer; the server, and what came of it."

    async def go():
        async with Scripted(answer).running() as server:
            engine = engine_for(server, **more)
            try:
                return server, await engine.generate(prompt, sampling or Sampling())
            finally:
                engine.close()

    return asyncio.run(go())


def fails(error, answer, match, **more):
    with pytest.raises(error, match=match) as e:
        ask(answer, **more)
    return e.value


# --- a reply ---


def test_a_streamed_reply():
    server, g = ask(echo, api="chat", prompt=(Message("user", "hello"),), key=KEY)
    assert (g.text, g.tokens_in, g.tokens_out, g.tokens_cached) == ("hello", 100, 10, 40)
    assert g.finish_reason == "stop" and 0 < g.ttft_ms <= g.latency_ms and g.attempts == 1 and g.cost is None
    (body,) = server.bodies
    assert body["messages"] == [{"role": "user", "content": "hello"}] and body["stream_options"]
    sent = {k: body[k] for k in ("temperature", "top_p", "max_tokens", "seed")}
    assert sent == {"temperature": 0.0, "top_p": 1.0, "max_tokens": 32, "seed": 0} and "stop" not in body
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_a_whole_reply_and_completions():
    async def whole(request, body):
        assert (
            request.path == "/v1/completions"
            and "stream" not in body
            and "Authorization" not in request.headers
        )
        return web.json_response({"choices": [{"text": " Lima", "finish_reason": "length"}], "usage": USAGE})

    server, g = ask(whole, prompt="Capital of Peru?", stream=False)
    assert (g.text, g.finish_reason, g.ttft_ms, g.tokens_out) == (" Lima", "length", None, 10)
    assert server.bodies[0]["prompt"] == "Capital of Peru?"


def test_a_server_that_ignores_the_wish_for_a_stream():
    async def whole(request, body):
        return web.json_response({"choices": [{"text": "x", "finish_reason": "stop"}]})

    assert ask(whole)[1].text == "x"


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter", "tool_calls"])
def test_reasons_to_finish_are_kept(reason):
    async def answer(request, body):
        return await events(request, delta("x"), delta(None, reason))

    assert ask(answer)[1].finish_reason == reason


def test_missing_usage_is_unknown():
    async def answer(request, body):
        return await events(request, delta("x", "stop"))

    g = ask(answer, price=PriceConfig(input=1, output=1))[1]
    assert g.tokens_in is g.tokens_out is g.tokens_cached is g.cost is None
    assert "tokens unknown → unknown" in g._repr_markdown_()
    assert token_counts({"prompt_tokens": True, "completion_tokens": -1}) == (None, None, None)


def test_stop_strings_are_kept_here_whatever_the_server_does():
    async def answer(request, body):
        return await events(request, delta("Lima\n"), delta("\nQuestion: more", "length"))

    server, g = ask(answer, sampling=Sampling(stop=["a!", "b!", "c!", "d!", "\nQuestion:"]))
    assert server.bodies[0]["stop"] == ["a!", "b!", "c!", "d!"]
    assert (g.text, g.finish_reason) == ("Lima\n", "stop")


def test_stream_options_are_left_out_after_one_refusal():
    async def answer(request, body):
        if "stream_options" in body:
            return web.json_response({"detail": "unknown field stream_options"}, status=400)
        if "max_tokens" in body:
            refused = "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
            return web.json_response({"error": {"message": refused}}, status=400)
        return await events(request, delta(str(body["max_completion_tokens"]), "stop"))

    async def go():
        async with Scripted(answer).running() as server:
            engine = engine_for(server)
            replies = [await engine.generate("x", Sampling()) for _ in range(3)]
            engine.close()
            return server, replies

    server, replies = asyncio.run(go())
    assert [g.text for g in replies] == ["32"] * 3 and len(server.bodies) == 5


def test_a_refusal_teaches_nothing_where_the_other_form_is_refused_too():
    "vLLM's refusal of a long prompt names max_completion_tokens, which its completions ignore: 16 tokens."
    long = "'max_tokens' or 'max_completion_tokens' is too large: 32. The maximum context length is 8"

    async def answer(request, body):
        if asked(body) == "long":
            said = f"{long} (stream_options: {body.get('stream_options')})"
            return web.json_response({"error": {"message": said}}, status=400)
        return await echo(request, body)

    async def go():
        async with Scripted(answer).running() as server:
            engine = engine_for(server)
            with pytest.raises(EngineError, match="maximum context length"):
                await engine.generate("long", Sampling())
            await engine.generate("short", Sampling())
            engine.close()
            return server.bodies[-1]

    body = asyncio.run(go())
    assert body["max_tokens"] == 32 and "max_completion_tokens" not in body and body["stream_options"]


@pytest.mark.parametrize(
    "said", ['{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}', 'Unknown name "seed"']
)
def test_a_server_that_knows_no_seed(said):
    "Mistral's, Google's: it is left out, as the server could not be used at all."

    async def answer(request, body):
        if "seed" in body:
            return web.Response(text=said, status=422)
        return await echo(request, body)

    server, g = ask(answer)
    assert g.text == "hello" and len(server.bodies) == 2


def test_a_model_that_takes_few_settings():
    "OpenAI's and Anthropic's newest: one refusal for each; what would change the answers is never left out."
    refused = {
        "stop": "Unsupported parameter: 'stop' is not supported with this model.",
        "top_p": "`temperature` and `top_p` cannot both be specified for this model.",
        "max_tokens": "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens'.",
    }

    async def answer(request, body):
        for name, said in refused.items():
            if name in body:
                return web.json_response({"error": {"message": said}}, status=400)
        return await echo(request, body)

    server, g = ask(answer, prompt="a!b", sampling=Sampling(stop="!"))
    assert g.text == "a" and len(server.bodies) == 4
    fails(EngineError, answer, "cannot both be specified", sampling=Sampling(top_p=0.5))
    hot = "Unsupported value: 'temperature' does not support 0.0 with this model."
    assert (
        Client(Server("http://x/v1", "chat", "m")).dialect.after(hot, request_body("m", "x", Sampling()))
        is None
    )


# --- streams in crumbs ---

STREAM = (
    ": keep-alive\n\nevent: x\nid: 1\ndata: " + json.dumps(delta("é漢🙂"), ensure_ascii=False) + "\n\n"
    "data:" + json.dumps(delta("b")) + "\n\nretry: 5\n\n"
    'data: {"choices": [\ndata: {"delta": {"content": "c"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
def test_events_in_pieces_of_any_size(end, size):
    data, stream = STREAM.replace("\n", end).encode(), EventStream()
    got = [e for i in range(0, len(data), size) for e in stream.feed(data[i : i + size])] + list(stream.end())
    assert len(got) == 4 and got[-1] == b"[DONE]"
    reply = Reply()
    for e in got[:-1]:
        reply.add(json.loads(e))
    assert reply.read(Sampling())[0] == "é漢🙂bc" and reply.finish_reason == "stop"


def test_an_event_without_a_blank_line_after_it():
    stream = EventStream()
    assert list(stream.feed(b"data: x")) == [] and list(stream.end()) == [b"x"] and list(stream.end()) == []


@pytest.mark.parametrize(
    "data, end",
    [
        ([delta("half")], ""),
        ([delta("half"), {"error": {"message": "out of memory"}}], "data: [DONE]\n\n"),
        ([delta("half")], "data: {broken\n\n"),
        ([], "data: [DONE]\n\n"),
        (["text"], "data: [DONE]\n\n"),
        ([], "data: " + "[" * 100_000 + "\n\n"),
    ],
)
def test_a_reply_that_is_not_whole_is_asked_for_again(data, end):
    async def answer(request, body):
        if len(server.bodies) < 3:
            return await events(request, *data, end=end)
        return await echo(request, body)

    server = Scripted(answer)

    async def go():
        async with server.running():
            engine = engine_for(server)
            g = await engine.generate("whole", Sampling())
            engine.close()
            return g

    g = asyncio.run(go())
    assert g.text == "whole" and g.attempts == 3


def test_a_break_after_the_reason_to_finish_loses_nothing():
    async def answer(request, body):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(f"data: {json.dumps(delta('all', 'stop'))}\n\n".encode())
        await asyncio.sleep(0.05)
        request.transport.abort()
        return response

    g = ask(answer)[1]
    assert g.text == "all" and g.attempts == 1 and g.tokens_out is None


@pytest.mark.parametrize("end", ["", "data: [DONE]\n\n", "data: [DONE]\n\ndata: {broken\n\n"])
def test_a_stream_that_stays_open_behind_a_whole_reply(end, monkeypatch):
    "It is waited for a moment, not for the whole time limit, and not asked for again."
    monkeypatch.setattr("llmforge.client._LINGER", (0.2, 0.1))

    async def answer(request, body):
        response = await events(request, delta("all", "stop"), end=end or ":\n\n")
        await asyncio.sleep(3)
        return response

    server, g = ask(answer, timeout=2)
    assert (g.text, g.attempts, g.finish_reason) == ("all", 1, "stop") and g.latency_ms < 1500


def test_a_connection_is_used_again_after_a_stream():
    "Also where its end comes in a packet of its own."
    peers = []

    async def answer(request, body):
        peers.append(request.transport.get_extra_info("peername"))
        response = await events(request, delta("x", "stop"))
        await asyncio.sleep(0.05)
        return response

    async def go():
        async with Scripted(answer).running() as server:
            engine = engine_for(server)
            for _ in range(3):
                await engine.generate("x", Sampling())
            engine.close()

    asyncio.run(go())
    assert len(set(peers)) == 1


@pytest.mark.parametrize("start", ["\ufeff", "data:\n\n", "data: \r\n\r\n: ping\n\n"])
def test_what_may_stand_before_the_first_event(start):
    "A mark of UTF-8, an empty event: nothing of the text is lost, nothing is asked for again."

    async def answer(request, body):
        text = f"{start}data: {json.dumps(delta('a'))}\n\ndata: {json.dumps(delta('b', 'stop'))}\n\n"
        return web.Response(body=text.encode(), headers={"Content-Type": "text/event-stream"})

    g = ask(answer)[1]
    assert (g.text, g.attempts) == ("ab", 1)


ODD = {  # a whole reply in another form -> its text, reason to finish and tokens
    "a refusal": ({"message": {"content": None, "refusal": "I cannot."}, "finish_reason": "stop"}, {}),
    "parts without a text": (
        {"message": {"content": [{"type": "text"}, 5]}, "finish_reason": "stop"},
        {},
    ),
    "calls that are a number": ({"message": {"content": "x", "tool_calls": 5}}, {}),
    "a count beyond measure": ({"text": "x"}, {"prompt_tokens": 10**400, "completion_tokens": 2}),
    "cut off": ({"text": "x", "finish_reason": "MAX_TOKENS"}, {}),
    "its end": ({"text": "x", "finish_reason": "eos_token"}, {}),
    "a part alone": ({"message": {"content": {"text": "x"}}}, {}),
    "another part": ({"message": {"content": [{"type": "output_text", "text": "x"}]}}, {}),
    "an old call": ({"message": {"function_call": {"name": "f"}}, "finish_reason": "tool_use"}, {}),
    "no count": ({"text": "x"}, {"prompt_tokens": 0, "completion_tokens": 0}),
}
READ = dict(
    zip(ODD, ("I cannot. stop", " stop", "x stop", "x stop 2", "x length", "x stop", "x stop", "x stop"))
)
READ |= {"an old call": " tool_calls", "no count": "x stop"}


@pytest.mark.parametrize("name", ODD)
def test_replies_in_odd_forms(name):
    choice, usage = ODD[name]

    async def answer(request, body):
        return web.json_response({"choices": [choice], "usage": usage})

    g = ask(answer, price=PriceConfig(input=1, output=1))[1]
    read = f"{g.text} {g.finish_reason}" + (f" {g.tokens_out}" if g.tokens_out else "")
    assert read == READ[name] and g.attempts == 1 and g.tokens_in is None and g.cost is None


def test_a_reply_without_a_message():
    async def answer(request, body):
        return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}]})

    message = "hi"
    fails(EngineError, answer, "has a str in the place of a message")
    message = {"content": 42}
    fails(EngineError, answer, "has a int in the place of a text")


@pytest.mark.parametrize(
    "said", [{"message": "loading"}, {"detail": "loading"}, {"choices": [], "is": "loading"}]
)
@pytest.mark.parametrize("form", ["whole", "stream", "whole as stream"])
def test_what_a_server_says_in_place_of_a_reply(said, form):
    "With the status 200: its sentence is in the error."

    async def answer(request, body):
        if form == "stream" and "choices" not in said:
            return await events(request, delta("half"), said)
        kind = "text/event-stream" if form == "whole as stream" else "application/json"
        return web.Response(text=json.dumps(said), content_type=kind)

    fails(EngineError, answer, "gave up after 2 attempts: .*loading", attempts=2)


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "application/octet-stream"])
@pytest.mark.parametrize("start", ["", ": ping\n\n", "event: x\n"])
def test_a_stream_under_another_name(kind, start):
    async def answer(request, body):
        text = f"{start}data: {json.dumps(delta('a'))}\n\ndata: {json.dumps(delta('b', 'stop'))}\n\n"
        return web.Response(text=text, content_type=kind)

    g = ask(answer)[1]
    assert (g.text, g.attempts) == ("ab", 1) and g.ttft_ms


def test_a_whole_message_behind_its_pieces():
    async def answer(request, body):
        last = {"choices": [{"delta": {}, "message": {"content": "ab"}, "finish_reason": "stop"}]}
        return await events(request, delta("a"), delta("b"), last)

    assert ask(answer)[1].text == "ab"


def test_a_character_in_two_pieces():
    reply = Reply()
    for half in ("\ud83d", "\ude00 \ud83d"):
        reply.add(delta(half))
    assert reply.read(Sampling())[0] == "😀 \ufffd"


USED = {"prompt_tokens": 9, "completion_tokens": 5}


@pytest.mark.parametrize(
    "last",
    [
        {"usage": USED | {"prompt_cache_hit_tokens": 4}},
        {"usage": USED | {"cached_tokens": 4}},
        {"usage": {"input_tokens": 9, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 4}}},
        {"choices": [{"delta": {}, "usage": USED | {"cached_tokens": 4}}]},
        {
            "choices": [],
            "x_groq": {"usage": {"prompt_tokens": 9.0, "completion_tokens": 5, "cached_tokens": 4}},
        },
    ],
)
def test_where_servers_put_their_counts(last):
    "DeepSeek, Moonshot (also in the choice), another interface, Groq; zeros behind them are none."
    zeros = {"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}

    async def answer(request, body):
        return await events(request, delta("x", "stop"), last, zeros)

    g = ask(answer, price=PriceConfig(input=1, cached_input=0.1, output=2))[1]
    assert (g.tokens_in, g.tokens_out, g.tokens_cached) == (9, 5, 4)
    assert g.cost == pytest.approx((5 * 1 + 4 * 0.1 + 5 * 2) / 1e6)


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_the_first_token_may_be_a_thought(name):
    "vLLM's and DeepSeek's names; what was thought is no part of the text."

    async def answer(request, body):
        response = await events(request, delta(""), delta(None, **{name: "hm"}), end="")
        await asyncio.sleep(0.2)
        await response.write(f"data: {json.dumps(delta('x', 'stop'))}\n\n".encode())
        return response

    g = ask(answer)[1]
    assert g.text == "x" and g.ttft_ms < 150 and g.latency_ms > 190


@pytest.mark.parametrize("reason", ["error", "abort", "network_error", "insufficient_system_resource"])
def test_a_reason_to_finish_that_is_a_failure(reason):
    async def answer(request, body):
        return await events(request, delta("half"), delta(None, reason))

    fails(EngineError, answer, f"gave up after 2 attempts: .*finish_reason '{reason}'", attempts=2)


@pytest.mark.parametrize(
    "error, kind, words, asked_for",
    [
        ({"message": "pay", "code": 402}, EngineFatal, "no credit left", 1),
        ({"message": "which?", "code": "404"}, EngineFatal, "no such model", 1),
        ({"message": "maximum context length", "code": 400}, EngineError, "^400 .*context length", 1),
        ({"message": "busy", "code": 503}, EngineError, "gave up after 2 attempts: 503", 2),
        ({"message": "odd", "code": 40303}, EngineError, "gave up after 2 attempts: the server broke", 2),
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
def test_an_error_with_a_status_in_its_body(error, kind, words, asked_for, streamed):
    "It means what it would mean as a refusal, whole or in the middle of a stream."
    seen = []

    async def answer(request, body):
        seen.append(body)
        if streamed:
            return await events(request, delta("half"), {"error": error})
        return web.json_response({"object": "error", **error})

    assert type(fails(kind, answer, words, attempts=2)) is kind and len(seen) == asked_for


def test_another_status_of_success():
    async def answer(request, body):
        return web.json_response({"choices": [{"text": "x", "finish_reason": "stop"}]}, status=201)

    assert ask(answer)[1].text == "x"


ASKED_IN_THE_OTHER_FORM = [
    ("completions", 404, "This is a chat model and not supported in the v1/completions endpoint.", "chat"),
    ("completions", 400, "Missing required parameter: 'messages'.", "chat"),
    ("completions", 422, [{"loc": ["body", "messages"], "type": "missing", "msg": "Field required"}], "chat"),
    ("chat", 400, "As of transformers v4.44, default chat template is no longer allowed", "completion"),
]


@pytest.mark.parametrize("api, status, message, form", ASKED_IN_THE_OTHER_FORM)
def test_a_server_that_takes_the_other_form_of_prompts(api, status, message, form):
    "The run ends with what to set; a prompt that is too long is still the fault of one question."
    server = Server("http://localhost/v1", api, "m")
    e = refusal(server, status, json.dumps({"detail": message}))
    assert isinstance(e, EngineFatal) and f"set method.prompt.format: {form}" in str(e)
    long = "maximum context length is 10 tokens, you requested 17 (1 in the messages, 16 in the completion)"
    assert not isinstance(refusal(server, 400, long), EngineFatal)


def test_a_key_that_is_wanted_and_not_sent():
    async def answer(request, body):
        return web.json_response({}, status=401)

    fails(EngineFatal, answer, "wants a key, and none is sent: name its variable in engine.key_env")
    fails(EngineFatal, answer, "refuses the one in MINE", key=KEY, key_env="MINE")


def test_a_page_of_a_proxy_is_no_answer():
    async def answer(request, body):
        return web.Response(text="<html>sign in</html>", content_type="text/html")

    fails(
        EngineError, answer, "gave up after 2 attempts.*sent no JSON but '<html>sign in</html>'", attempts=2
    )


SAID = [
    ([{"error": {"message": "too long"}}], "too long"),
    ({"error": True, "reason": "too long"}, '{"error": true, "reason": "too long"}'),
    ({"error": 1, "message": "too long"}, "too long"),
    ({"error": {"message": "", "type": "too_long"}}, '{"message": "", "type": "too_long"}'),
    ({"error": {"message": "Provider returned error", "metadata": {"raw": "too long"}}}, None),
]


@pytest.mark.parametrize("body, words", SAID)
def test_errors_in_other_forms(body, words):
    server = Server("http://x.org/v1", "chat", "m")
    said = words or "Provider returned error: too long"
    assert str(refusal(server, 400, json.dumps(body))) == f"400 from {server.url}: {said}"


@pytest.mark.parametrize(
    "status, body, words",
    [
        (
            400,
            [{"error": {"message": "API key not valid. Please pass a valid API key."}}],
            "refuses the one in K",
        ),
        (400, {"error": "Incorrect API key provided: xa***."}, "refuses the one in K"),
        (400, {"error": {"message": "foo is not a valid model ID"}}, "no such model"),
        (400, {"error": {"message": "?", "code": "model_not_found"}}, "no such model"),
        (400, {"object": "error", "message": "Invalid model: foo"}, "no such model"),
        (405, {}, "takes no such request"),
        (410, {"error": "The requested model is deprecated"}, "no longer has the model"),
        (429, {"error": {"type": "exceeded_current_quota_error"}}, "no credit left"),
        (403, {"error": {"message": "Your input was flagged for violence"}}, None),
        (403, {"error": "Content violates usage guidelines."}, None),
        (400, {"error": {"message": "The prompt asks whether the API key is an invalid model"}}, None),
    ],
)
def test_refusals_that_mean_another_status(status, body, words):
    "What ends the run, and what is the fault of one prompt."
    e = refusal(Server("http://x.org/v1", "chat", "m", KEY, "K"), status, json.dumps(body))
    assert not e.transient and isinstance(e, EngineFatal) == bool(words) and (words or "") in str(e)


def test_an_address_that_is_not_there():
    "A plain 404: the address may lack /v1, or the server may take chats alone."
    said = str(refusal(Server("http://x.org", "completions", "m"), 404, "Not Found"))
    assert (
        "most addresses end in /v1" in said and "takes chats alone wants method.prompt.format: chat" in said
    )
    said = refusal(
        Server("http://models.org", "chat", "m"), 404, "Not Found"
    )  # in the address, not in the reply
    assert "most addresses end in /v1" in str(said)
    for url, api in (("http://x.org/v1", "chat"), ("http://x.org", "completions")):
        server = Server(url, api, "m")
        assert "model.name or engine.base_url (404" in str(refusal(server, 404, "model m not found"))


def test_a_redirect_is_told():
    async def answer(request, body):
        return web.Response(status=308, headers={"Location": "https://elsewhere.example/v1/completions"})

    fails(EngineFatal, answer, "elsewhere.*https://elsewhere.example/v1/completions.*mend engine.base_url")


def test_an_error_page_is_told_by_its_words():
    page = "<!DOCTYPE html><html><style>h1 {color: red}</style><body><h1>502</h1><hr>nginx</body></html>"
    server = Server("http://x.org/v1", "chat", "m")
    assert str(refusal(server, 502, page)) == f"502 from {server.url}: 502 nginx"
    assert "a < b and c > d" in str(refusal(server, 502, "a < b and c > d"))


# --- tools ---


def test_calls_are_merged_from_their_pieces():
    crumbs = [
        [{"index": 0, "id": "a", "function": {"name": "add", "arguments": ""}}],
        [{"index": 0, "function": {"arguments": '{"x": '}}],
        [{"index": 1, "id": "b", "function": {"name": "sub", "arguments": "{}"}}],
        [{"index": 0, "function": {"arguments": "7}"}}],
    ]

    async def answer(request, body):
        return await events(request, *[delta(tool_calls=c) for c in crumbs], delta(None, "tool_calls"))

    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    server, g = ask(answer, api="chat", prompt=(Message("user", "?"),), sampling=Sampling(tools=[tool]))
    assert (
        g.tool_calls == (ToolCall("add", {"x": 7}), ToolCall("sub", {})) and g.finish_reason == "tool_calls"
    )
    assert server.bodies[0]["tools"] == [tool] and g.ttft_ms is not None


def test_calls_without_an_index_and_calls_in_the_text():
    reply = Reply()
    for name in ("a", "b"):
        reply.add(delta(tool_calls=[{"function": {"name": name, "arguments": {"n": 1}}}]))
    assert reply.read(Sampling())[1] == (ToolCall("a", {"n": 1}), ToolCall("b", {"n": 1}))
    reply = Reply()
    for n in (1, 2):  # Google's calls all have the index 0
        reply.add(delta(tool_calls=[{"index": 0, "function": {"name": "a", "arguments": f'{{"n": {n}}}'}}]))
    assert reply.read(Sampling())[1] == (ToolCall("a", {"n": 1}), ToolCall("a", {"n": 2}))
    reply = Reply()
    reply.add(delta(str(ToolCall("a", {})), "stop"))
    assert reply.read(Sampling(tools=[{"name": "a"}]))[:2] == ("", (ToolCall("a", {}),))


def test_a_conversation_with_calls():
    turns = [
        Message("user", "?"),
        ToolMessage("assistant", "", (ToolCall("a", {}), ToolCall("b", "no json"))),
        ToolMessage("tool", "1", name="a"),
        ToolMessage("tool", "2", name="b"),
        ToolMessage("assistant", "hm", (ToolCall("a", {}),)),
        ToolMessage("tool", "3", name="a"),
    ]
    sent = request_body("m", tuple(turns), Sampling())["messages"]
    ids = [c["id"] for m in sent for c in m.get("tool_calls", ())]
    assert ids == [m["tool_call_id"] for m in sent if m["role"] == "tool"] and len(set(ids)) == 3
    assert sent[1]["content"] is None and json.loads(sent[1]["tool_calls"][1]["function"]["arguments"])


@pytest.mark.slow
def test_a_connection_that_the_server_has_dropped_is_not_used_again(monkeypatch):
    "Nor where this process was too busy to see it dropped: a measurement has one attempt."
    monkeypatch.setattr("llmforge.client._IDLE", 0.1)

    async def answer(request, body):
        return web.json_response({"choices": [{"text": " yes", "finish_reason": "stop"}]})

    async def go(server):
        engine = engine_for(server, attempts=1)
        try:
            await engine.generate("a", Sampling())
            time.sleep(0.8)  # nothing else runs here
            return (await engine.generate("b", Sampling())).text
        finally:
            engine.close()

    dropping = Scripted(answer)
    dropping.keepalive = 0.2
    with in_a_thread(dropping) as server:
        assert asyncio.run(go(server)) == " yes"


def test_what_a_server_cannot_be_asked():
    fails(EngineError, echo, "set method.prompt.format: chat", api="chat")
    fails(EngineError, echo, "engine.api: chat", prompt=(Message("user", "x"),))


# --- patience ---


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("1s", 1),
        ("6m0s", 360),
        ("20ms", 0.02),
        ("1h2m", 3720),
        ("7", 7),
        ("1.5s", 1.5),
        ("", None),
        ("x1s", None),
    ],
)
def test_durations(text, seconds):
    assert seconds_of(text) == seconds


def test_waits_that_servers_ask_for():
    from email.utils import formatdate

    assert requested_wait({"retry-after-ms": "50", "Retry-After": "9"}) == 0.05
    assert 28 < requested_wait({"Retry-After": formatdate(time.time() + 30, usegmt=True)}) <= 30
    assert requested_wait({"Retry-After": formatdate(0, usegmt=True)}) == 0
    both = {"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s"}
    assert requested_wait(both) == 360
    assert requested_wait(both | {"x-ratelimit-remaining-requests": "0"}) == 1
    assert requested_wait({"Retry-After": "soon"}) is requested_wait({"Retry-After": "-5"}) is None
    for moment in (time.time() + 30, (time.time() + 30) * 1000):
        assert 28 < requested_wait({"x-ratelimit-reset": f"{moment:.0f}"}) <= 31
    date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 30))
    assert 28 < requested_wait({"x-ratelimit-reset-requests": date}) <= 30
    assert requested_wait({"Retry-After": "Sat, 01 Jan 2000 00:00:00"}) == 0
    spare = {"x-ratelimit-remaining-requests-day": "9", "x-ratelimit-remaining-tokens-minute": "9"}
    day = {"x-ratelimit-reset-requests-day": "33011.38", "x-ratelimit-reset-tokens-minute": "1.5"}
    assert requested_wait(day | spare) == 1.5 and requested_wait(both, limited=False) is None


def test_limits_are_a_wait_only_where_there_were_too_many_requests():
    "OpenAI tells them with every reply, a failure among them."

    async def answer(request, body):
        if len(server.bodies) == 1:
            return web.json_response({}, status=500, headers={"x-ratelimit-reset-tokens": "6m0s"})
        return await echo(request, body)

    server = Scripted(answer)

    async def go():
        async with server.running():
            engine = engine_for(server)
            g = await engine.generate("x", Sampling())
            engine.close()
            return g

    assert asyncio.run(go()).attempts == 2


@pytest.mark.slow
def test_one_gate_for_all():
    "After a 429 nobody asks until the time is over, though only one was refused."

    async def answer(request, body):
        if len(server.bodies) == 1:
            return web.json_response({}, status=429, headers={"retry-after-ms": "300"})
        return await echo(request, body)

    server = Scripted(answer)

    async def go():
        async with server.running():
            engine = engine_for(server)
            first = asyncio.create_task(engine.generate("first", Sampling()))
            while not engine.patience.gate._until:
                await asyncio.sleep(0.001)
            await asyncio.gather(first, *(engine.generate(str(i), Sampling()) for i in range(20)))
            engine.close()

    asyncio.run(go())
    assert len(server.times) == 22 and server.times[1] - server.times[0] >= 0.28


def test_a_wait_that_is_too_long_ends_the_run():
    async def answer(request, body):
        return web.json_response({}, status=429, headers={"Retry-After": "3600"})

    fails(EngineFatal, answer, "a wait of 3,600 seconds, more than 120")


@pytest.mark.parametrize(
    "status, body, words",
    [
        (401, {}, "wants a key, and none is sent"),
        (402, {}, "no credit left"),
        (403, {}, "wants a key, and none is sent"),
        (404, {}, "no such model"),
        (302, {}, "sends requests elsewhere"),
        (429, {"error": {"code": "insufficient_quota", "message": "pay"}}, "no credit left"),
    ],
)
def test_refusals_that_end_the_run(status, body, words):
    async def answer(request, _):
        return web.json_response(body, status=status, headers={"Location": "http://example.org/"})

    fails(EngineFatal, answer, words)


@pytest.mark.parametrize("status", [400, 413, 422, 501])
def test_refusals_of_one_prompt(status):
    async def answer(request, body):
        return web.json_response({"error": {"message": "context " + "x" * 1000}}, status=status)

    e = fails(EngineError, answer, f"^{status} from .*: context xx")
    assert not isinstance(e, EngineFatal) and not e.transient and len(str(e)) < 400


@pytest.mark.parametrize("status", [408, 409, 500, 503])
def test_failures_in_passing_have_an_end(status):
    async def answer(request, body):
        return web.json_response({}, status=status)

    assert fails(EngineError, answer, f"gave up after 3 attempts: {status}", attempts=3).transient


@pytest.mark.slow
def test_a_server_that_hangs():
    async def answer(request, body):
        await asyncio.sleep(5)

    fails(
        EngineError, answer, "gave up after 2 attempts: no reply within 0.1 seconds", attempts=2, timeout=0.1
    )


def test_a_wait_for_a_connection_is_no_part_of_a_request():
    "Twelve wanted at once over two connections: each is in time, and its latency its own."

    async def answer(request, body):
        await asyncio.sleep(0.05)
        return await echo(request, body)

    async def go():
        async with Scripted(answer).running() as server:
            engine = engine_for(server, limit=2, timeout=0.2, attempts=1)
            found = await asyncio.gather(*(engine.generate(str(i), Sampling()) for i in range(12)))
            engine.close()
            return found

    found = asyncio.run(go())
    assert all(g.latency_ms < 200 for g in found) and max(g.queue_ms for g in found) > 200


def fault(text, n):
    "What the n-th request about a text meets: by hash, so that every run meets the same."
    if int(fingerprint("poison", text, n=8), 16) % 100 == 0:
        return "poison"
    share = int(fingerprint(7, text, n, n=8), 16) % 1000
    limits = {"busy": 100, "broken": 150, "hang": 165}
    return next((name for name, limit in limits.items() if share < limit), "well")


@pytest.mark.slow
def test_a_server_with_every_fault():
    "Ten per cent 429, five 500, one and a half hang, one is poison: all but the poison are answered."
    counts: dict[str, int] = {}

    async def answer(request, body):
        text = asked(body)
        counts[text] = counts.get(text, 0) + 1
        match fault(text, counts[text]):
            case "poison":
                return web.json_response({"error": "too long"}, status=400)
            case "busy":
                return web.json_response({}, status=429, headers={"retry-after-ms": "50"})
            case "broken":
                return web.json_response({}, status=500)
            case "hang":
                await asyncio.sleep(60)
        return await echo(request, body)

    async def go():
        async with Scripted(answer).running() as server:
            engine = engine_for(server, limit=16, timeout=0.5)
            todo = iter(range(300))
            results = {}

            async def worker():
                for i in todo:
                    try:
                        results[f"q{i}"] = await engine.generate(f"q{i}", Sampling())
                    except EngineError as e:
                        results[f"q{i}"] = e

            await asyncio.gather(*(worker() for _ in range(16)))
            engine.close()
            return results

    results = asyncio.run(go())
    poison = {t for t in results if fault(t, 1) == "poison"}
    failed = {t for t, r in results.items() if isinstance(r, EngineError)}
    assert len(results) == 300 and poison and failed == poison
    assert all(g.text == t for t, g in results.items() if t not in poison)
    assert max(counts.values()) <= 4 and all(
        counts[t] == g.attempts for t, g in results.items() if t not in poison
    )


# --- the key ---


def test_a_key_never_leaks(monkeypatch, outputs, caplog):
    "The server repeats the key in its refusals and in its answers; nothing of ours does."

    async def answer(request, body):
        seen = request.headers["Authorization"].removeprefix("Bearer ")
        if "refuse" in asked(body):
            return web.json_response({"error": {"message": f"Incorrect API key: {seen}"}}, status=401)
        if "poison" in asked(body):
            return web.Response(text=f"bad {seen}", status=400)
        return await events(request, {"system_fingerprint": seen, **delta(f"your key is {seen}", "stop")})

    monkeypatch.setenv("PLANTED_KEY", f"  {KEY}\n")
    caplog.set_level("DEBUG")
    facts = {"/version": {"version": KEY}}
    with in_a_thread(Scripted(answer), facts) as server:
        config = experiment(server, key_env="PLANTED_KEY")
        engine = make_engine(config)
        said = [repr(engine.identity), repr(engine.inner.server)]
        for text in ("refuse", "poison"):
            with pytest.raises(EngineError) as e:
                asyncio.run(engine.generate((Message("user", text),), Sampling()))
            said += [str(e.value), repr(e.value), repr(e.value.__cause__)]
        g = asyncio.run(engine.generate((Message("user", "x"),), Sampling(max_tokens=99)))
        said += [repr(g), repr(engine.served), to_yaml(config), caplog.text]
        engine.close()
        store = Store()
        id = run_experiment(config, store, show=False)
        said += [json.dumps(store.rows(id)), repr(store.experiment(id))]
        assert server.headers[-1]["Authorization"] == f"Bearer {KEY}"
    assert "your key is ***" in g.text and "Incorrect API key: ***" in said[2]
    files = [p.read_bytes() for p in outputs.rglob("*") if p.is_file()]
    assert not any(KEY in text for text in said) and not any(KEY.encode() in data for data in files)


def test_keys_that_are_none(monkeypatch):
    for value, words in [("", "is not set"), (" \n", "is not set"), ("a\nb", "control"), ("kéy-1", "ASCII")]:
        monkeypatch.setenv("SOME_KEY", value)
        with pytest.raises(ConfigError, match=words) as e:
            key_in("SOME_KEY")
        assert "a\nb" not in str(e.value) and "kéy-1" not in str(e.value)


def test_a_key_is_sent_only_where_it_belongs(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    chat = {"prompt": {"format": "chat"}}

    def made(**engine):
        return server_of(load_config({"experiment": {"name": "t", "engine": engine, "method": chat}}))

    assert made(name="openai", base_url="https://api.openai.com/v1/").headers["Authorization"]
    assert not made(name="openai", base_url="https://example.org/v1").headers
    assert not made(name="ollama").headers and made(name="ollama").url.endswith("11434/v1/chat/completions")
    monkeypatch.setenv("HF_TOKEN", KEY)
    assert made(name="hf_api", bill_to="my-org").headers["X-HF-Bill-To"] == "my-org"
    assert made(name="hf_api", base_url="http://localhost:1/v1").base_url == "http://localhost:1/v1"


@pytest.mark.parametrize(
    "engine, words",
    [
        ({"name": "openai"}, "experiment.engine.base_url: is missing"),
        ({"name": "openai", "base_url": "ftp://x/v1"}, "experiment.engine.base_url: must be an address"),
        (
            {"name": "ollama", "base_url": "http://x/v1/chat/completions/"},
            "must end before '/chat/completions/'",
        ),
        (
            {"name": "openai", "base_url": f"https://me:{KEY}@x/v1"},
            "experiment.engine.base_url: a name, a password",
        ),
        ({"name": "openai", "base_url": f"https://x/v1?api_key={KEY}"}, "experiment.engine.base_url: a name"),
        (
            {"name": "openai", "base_url": "https://x/v1", "key_env": KEY},
            "experiment.engine.key_env: must be the name",
        ),
        ({"name": "hf_api"}, "experiment.engine.api: chat takes no prompt of the format 'completion'"),
        ({"name": "ollama", "max_cost": 1}, "max_cost: needs price"),
        ({"name": "ollama", "price": {"input": 1}}, "experiment.engine.price.output: is missing"),
        ({"name": "local", "base_url": "https://x/v1"}, "engine 'local' has no address"),
    ],
)
def test_bad_engines(engine, words):
    with pytest.raises(ConfigError) as e:
        load_config({"experiment": {"name": "t", "engine": engine}})
    assert words in str(e.value) and KEY not in str(e.value)


# --- money, ids, names ---


def test_cost_and_budget():
    price = PriceConfig(input=1, cached_input=0.5, output=2)
    g = ask(echo, price=price)[1]
    assert g.cost == pytest.approx((60 * 1 + 40 * 0.5 + 10 * 2) / 1e6)

    async def go():
        async with Scripted(echo).running() as server:
            engine = engine_for(server, price=price, max_cost=0.00015)
            for i in range(2):
                await engine.generate(str(i), Sampling())
            try:
                with pytest.raises(EngineFatal, match="the budget is used up: .0.0002 of engine.max_cost"):
                    await engine.generate("2", Sampling())
            finally:
                engine.close()
            return len(server.bodies)

    assert asyncio.run(go()) == 2


@pytest.mark.parametrize("usage, most, sent", [(USAGE, 0.00015, 2), (USAGE, 1, 40), (None, 1, 1)])
def test_a_budget_holds_for_requests_at_once(usage, most, sent):
    "Forty wanted at once spend no more than forty one after another: one request beyond the budget."

    async def answer(request, body):
        await asyncio.sleep(0.01)
        return await events(request, delta("x", "stop"), {"choices": [], "usage": usage})

    async def go():
        async with Scripted(answer).running() as server:
            price = PriceConfig(input=1, cached_input=0.5, output=2)
            engine = engine_for(server, price=price, max_cost=most)
            wanted = (engine.generate(str(i), Sampling()) for i in range(40))
            found = await asyncio.gather(*wanted, return_exceptions=True)
            engine.close()
            return len(server.bodies), sum(isinstance(f, EngineFatal) for f in found)

    assert asyncio.run(go()) == (sent, 40 - sent)


def test_a_budget_needs_token_counts():
    async def answer(request, body):
        return await events(request, delta("x", "stop"))

    async def go():
        async with Scripted(answer).running() as server:
            engine = engine_for(server, price=PriceConfig(input=1, output=1), max_cost=1)
            assert (await engine.generate("x", Sampling())).cost is None
            with pytest.raises(EngineFatal, match="max_cost cannot be kept"):
                await engine.generate("y", Sampling())
            engine.close()

    asyncio.run(go())


def test_how_a_server_is_asked_is_part_of_no_id():
    def id_of(**engine):
        made = {"name": "t", "engine": {"name": "ollama", **engine}, "dataset": {"name": "meridia"}}
        return experiment_id(load_config({"experiment": made}), "data")

    same = [{"timeout": 5}, {"attempts": 9}, {"concurrency": 3}, {"price": {"input": 1, "output": 1}}]
    assert {id_of(**change) for change in same} == {id_of()}
    assert id_of(base_url="http://localhost:1/v1") != id_of() != id_of(api="completions")
    assert set(EngineConfig().model_dump()) == {"name", "batch_size", "prefix_cache", "cache"}


def test_old_generations_keep_their_form():
    g = Generation("x", 1, 1, 0.0, 0.0, "stop")
    assert fingerprint(g) == fingerprint(replace(g)) != fingerprint(replace(g, cost=1.0))
    assert Generation(**json.loads(json.dumps(asdict(g)))) == g


def test_there_is_one_layer_of_retries():
    with in_a_thread(Scripted(echo)) as server:
        engine = make_engine(experiment(server))
        assert isinstance(engine, CachedEngine) and isinstance(engine.inner, RemoteEngine)
        assert engine.concurrency == 16
        engine.close()
    assert isinstance(
        make_engine(load_config({"experiment": {"name": "t", "engine": "fake"}})).inner, RetryingEngine
    )


def test_what_a_server_says_about_itself():
    models = {"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 4096, "created": 1}, {"id": "other"}]}
    facts = {"/v1/models": models, "/version": {"version": "0.11.2"}}
    with in_a_thread(Scripted(echo), facts) as server:
        engine = make_engine(experiment(server, model="m"))
        assert {k: v for k, v in engine.identity.items() if k not in ("host", "api")} == {
            **{"engine": "remote", "remote": True, "path": "/v1", "model": "m"},
            **{"owned_by": "vllm", "max_model_len": 4096, "version": "0.11.2"},
        }
        before = dict(engine.identity)
        asyncio.run(engine.generate((Message("user", "x"),), Sampling()))
        assert engine.identity == before
        engine.close()


@pytest.mark.parametrize("model", ["llama3.2", "org/name:cheapest", "x:1b"])
def test_a_model_is_listed_under_its_whole_name(model):
    "Ollama adds a tag, Hugging Face's providers are not in its list; a list alone is Together's."

    async def go():
        models = [{"id": name} for name in ("llama3.2:latest", "org/name", "x:1b")]
        async with Scripted(echo).running({"/v1/models": models}) as server:
            asked = Server(server.url, "chat", model)
            return _server_line(asked, await server_facts(asked))

    assert asyncio.run(go()).endswith("lists 3 models, this one")


def test_a_server_that_does_not_say_its_models(monkeypatch):
    monkeypatch.setattr("llmforge.remote._PATIENCE", 0.1)

    async def silent(reader, writer):
        await reader.read()
        writer.close()

    async def go():
        listening = await asyncio.start_server(silent, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
        asked = Server(url, "chat", "m")
        line = _server_line(asked, await server_facts(asked))
        listening.close()
        return line

    assert "has not said in time which models it has" in asyncio.run(go())


def test_a_proxy_of_the_environment(monkeypatch):
    "Asked for other machines only, with the whole address."
    monkeypatch.setenv("no_proxy", "spared.example")

    async def go():
        async with Scripted(echo).running() as proxy:
            monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
            client = Client(Server("http://far.example/v1", "completions", "m"))
            text = (await client.ask("through", Sampling())).reply.parts
            client.sessions.close()
            return text, proxy.headers[0]["Host"]

    assert asyncio.run(go()) == (["through"], "far.example")
    for url in ("http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1", "http://spared.example"):
        assert Server(f"{url}/v1", "chat", "m").proxy is None


@pytest.mark.parametrize("said", [{"data": 5}, {"data": {"m": 1}}, {"data": ["m", None]}, [1]])
def test_lists_of_models_in_odd_forms(said):
    async def go():
        async with Scripted(echo).running({"/v1/models": said}) as server:
            return await server_facts(Server(server.url, "completions", "m"))

    assert asyncio.run(go()) == {"models": [], "version": None, "entries": []}


def test_nobody_there_ends_the_run():
    with pytest.raises(EngineFatal, match="no server answers at http://127.0.0.1:9/v1"):
        asyncio.run(server_facts(Server("http://127.0.0.1:9/v1", "chat", "m")))


def test_a_loop_after_another_and_no_warning():
    "An engine outlives its loops: each has connections of its own, and none is left open."
    with in_a_thread(Scripted(echo)) as server, warnings.catch_warnings():
        warnings.simplefilter("error")
        engine = engine_for(server)
        for _ in range(2):
            assert asyncio.run(engine.generate("x", Sampling())).text == "x"
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(engine.generate("x", Sampling())).text == "x"
        engine.close()
        loop.close()

        async def inside():
            await engine.generate("x", Sampling())
            await asyncio.to_thread(engine.close)
            await engine.generate("x", Sampling())
            engine.close()
            await asyncio.sleep(0)

        asyncio.run(inside())


def test_an_unreachable_server_is_asked_again():
    async def go():
        client = Client(Server("http://127.0.0.1:9/v1", "chat", "m", KEY))
        with pytest.raises(Busy, match="cannot be reached"):
            await client.ask((Message("user", "x"),), Sampling())
        client.sessions.close()

    asyncio.run(go())


# --- experiments ---


def experiment(server, model="m", **engine):
    return load_config(
        {
            "experiment": {
                "name": "remote",
                "model": model,
                "engine": {"name": "openai", "base_url": server.url, **engine},
                "method": {"name": "naive", "shots": 0, "prompt": {"format": "chat"}},
                "dataset": {"name": "meridia", "limit": 6},
            }
        }
    )


def test_an_experiment_and_its_rows(outputs):
    with in_a_thread(Scripted(echo)) as server:
        store, config = Store(), experiment(server, price={"input": 1, "output": 2})
        id = run_experiment(config, store, show=False)
        rows = store.rows(id)
        assert store.experiment(id).status == Status.COMPLETED and len(server.bodies) == 6
        assert all(r["tokens_in"] == 100 and r["tokens_out"] == 10 and r["error"] is None for r in rows)
        spans = [s["attributes"] for r in rows for s in r["trace"]["children"] if s["kind"] == "llm"]
        assert all(s["ttft_ms"] > 0 and s["cost"] and s["tokens_cached"] == 40 for s in spans)
        about = store.experiment(id).provenance_json
        assert about["engine"]["remote"] is True and about["engine"]["model"] == "m"
        assert run_experiment(config, store, show=False) == id and len(server.bodies) == 6


def test_unknown_token_counts_stay_unknown(outputs):
    async def answer(request, body):
        return await events(request, delta(asked(body), "stop"))

    with in_a_thread(Scripted(answer)) as server:
        store = Store()
        id = run_experiment(experiment(server), store, show=False)
        assert {(r["tokens_in"], r["tokens_out"]) for r in store.rows(id)} == {(None, None)}
        result = store.result(id)
        assert result["tokens_used"] is None and result["throughput"] is None
    from llmforge.experiment import Experiment, results_table
    from llmforge.results import cost_line

    e = Experiment(id, store)
    assert "unknown number of tokens" in cost_line(e) and "6 attempted" in results_table(e)


@pytest.mark.slow
@pytest.mark.parametrize("cache", [True, False])
def test_a_run_that_was_ended_goes_on(outputs, cache):
    "Credit runs out at the fourth question: three answers are kept, and asked for by nobody again."
    credit = [3]

    async def answer(request, body):
        if credit[0] <= 0:
            return web.json_response({}, status=402)
        credit[0] -= 1
        return await echo(request, body)

    with in_a_thread(Scripted(answer)) as server:
        store, config = Store(), experiment(server, concurrency=1, cache=cache)
        with pytest.raises(EngineFatal, match="no credit left"):
            run_experiment(config, store, show=False)
        (id,) = store.experiments().id
        assert len(store.rows(id)) == 3 and store.experiment(id).status == Status.RUNNING
        credit[0] = 99
        assert run_experiment(config, store, show=False) == id
        assert len(server.bodies) == 7 and store.experiment(id).status == Status.COMPLETED


def test_a_config_without_its_key(outputs, monkeypatch):
    "One sentence, exit code 2, nothing written."
    monkeypatch.delenv("HF_TOKEN", raising=False)
    result = CliRunner().invoke(command, ["run", "hf_api.yaml"])
    assert result.exit_code == 2 and "HF_TOKEN is not set" in result.output, result.output
    assert result.output.count("\n") == 1 and "Traceback" not in result.output
    assert not outputs.exists() or not list(outputs.iterdir())


def test_check(outputs, tmp_path):
    "Five questions and two trials of a stop string, no row; what a run will use and cost."
    facts = {"/v1/models": {"data": [{"id": "m"}]}, "/version": {"version": "7"}}
    with in_a_thread(Scripted(echo), facts) as server:
        path = tmp_path / "x.yaml"
        path.write_text(to_yaml(experiment(server, price={"input": 1, "output": 2})))
        result = CliRunner().invoke(command, ["check", str(path)])
        assert len(server.bodies) == 7 and not len(Store().experiments())
    assert result.exit_code == 0, result.output
    key, about, answer, stop, scores, cost = result.output.splitlines()
    assert key == "key: none is sent" and "answers, version 7, and lists 1 model, this one" in about
    assert stop.startswith("stop strings: the server ignores them; replies are cut here")
    assert scores == "probabilities of choices: none, engine.api is chat"
    assert answer.startswith("answer: ") and cost == "6 questions × 100 tokens in, 10 out ≈ $0.0007"
    result = CliRunner().invoke(command, ["check", "naive.yaml"])
    assert result.exit_code == 2 and "is no server" in result.output


@pytest.mark.parametrize(
    "end, words",
    [
        (lambda text, stop: text, "ignores them"),
        (lambda text, stop: text.partition(stop)[0] + stop, "leaves them in its replies"),
        (lambda text, stop: text.partition(stop)[0], "the server ends before them"),
        (lambda text, stop: "something else", "answered the same question in another way"),
        (lambda text, stop: None, "not known (500 from"),
    ],
)
def test_check_tries_stop_strings(outputs, end, words):
    "With a piece of the server's own reply; few prices, so many questions cost an unknown sum."

    async def answer(request, body):
        text = " four, five, six"
        if stop := body.get("stop", [])[-1:]:
            text = end(text, stop[0]) if "Count" in asked(body) else text
        if text is None:
            return web.json_response({}, status=500)
        return web.json_response({"choices": [{"text": text, "finish_reason": "stop"}], "usage": USAGE})

    with in_a_thread(Scripted(answer)) as server:
        config = experiment(server)
        prompt = config.method.prompt.model_copy(update={"format": "completion"})
        config = config.model_copy(update={"method": config.method.model_copy(update={"prompt": prompt})})
        lines = list(checks(config))
    assert words in lines[3] and lines[3].startswith("stop strings: ")
    assert "none (the probabilities of choices cannot be had" in lines[4]
    assert lines[5] == "6 questions × 100 tokens in, 10 out at an unknown price"


@pytest.mark.slow
def test_what_a_run_will_cost_stands_before_it(outputs, tmp_path):
    "After five questions, whose rows are rows of the run; without a price nothing is said."
    with in_a_thread(Scripted(echo)) as server:
        path = tmp_path / "x.yaml"
        path.write_text(to_yaml(experiment(server, price={"input": 1, "output": 2})))
        first = CliRunner().invoke(command, ["run", str(path), "--no-notebook"])
        assert first.exit_code == 0 and len(server.bodies) == 6, first.output
        assert "6 questions × 100 tokens in, 10 out ≈ $0.0007" in first.stderr
        path.write_text(to_yaml(experiment(server, model="n")))
        second = CliRunner().invoke(command, ["run", str(path), "--no-notebook"])
        assert second.exit_code == 0 and "≈ $" not in second.output


@pytest.mark.slow
def test_papermill_without_the_key(outputs, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "HF_TOKEN"}
    command = [sys.executable, "-m", "papermill", "nbs/run_experiment.ipynb", str(tmp_path / "out.ipynb")]
    command += ["-p", "config", "hf_api.yaml", "--no-progress-bar"]
    p = subprocess.run(command, cwd=project_root(), capture_output=True, text=True, env=environment)
    assert p.returncode != 0 and "the environment variable HF_TOKEN is not set" in p.stderr
    assert not outputs.exists() or not list(outputs.iterdir())
