"The REST API behind its guard, on a real uvicorn with a real store: what it does, and what it refuses."

import html
import json
import random
import string
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from executing import command
from serving import Model, Served, ended, started_worker

from llmforge.files import project_root
from llmforge.security import HEADERS, LONGEST_BODY
from llmforge.store import Store

pytest.importorskip("fastapi", reason="the extra `server` is not installed: the API is not tested")
pytestmark = pytest.mark.slow

BLUEPRINT = {  # the request of the blueprint, with the embedded model's stand-in
    "experiment": {
        "id": "exp_001",
        "name": "CoT-vs-Direct",
        "engine": "fake",
        "model": "microsoft/phi-2",
        "method": "chain_of_thought",
        "dataset": {"name": "almanac", "limit": 4},
        "hyperparameters": {"temperature": 0.7, "max_tokens": 256, "top_p": 0.9},
        "seed": 42,
    }
}


@pytest.fixture(scope="module")
def model():
    model = Model()
    yield model
    model.close()


@pytest.fixture(scope="module")
def env(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("server")
    return {
        "LLMFORGE_OUTPUTS": str(folder / "outputs"),
        "LLMFORGE_STORE": f"sqlite:///{folder / 'store.db'}",
        "LLMFORGE_SERVERS": model.url,
    }


@pytest.fixture(scope="module")
def served(env):
    served = Served(env)
    yield served
    served.close()


def test_the_five_endpoints(served):
    "Create, read, run, list and read the metrics, as the blueprint has them."
    created = served.http.post("/experiments", json=BLUEPRINT)
    assert created.status_code == 201, created.text
    id = created.json()["id"]
    assert created.headers["location"] == f"/experiments/{id}" and created.json()["label"] == "exp_001"
    assert served.http.get(f"/experiments/{id}").json()["state"] == "PENDING"
    early = served.http.get(f"/experiments/{id}/metrics")
    assert early.status_code == 409 and "only a completed experiment has results" in early.json()["detail"]
    assert served.http.post(f"/experiments/{id}/run").status_code == 202
    assert served.wait(id)["done"] == 4
    assert id in [e["id"] for e in served.http.get("/experiments").json()["experiments"]]
    metrics = served.http.get(f"/experiments/{id}/metrics").json()
    assert metrics["status"] == "COMPLETED" and metrics["attempted"] == 4
    assert {"value", "low", "high", "n"} <= metrics["accuracy"].keys()
    rows = served.http.get(f"/experiments/{id}/rows", params={"limit": 3}).json()
    rest = served.http.get(f"/experiments/{id}/rows", params={"cursor": rows["next"]}).json()
    assert [r["position"] for r in rows["rows"] + rest["rows"]] == [0, 1, 2, 3] and rest["next"] is None
    trace = served.http.get(f"/experiments/{id}/trace/{rows['rows'][0]['example_id']}").json()
    assert trace["trace"]["children"]
    assert served.http.post(f"/experiments/{id}/run").json()["state"] == "COMPLETED"


def test_the_same_experiment_is_created_once(served, model):
    "Twenty requests at once: one is 201, all name the same experiment, and it runs once."
    before = sum(model.calls.values())
    body = model.config("duplicate", 6)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: served.http.post("/experiments?run=true", json=body), range(20)))
    assert sorted({a.status_code for a in answers}) == [200, 201], answers[0].text
    [id] = {a.json()["id"] for a in answers}
    assert served.wait(id)["done"] == 6 and sum(model.calls.values()) - before == 6


def test_compare_says_what_the_command_says(served, env):
    ids = []
    for seed in (1, 2):
        config = json.loads(json.dumps(BLUEPRINT))
        config["experiment"] |= {"seed": seed, "name": f"compare-{seed}"}
        ids.append(served.http.post("/experiments?run=true", json=config).json()["id"])
    for id in ids:
        served.wait(id)
    found = served.http.get("/compare", params={"ids": ",".join(ids)}).json()
    [run] = found["runs"]
    printed = command("llmforge", "compare", *ids, cwd=project_root(), **env).stdout
    exact = run["metrics"]["exact_match"]
    assert found["baseline"] == ids[0] and run["refused"] is None
    line = next(line for line in printed.splitlines() if "exact match" in line)
    assert f"{exact['difference']:+.3f}" in line and f"{exact['p']:.2g}" in line and str(exact["n"]) in line


def test_paging_and_filters(served):
    listed, cursor = [], ""
    while cursor is not None:
        page = served.http.get("/experiments", params={"limit": 2, "sort": "name", "cursor": cursor}).json()
        listed, cursor = listed + page["experiments"], page["next"]
    names = [e["name"] for e in listed]
    assert names == sorted(names) and len({e["id"] for e in listed}) == len(listed) >= 4
    found = served.http.get("/experiments", params={"text": "COMPARE", "status": "COMPLETED"}).json()
    assert {e["name"] for e in found["experiments"]} == {"compare-1", "compare-2"}
    wrong = served.http.get("/experiments", params={"sort": "acuracy"})
    assert wrong.status_code == 422 and "did you mean 'accuracy'" in wrong.json()["detail"]


def test_errors_are_the_sentences_of_the_command_line(served):
    wrong = {"experiment": {"name": "x", "retrieval": {"name": "dense", "top_k": 0}, "sed": 1}}
    answer = served.http.post("/experiments", json=wrong)
    assert answer.status_code == 422 and answer.headers["content-type"] == "application/problem+json"
    paths = {e["path"]: e["detail"] for e in answer.json()["errors"]}
    assert "must be at least 1; received 0" in paths["experiment.retrieval.top_k"]
    assert "did you mean 'seed'" in paths["experiment.sed"]
    missing = served.http.get("/experiments/duplicat-1")
    assert missing.status_code == 404 and "there is no experiment" in missing.json()["detail"]
    assert served.http.get("/nothing").json()["status"] == 404
    assert served.http.post("/experiments", content=b"{").status_code == 422
    assert served.http.get("/studies").json() == {"studies": []}


def test_a_misspelt_filter_is_told(served):
    "It would be left out, and the list would be that of all experiments."
    wrong = served.http.get("/experiments", params={"modle": "x"})
    assert wrong.status_code == 422 and "did you mean 'model'" in wrong.json()["detail"]


@pytest.mark.parametrize("ids", ["a,a", "a", ",,", ",".join(map(str, range(21)))])
def test_how_many_are_compared(served, ids):
    answer = served.http.get("/compare", params={"ids": ids})
    assert answer.status_code == 422 and "two to 20 different ids" in answer.json()["detail"]


def test_an_address_that_is_none_is_told(served):
    nothing, wrong = served.http.get("/nothing"), served.http.put("/experiments")
    assert nothing.json()["detail"] == "there is nothing at /nothing; /openapi.json lists the endpoints"
    assert wrong.status_code == 405 and "PUT" in wrong.json()["detail"]


def test_the_parent_is_remembered(served, model):
    "An experiment begun from another names it, until that is deleted; a parent that is not there is told."
    parent, child = model.config("parent", 2), model.config("child", 3)
    old = served.http.post("/experiments", json=parent).json()["id"]
    new = served.http.post("/experiments", params={"like": old}, json=child).json()["id"]
    assert served.http.get(f"/experiments/{new}").json()["parent"] == old
    assert served.http.get(f"/experiments/{old}").json()["parent"] is None
    page = served.http.get(f"/ui/experiments/{new}").text
    assert f'Begun from <a href="/ui/experiments/{old}">' in page
    assert served.http.post("/experiments", params={"like": "none"}, json=child).status_code == 404
    assert served.http.delete(f"/experiments/{old}").status_code == 200
    assert served.http.get(f"/experiments/{new}").json()["parent"] is None
    assert served.http.delete(f"/experiments/{new}").status_code == 200


@pytest.mark.parametrize("path", ["nothing", "ui/prefer?seed=x", "experiments/none", "ui/static/none"])
def test_a_browser_is_shown_problems_as_pages(served, path):
    "A program gets JSON, a browser the same sentence on a page, with the same status and headers."
    program = served.http.get("/" + path)
    browser = served.http.get("/" + path, headers={"accept": "text/html,*/*;q=0.8"})
    assert program.headers["content-type"] == "application/problem+json"
    assert browser.headers["content-type"].startswith("text/html")
    assert browser.status_code == program.status_code
    assert html.escape(program.json()["detail"], quote=False)[:30] in html.unescape(browser.text)
    assert all(browser.headers[name] == value for name, value in HEADERS.items())


def test_every_endpoint_is_on_the_page_of_the_api(served):
    described = served.http.get("/openapi.json").json()["paths"]
    page = served.http.get("/ui/api").text
    assert all(path in page for path in described) and "https://" not in page


def test_cancel_and_go_on(served, model):
    "A run that is stopped keeps its rows, is shown as stopped, and goes on with the rest."
    body = model.config("cancelled", 40)
    model.delay = 0.3
    try:
        id = served.http.post("/experiments?run=true", json=body).json()["id"]
        while served.http.get(f"/experiments/{id}").json()["done"] < 4:
            time.sleep(0.05)
        assert served.http.post(f"/experiments/{id}/cancel").status_code == 202
        stopped = served.wait(id, ("stopped",))
        time.sleep(2)
        assert served.http.get(f"/experiments/{id}").json()["done"] == stopped["done"] < 40
    finally:
        model.delay = 0.02
    served.http.post(f"/experiments/{id}/run")
    assert served.wait(id)["done"] == 40


def test_an_experiment_is_deleted_with_its_request(served, model):
    "Not while it runs; and the server goes on with what else is requested."
    model.delay = 0.3
    try:
        body = model.config("deleted", 40)
        id = served.http.post("/experiments?run=true", json=body).json()["id"]
        other = served.http.post("/experiments?run=true", json=model.config("goes-on", 2)).json()["id"]
        served.wait(id, ("RUNNING",))
        refused = served.http.delete(f"/experiments/{id}")
        assert refused.status_code == 409 and "stop it first" in refused.json()["detail"]
        served.http.post(f"/experiments/{id}/cancel")
        served.wait(id, ("stopped",))
    finally:
        model.delay = 0.02
    assert served.http.delete(f"/experiments/{id}").json()["deleted"] == id
    assert served.http.delete(f"/experiments/{id}").status_code == 404
    assert served.wait(other)["done"] == 2


def test_marks_are_changed_a_part_at_a_time(served):
    id = served.http.post("/experiments", json=BLUEPRINT).json()["id"]
    change = lambda **changes: served.http.patch(f"/experiments/{id}", json=changes)
    assert change(tags=["b", "a"], note="n").json()["tags"] == ["a", "b"]
    marked = change(tags=["-b"], archived=True).json()
    assert (marked["tags"], marked["note"], marked["archived"]) == (["a"], "n", True)
    listed = lambda **q: [e["id"] for e in served.http.get("/experiments", params=q).json()["experiments"]]
    assert id not in listed() and id in listed(archived="with") and listed(archived="only", tag="a") == [id]
    for wrong in ({"tags": ["x y"]}, {"note": "x" * 2001}, {"title": "x"}, {"archived": "perhaps"}):
        assert change(**wrong).status_code == 422, wrong
    assert served.http.get("/experiments", params={"archived": "all"}).status_code == 422
    assert change(archived=False).json()["archived"] is False


def test_what_stops_a_run_is_told(served):
    "A server that is not there takes the request back with a sentence; it is not tried for ever."
    strange = {"name": "openai", "base_url": "http://localhost:8000/v1", "attempts": 1}
    body = {"experiment": {"name": "no-server", "engine": strange, "method": {"shots": 0}}}
    body["experiment"]["dataset"] = {"name": "almanac", "limit": 2}
    id = served.http.post("/experiments?run=true", json=body).json()["id"]
    e = served.wait(id, ("FAILED", "stopped", "COMPLETED", "PENDING"))
    assert e["requested_at"] is None and (e["stopped_by"] or e["error"] or e["failed"] == 2)


def test_events_follow_a_run(served, model):
    "The stream tells what is, then what changes, to twenty clients at once; none gets an error."
    body = model.config("watched", 10)
    model.delay = 0.2
    id = served.http.post("/experiments?run=true", json=body).json()["id"]

    def watch(_):
        counts = []
        with served.http.stream("GET", "/events", params={"ids": id}, timeout=60) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    e = json.loads(line[6:])
                    counts.append(e["done"])
                    if e["state"] == "COMPLETED":
                        return counts

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(watch, range(20)))
    assert all(counts == sorted(counts) and counts[-1] == 10 and len(counts) >= 3 for counts in found)
    model.delay = 0.02


# --- who may speak to it


def get(served, path="/experiments", **headers):
    return httpx.request("GET", served.url + path.lstrip("/"), headers=headers)


def test_a_token_is_needed(served):
    for wrong in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {served.token}"}):
        answer = get(served, **wrong)
        assert answer.status_code == 401 and "llmforge serve" in answer.json()["detail"]
        assert answer.headers["www-authenticate"] == "Bearer"
    assert get(served, cookie=f"llmforge-{served.port}={served.token}").status_code == 401
    assert get(served, "/healthz").json() == {"status": "ok"}
    assert get(served, "/openapi.json").status_code == get(served, "/ui/api").status_code == 401
    assert get(served, "/ui/static/board.css").status_code == 200
    for path in ("/ui/static/../../experiments", "/ui/static/%2e%2e/%2e%2e/experiments", "/ui/staticx"):
        assert get(served, path).status_code in (401, 404), path


def test_the_link_becomes_a_cookie(served):
    with httpx.Client(base_url=served.url) as browser:
        answer = browser.get("/experiments", params={"token": served.token, "limit": 1})
        assert answer.status_code == 303 and answer.headers["location"] == "/experiments?limit=1"
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and served.token not in cookie
        assert browser.get(answer.headers["location"]).status_code == 200
        again = browser.get("/", params={"token": served.token, "sort": "name"})
        assert again.headers["location"] == "/?sort=name", "the token stays in the address of who knows it"
        outside = browser.get(served.url + "/evil.example/", params={"token": served.token})
        assert outside.headers["location"] == "/evil.example/"


def test_another_name_is_refused(served):
    "DNS rebinding: the browser thinks that it speaks to the page's own server."
    known = {"authorization": f"Bearer {served.token}"}
    for host in ("evil.example", f"evil.example:{served.port}", "127.0.0.1.evil.example", "", "[", "a@b"):
        assert get(served, host=host, **known).status_code == 421, host
    for host in (f"localhost:{served.port}", "127.0.0.1", "[::1]:1", "LOCALHOST."):
        assert get(served, host=host, **known).status_code == 200, host


def test_another_site_cannot_write(served):
    known = {"authorization": f"Bearer {served.token}"}
    for strange in (
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": f"http://127.0.0.1:{served.port + 1}"},
    ):
        answer = httpx.post(served.url + "experiments", json=BLUEPRINT, headers=known | strange)
        assert answer.status_code == 403, strange
        assert httpx.get(served.url + "experiments", headers=known | strange).status_code == 200
    ours = {"origin": served.url.rstrip("/"), "sec-fetch-site": "same-origin"}
    assert httpx.post(served.url + "experiments", json=BLUEPRINT, headers=known | ours).status_code == 200
    assert "access-control-allow-origin" not in get(served, origin="http://evil.example", **known).headers


def test_a_body_has_an_end(served):
    long = b" " * (LONGEST_BODY + 1)
    assert served.http.post("/experiments", content=long).status_code == 413

    def pieces():
        for _ in range(30):
            yield b" " * 100_000

    assert served.http.post("/experiments", content=pieces()).status_code == 413


def test_every_answer_carries_the_headers(served):
    answers = [served.http.get("/experiments"), served.http.get("/nothing"), get(served)]
    for answer in (*answers, served.http.post("/experiments", json=[])):
        assert all(answer.headers[name] == value for name, value in HEADERS.items())
        assert "server" not in answer.headers


def engine(**more):
    return {"experiment": {"name": "x", "engine": {"name": "openai", **more}}}


def chat(**engine):
    return {"experiment": {"name": "x", "engine": engine, "method": {"prompt": {"format": "chat"}}}}


@pytest.mark.parametrize(
    "body, field",
    [
        (engine(base_url="http://169.254.169.254/latest"), "engine.base_url"),
        (engine(base_url="http://127.0.0.1:6379"), "engine.base_url"),
        (engine(base_url="http://localhost:8000.evil.example/v1"), "engine.base_url"),
        (engine(base_url="http://localhost:8000/v1", key_env="LLMFORGE_TOKEN"), "engine.key_env"),
        (chat(name="hf_api", key_env="AWS_KEY"), "engine.key_env"),
        (
            {"experiment": {"name": "x", "retrieval": {"name": "dense", "url": "http://10.0.0.1:6333"}}},
            "retrieval.url",
        ),
        (
            {"experiment": {"name": "x", "method": {"name": "react", "agent": {"wikipedia": "live"}}}},
            "method.agent.wikipedia",
        ),
        ({"experiment": {"name": "x", "model": "/etc"}}, "model.name"),
        ({"experiment": {"name": "x", "model": "../model"}}, "model.name"),
        ({"experiment": {"name": "x", "model": "C:\\models"}}, "model.name"),
        ({"experiment": {"name": "x", "dataset": "../../etc/x.jsonl"}}, "dataset.name"),
        ({"experiment": {"name": "x", "dataset": ".git/x.jsonl"}}, "dataset.name"),
        ({"experiment": {"name": "x", "dataset": {"exemplars": "/tmp/x.jsonl"}}}, "dataset.exemplars"),
        ({"experiment": {"name": "x", "retrieval": "dense", "corpus": "/etc/"}}, "corpus.name"),
        ({"experiment": {"name": "x", "retrieval": {"name": "dense", "embedding": "/m"}}}, "embedding"),
        ({"experiment": {"name": "x"}, "extends": "rag_hybrid.yaml"}, "extends"),
        ({"yaml": "extends: rag_hybrid.yaml\nexperiment: {name: x}"}, "extends"),
        ({"yaml": "experiment: {name: x, model: !!python/object/apply:os.system [ls]}"}, "YAML"),
    ],
)
def test_a_config_from_outside_does_not_reach_further(served, body, field):
    answer = served.http.post("/experiments", json=body)
    assert answer.status_code == 422 and field in answer.json()["detail"], answer.text


def test_another_address_needs_a_chosen_token(env):
    for token, said in (("", "has 0"), ("short", "has 5")):
        more = {"LLMFORGE_TOKEN": token} if token else {}
        given = ("serve", "--address", "0.0.0.0", "--port", "0")
        p = command("llmforge", *given, cwd=project_root(), **env, **more)
        assert p.returncode == 2 and said in p.stderr and "secrets.token_urlsafe" in p.stderr


# --- what anybody may send


def strange_value(rng, depth=0):
    kinds = ["text", "number", "none", "bool", "list", "map", "big"]
    match rng.choice(kinds if depth < 4 else kinds[:4]):
        case "text":
            alphabet = string.printable + "\0\u2028\ud800é€\U0001f600{}<>&'\""
            return "".join(rng.choices(alphabet, k=rng.randrange(40)))
        case "number":
            return rng.choice([0, -1, 1, 3.5, 1e308, -0.0, 2**63, 10**40, float("nan"), float("inf")])
        case "list":
            return [strange_value(rng, depth + 1) for _ in range(rng.randrange(4))]
        case "map":
            return {
                str(strange_value(rng, 4)): strange_value(rng, depth + 1) for _ in range(rng.randrange(4))
            }
        case "big":
            return "x" * rng.randrange(20_000)
        case "bool":
            return rng.random() < 0.5
    return None


def mutated(rng, value, depth=0):
    "A valid body with something wrong in it."
    if rng.random() < 0.04:
        return strange_value(rng)
    if isinstance(value, dict):
        changed = {k: mutated(rng, v, depth + 1) for k, v in value.items() if rng.random() > 0.02}
        if rng.random() < 0.02:
            changed[rng.choice(["yaml", "extends", "x", "", "id", "name"])] = strange_value(rng)
        return changed
    return value


FULL = {
    "experiment": {
        "name": "fuzz",
        "model": {"name": "m", "dtype": "float32"},
        "engine": {"name": "fake", "batch_size": 4},
        "method": {"name": "react", "shots": 0, "agent": {"tools": ["calculator"], "max_steps": 3}},
        "retrieval": {"name": "sparse", "top_k": 3, "weights": {"dense": 1.0, "sparse": 1.0}},
        "dataset": {"name": "almanac", "limit": 2, "skip": 1, "kinds": ["single_hop"]},
        "corpus": {"name": "almanac", "limit": 5},
        "sampling": {"temperature": 0.5, "top_p": 0.9, "max_tokens": 8},
        "metrics": {"accuracy": "f1", "extra": [], "resamples": 100},
        "seed": 3,
    }
}


def test_a_thousand_strange_bodies(served):
    "No body is an error of the server: each is created or refused with a sentence."
    rng, seen = random.Random(17), {}
    for i in range(1000):
        body = strange_value(rng) if i % 5 == 0 else mutated(rng, FULL)
        if i % 10 == 3:
            content = bytes(rng.randrange(256) for _ in range(rng.randrange(200)))
        elif i % 10 == 7:
            content = json.dumps({"yaml": json.dumps(body)[: rng.randrange(400)]}).encode()
        else:
            content = json.dumps(body).encode()
        path = rng.choice(["/experiments", "/check"])
        answer = served.http.post(path, content=content, headers={"content-type": "application/json"})
        seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
        assert answer.status_code < 500, (answer.status_code, content[:300], served.logged()[-1500:])
        assert answer.status_code < 300 or answer.json()["detail"]
    assert seen[422] > 100 and seen.get(200, 0) + seen.get(201, 0) > 20, seen
    deep = b'{"experiment": ' + b"[" * 90_000 + b"]" * 90_000 + b"}"
    assert served.http.post("/experiments", content=deep).status_code in (400, 422)
    for path in (
        "/experiments/%00",
        "/experiments/..%2f..%2fetc",
        "/experiments?cursor=%ff",
        "/compare?ids=,,",
        "/experiments?limit=0",
        "/experiments?limit=x",
        "/events",
        "/experiments/a/trace/b?cursor=(",
    ):
        assert 400 <= served.http.get(path).status_code < 500, path


# --- the server goes and comes back


def test_a_killed_server_loses_nothing(tmp_path, model):
    "SIGKILL of the server in the middle; the next one goes on, and no question has two rows."
    env = {
        "LLMFORGE_OUTPUTS": str(tmp_path / "outputs"),
        "LLMFORGE_STORE": f"sqlite:///{tmp_path / 'store.db'}",
        "LLMFORGE_SERVERS": model.url,
    }
    model.delay, before = 0.1, sum(model.calls.values())
    first = Served(env)
    ids = [
        first.http.post("/experiments?run=true", json=model.config(f"killed-{i}", 12)).json()["id"]
        for i in range(3)
    ]
    first.wait(ids[0], ("RUNNING", "COMPLETED"))
    first.process.kill()
    first.process.wait()
    second = Served(env)
    try:
        assert [second.wait(id)["done"] for id in ids] == [12, 12, 12]
        assert sum(model.calls.values()) - before == 36  # the run outlives its server
    finally:
        second.close()
        model.delay = 0.02


def test_a_terminated_server_stops_its_run(tmp_path, model):
    "SIGTERM ends the run within seconds, and keeps the request: the next server goes on."
    env = {
        "LLMFORGE_OUTPUTS": str(tmp_path / "outputs"),
        "LLMFORGE_STORE": f"sqlite:///{tmp_path / 'store.db'}",
        "LLMFORGE_SERVERS": model.url,
    }
    model.delay = 0.3
    try:
        first = Served(env)
        id = first.http.post("/experiments?run=true", json=model.config("ended", 30)).json()["id"]
        while first.http.get(f"/experiments/{id}").json()["done"] < 2:
            time.sleep(0.05)
        ended(first.process)
        calls = sum(model.calls.values())
        time.sleep(1)
        store = Store(env["LLMFORGE_STORE"])
        done = len(store.done(id))
        assert (
            sum(model.calls.values()) - calls <= 2
            and done < 30
            and not store.lease_left(store.experiment(id))
        )
    finally:
        model.delay = 0.02
    worker = started_worker(env, "--burst")
    assert worker.wait(60) == 0 and len(store.done(id)) == 30
    assert store.experiment(id).status == "COMPLETED"
    store.close()
