"The dashboard in a real browser, on a real server: create, watch, compare; hostile texts; axe; 390 px; dark."

import csv
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import quote

import pytest
from executing import command
from hostile import PAYLOADS, filled, study_of
from playwright.sync_api import expect, sync_playwright
from serving import Model, Served, ended

from llmforge.exports import import_experiment
from llmforge.files import project_root
from llmforge.store import Store

pytest.importorskip("fastapi", reason="the extra `server` is not installed: the dashboard is not tested")
pytestmark = pytest.mark.slow
expect.set_options(timeout=20_000)  # where it takes long, the machine is busy


def reply(prompt):
    "A model that is right on a question or not by its length, and better with a longer answer."
    return " Paris" if len(prompt) % 2 else " Rome"


@pytest.fixture(scope="module")
def model():
    model = Model(reply=reply)
    yield model
    model.close()


@pytest.fixture(scope="module")
def env(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("board")
    return {
        "LLMFORGE_OUTPUTS": str(folder / "outputs"),
        "LLMFORGE_STORE": f"sqlite:///{folder / 'store.db'}",
        "LLMFORGE_DATA": str(folder),
        "LLMFORGE_SERVERS": model.url,
        "LLMFORGE_TOKEN": "a-token-of-the-tests",
    }


@pytest.fixture(scope="module")
def served(env):
    served = Served(env)
    yield served
    ended(served.process)


@pytest.fixture(scope="module")
def chrome(chromium):
    "A browser for all tests; while it is there, this thread cannot call asyncio.run()."
    with sync_playwright() as p:
        chrome = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield chrome
        chrome.close()


@contextmanager
def browser(chrome, served, said=None, **options):
    "A page in a new profile that knows the token; what the browser complains of is kept."
    with chrome.new_context(base_url=served.url, **options) as context:
        page = context.new_page()
        if said is not None:
            context.on("console", lambda m: m.type in ("error", "warning") and said.append(m.text))
            context.on("weberror", lambda e: said.append(str(e.error)))
            context.on("dialog", lambda d: (said.append(d.message), d.dismiss()))
        page.goto(f"/?token={served.token}")
        assert "token" not in page.url
        yield page


def yaml_of(model, name, n, **more):
    return json.dumps(model.config(name, n, **more))


@pytest.fixture(scope="module")
def two(served, model):
    "Two completed runs on the same questions."
    ids = []
    for seed in (1, 2):
        config = model.config(f"run-{seed}", 12, seed=seed)
        config["experiment"]["method"]["prompt"]["template"] = "Q: {question}" + "." * seed
        ids.append(served.http.post("/experiments?run=true", json=config).json()["id"])
    for id in ids:
        served.wait(id)
    return ids


def test_create_watch_compare(chrome, served, model, env, two):
    "A form is filled, the counter moves by itself, and the comparison has the digits of the command."
    said = []
    with browser(chrome, served, said) as page:
        page.get_by_role("link", name="New").click()
        page.get_by_label("YAML").fill(yaml_of(model, "by-hand", 12))
        expect(page.locator("#verdict")).to_contain_text("Valid: by-hand-")
        expect(page.get_by_label("Questions", exact=True)).to_have_value("12")
        page.get_by_label("Seed").fill("7")
        page.get_by_label("Seed").press("Tab")
        expect(page.get_by_label("YAML")).to_have_value(re.compile("seed: 7"))
        model.delay = 0.9
        page.get_by_role("button", name="Create and run").click()
        expect(page.locator(".state")).to_have_text("RUNNING", timeout=20_000)
        seen = set()
        for _ in range(40):
            seen.add(page.locator(".count").inner_text())
            page.wait_for_timeout(100)
        assert len(seen) >= 3 and all(text.endswith("/ 12") for text in seen), seen
        model.delay = 0.02
        expect(page.locator(".state")).to_have_text("COMPLETED", timeout=20_000)
        expect(page.get_by_role("heading", name="Results")).to_be_visible()
        page.goto("/")
        for id in two:
            page.get_by_label(f"compare {id}").check()
        page.get_by_role("button", name="Compare selected").click()
        page.wait_for_load_state()  # the script that follows a choice comes last
        page.locator("select[name=baseline]").select_option(two[0])
        expect(page.locator("tr.baseline")).to_contain_text(two[0])
        printed = command("llmforge", "compare", *two, cwd=project_root(), **env).stdout
        line = next(line for line in printed.splitlines() if line.startswith("| exact match"))
        cells = [c.strip() for c in line.strip("|").split("|")]
        shown = page.locator(".markdown tr", has_text="exact match").first.locator("td").all_inner_texts()
        assert shown == cells
        summary = page.locator("table.list tbody tr").nth(1).inner_text()
        assert cells[3] in summary and cells[4] in summary and cells[5].split()[0] in summary
        page.locator("form.filters select").first.select_option("both wrong")
        rows = page.locator("#pairs-1 tbody tr:visible")
        assert rows.count() and set(rows.locator("td:first-child").all_inner_texts()) == {"both wrong"}
    assert not said, said


def test_the_page_goes_on_over_a_restart(chrome, model, env, served):
    "The server is ended and started again; the page's counter reaches the end without a reload."
    said = []
    model.delay = 0.3
    body = model.config("restart", 20)
    with browser(chrome, served, said) as page:
        id = served.http.post("/experiments?run=true", json=body).json()["id"]
        page.goto(f"/ui/experiments/{id}")
        expect(page.locator(".state")).to_have_text("RUNNING", timeout=20_000)
        ended(served.process)
        port = served.port
        served.__init__({k: v for k, v in env.items()}, port)
        model.delay = 0.05
        expect(page.locator(".state")).to_have_text("COMPLETED", timeout=40_000)
        expect(page.get_by_role("heading", name="Results")).to_be_visible()
    model.delay = 0.02


def test_who_has_no_token_can_give_it(chrome, served):
    "A stranger is shown a styled page with a field for the token, and lands where it was asked for."
    with chrome.new_context(base_url=served.url) as context:
        page = context.new_page()
        page.goto("/ui/studies")
        expect(page.get_by_role("heading", name="No token")).to_be_visible()
        assert not page.get_by_role("link", name="Experiments").count()
        assert page.evaluate("getComputedStyle(document.querySelector('h1')).letterSpacing") != "normal"
        page.get_by_label("Token").fill("wrong")
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_role("heading", name="No token")).to_be_visible()
        page.get_by_label("Token").fill(served.token)
        page.get_by_label("Token").press("Enter")
        expect(page.get_by_role("heading", name="Studies")).to_be_visible()
        assert page.url == served.url + "ui/studies"


def test_what_was_changed_since_the_parent(chrome, served, model, two):
    "From `New like this` to a page that says what differs."
    with browser(chrome, served) as page:
        page.goto(f"/ui/experiments/{two[0]}")
        page.get_by_role("link", name="New like this").click()
        page.get_by_label("Seed").fill("99")
        page.get_by_label("Seed").press("Tab")
        expect(page.locator("#verdict")).to_contain_text(re.compile("Valid: .*questions\\.$"))
        page.get_by_role("button", name="Create only").click()
        part = page.get_by_role("region", name="Parent")
        expect(part.locator("tbody tr")).to_have_text([re.compile("seed.*1.*99")])
        expect(part.get_by_role("link", name=two[0])).to_be_visible()


def test_filters_are_in_the_address(chrome, served, two):
    with browser(chrome, served) as page:
        page.get_by_label("Search").fill("run-2")
        page.get_by_label("Search").press("Enter")
        assert "text=run-2" in page.url
        expect(page.locator("tbody tr")).to_have_count(1)
        page.reload()
        expect(page.locator("tbody tr")).to_have_count(1)
        page.goto("/")
        page.get_by_label("sort by").select_option("name")
        page.wait_for_url("**sort=name**")
        ids = page.locator("tbody tr th a").all_inner_texts()
        assert ids == sorted(ids)
        page.get_by_label("group by").select_option("dataset")
        page.wait_for_url("**group=dataset**")
        expect(page.locator("h2").first).to_have_text("almanac")


def test_no_column_is_cut_off(chrome, served, env):
    "At 1,280 pixels the list shows every column, also with a long id, a file's name and many tokens."
    published = project_root() / "outputs" / "alignment_hh-dpo-trivia_qa-01f2eb7c"
    import_experiment(Store(env["LLMFORGE_STORE"]), published)
    with browser(chrome, served, viewport={"width": 1280, "height": 800}) as page:
        page.goto("/?text=alignment_hh")
        wide = page.locator(".wide").first
        assert wide.evaluate("e => e.scrollWidth <= e.clientWidth")


def test_wrong_configs_are_told_as_typed(chrome, served):
    with browser(chrome, served) as page:
        page.goto("/ui/new")
        expect(page.locator("#verdict")).to_contain_text("Valid")
        page.get_by_label("YAML").fill("experiment: {name: x, retrieval: {name: dense, top_k: 0}, sed: 1}")
        expect(page.locator("#problems li")).to_have_count(2)
        expect(page.locator("#problems")).to_contain_text("did you mean 'seed'")
        page.get_by_label("YAML").fill("experiment: [")
        expect(page.locator("#verdict")).to_contain_text("not valid YAML")


def test_keeping_order(chrome, served, model, two):
    "A note and tags are written, a tag is taken away, an experiment is put aside, and one is deleted."
    id = served.http.post("/experiments?run=true", json=model.config("to-be-deleted", 2)).json()["id"]
    served.wait(id)
    asked = []
    with browser(chrome, served) as page:
        page.goto(f"/ui/experiments/{id}")
        page.get_by_label("Tags").fill("paper  draft")
        page.get_by_label("Note").fill("the first try")
        page.get_by_role("button", name="Save").click()
        page.get_by_role("button", name="Take the tag draft away").click()
        expect(page.locator(".tag")).to_have_count(1)
        expect(page.get_by_label("Note")).to_have_value("the first try")
        page.get_by_label("Tags").fill("no/tag? no")
        page.get_by_role("button", name="Save").click()
        expect(page.locator(".notice")).to_contain_text("is no tag; allowed")
        page.get_by_role("button", name="Archive", exact=True).click()
        expect(page.get_by_role("button", name="Unarchive")).to_be_visible()
        page.goto("/?text=deleted")
        expect(page.locator(".empty")).to_be_visible()
        page.goto("/?text=deleted&archived=with&tag=paper")
        expect(page.locator("tbody tr")).to_have_count(1)
        page.get_by_role("link", name=id).click()
        page.once("dialog", lambda d: (asked.append(d.message), d.dismiss()))
        page.get_by_role("button", name="Delete").click()
        assert served.http.get(f"/experiments/{id}").status_code == 200
        page.once("dialog", lambda d: (asked.append(d.message), d.accept()))
        page.get_by_role("button", name="Delete").click()
        expect(page.get_by_role("heading", name="Experiments")).to_be_visible()
    assert served.http.get(f"/experiments/{id}").status_code == 404
    assert asked[0] == asked[1] and asked[0].startswith(f"Delete {id} with its 2 rows?")


def test_the_cost_is_estimated_before_a_run(chrome, served, model, env):
    "The page says what the command says, to the letter but for times, and what is no server is told."
    with browser(chrome, served) as page:
        page.goto("/ui/new")
        page.get_by_role("button", name="Estimate the cost").click()
        expect(page.locator("#estimate")).to_contain_text("is no server, there is nothing to check")
        page.get_by_label("YAML").fill(yaml_of(model, "priced", 40))
        page.get_by_role("button", name="Estimate the cost").click()
        expect(page.locator("#estimate")).to_contain_text(
            "40 questions × 9 tokens in, 1 out at an unknown price"
        )
        lines = page.locator("#estimate li").all_inner_texts()
    assert lines[-1].startswith("40 questions") and any(line.startswith("server: ") for line in lines)


def test_both_traces_stand_side_by_side(chrome, served, two):
    "From a filtered comparison to one question with what each run did."
    with browser(chrome, served) as page:
        page.goto(f"/ui/compare?ids={two[0]}&ids={two[1]}")
        page.locator("#pairs-1 tbody a[href*=sides]").first.click()
        expect(page.locator(".sides section")).to_have_count(2)
        assert page.locator(".sides h2 a").all_inner_texts() == two
        first, second = page.locator(".sides section").all()
        assert first.locator("details").count() and second.locator("details").count()


def test_votes_are_blind_and_are_rows(chrome, served, two):
    "By keys alone: left, right, tie, skip; no word tells whose an answer is; the table counts them."
    with browser(chrome, served) as page:
        page.goto(f"/ui/compare?ids={two[0]}&ids={two[1]}")
        page.get_by_role("link", name="Vote blind on the answers").click()
        page.get_by_label("Your name").fill("Ada <b>")
        page.get_by_role("button", name="Begin").click()
        total = int(page.locator(".count").inner_text().split("/ ")[1])
        assert total >= 4
        for n, key in enumerate(("ArrowLeft", "ArrowRight", "t", "s")):
            expect(page.locator(".count")).to_have_text(f"{n} / {total}")
            assert not [id for id in two if id in page.locator("main").inner_text()]
            page.wait_for_load_state()  # its script listens
            page.keyboard.press(key)
        expect(page.locator(".count")).to_have_text(f"4 / {total}")
        page.get_by_role("link", name="Change the last vote").click()
        page.get_by_role("button", name="Tie").click()
        expect(page.locator(".count")).to_have_text(f"4 / {total}")
        page.get_by_role("link", name="Result").click()
        cells = page.locator(".markdown tbody tr").first.locator("td").all_inner_texts()
        assert cells[0] == "Ada <b>" and int(cells[1]) + int(cells[2]) == 2 and cells[3:5] == ["2", "0"]
    wrong = {"a": two[0], "b": two[1], "voter": "Ada", "example_id": "q", "said": "left"}
    for change, status in (
        ({}, 409),
        ({"a": "none"}, 404),
        ({"b": "none"}, 404),
        ({"said": "both"}, 422),
        ({"seed": "x"}, 422),
    ):
        body = {**wrong, **change}
        if "said" in change:
            body["example_id"] = served.http.get(f"/experiments/{two[0]}/rows").json()["rows"][0][
                "example_id"
            ]
        assert served.http.post("/votes", json=body).status_code == status, change


def test_csv(served, two):
    answer = served.http.get("/ui/compare.csv", params={"a": two[0], "b": two[1]})
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == 12 and "attachment" in answer.headers["content-disposition"]
    assert {r["outcome"] for r in rows} <= {"regressed", "improved", "both wrong", "both right"}


@pytest.fixture(scope="module")
def hostile(env, tmp_path_factory, served):
    "Experiments and a study made of payloads, in the served store; their ids."
    from pathlib import Path

    from llmforge.marks import Marks, put_marks
    from llmforge.votes import Vote, put_votes

    work = Path(env["LLMFORGE_DATA"])
    texts = [filled(p, work) for p in PAYLOADS]
    with pytest.MonkeyPatch.context() as m:
        for name, value in env.items():
            m.setenv(name, value)
        (work / "outputs").mkdir(exist_ok=True)
        with ThreadPoolExecutor(1) as thread:  # in this one, a browser's loop may be running
            ids = thread.submit(study_of, work, "hostile", texts).result()
        ours = Store()
        theirs = Store(f"sqlite:///{work}/hostile.db")
        for id in ids:
            e = theirs.experiment(id)
            values = {**vars(e), "status": str(e.status.value), "name": texts[9], "label": texts[0]}
            del values["fence"]
            rows, result = theirs.rows(id), theirs.result(id)
            rows[0] |= {"error_type": texts[0], "error": texts[9]}
            ours.put_experiment(values, rows, result)
        shared = rows[0]["example_id"]
        put_votes(ours, [Vote(ids[0], ids[1], shared, text[:60], "left") for text in texts[:20]])
        put_marks(ours, ids[0], Marks(archived=True, tags=("<b>",), note=texts[0]))
        ours.put_plan(theirs.frozen_plan("hostile"))
        ours.close()
        theirs.close()
    return ids


PAGES = (
    "/",
    "/?text=<script>alert(1)</script>&group=model",
    "/ui/experiments/{0}",
    "/ui/compare?ids={0}&ids={1}",
    "/ui/new?like={0}",
    "/ui/studies",
    "/ui/studies/hostile",
    "/ui/prefer?a={0}&b={1}&voter=<img src=x onerror=alert(1)>",
    "/ui/prefer?a=<script>alert(1)</script>",
    "/ui/votes?a={0}&b={1}",
    "/ui/sides?a={0}&b={1}&example={example}",
    "/ui/api",
    "/ui/<img src=x onerror=alert(1)>",
    "/ui/prefer?seed=<img src=x onerror=alert(1)>",
    "/?archived=only",
    "/ui/experiments/<img src=x onerror=alert(1)>",
)
WATCH = """window.violated = [];
addEventListener('securitypolicyviolation', e => violated.push(`${e.violatedDirective}: ${e.blockedURI}`));"""


def test_hostile_texts_act_nowhere(chrome, served, hostile):
    "Every page, all unfolded: no dialog, no script, no request elsewhere, no violation of the policy."
    said = []
    with browser(chrome, served) as page:
        page.context.add_init_script(WATCH)
        page.context.on("dialog", lambda d: (said.append(d.message), d.dismiss()))
        page.context.on(
            "request",
            lambda r: r.url.startswith(served.url) or r.url.startswith("data:") or said.append(r.url),
        )
        traces = served.http.get(f"/experiments/{hostile[0]}/rows", params={"limit": 30}).json()["rows"]
        from llmforge.board import trace_address

        example = quote(traces[0]["example_id"])
        addresses = [p.format(*hostile, example=example) for p in PAGES]
        addresses += [trace_address(hostile[0], r["example_id"]) for r in traces[:8]]
        for address in addresses:
            answer = page.goto(address)
            assert answer.status < 500, (address, served.logged()[-3000:])
            page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            page.wait_for_timeout(150)
            assert page.evaluate("[window.pwned, ...violated].filter(Boolean)") == [], address
            assert "pwned" not in page.title()
            assert page.locator("h1").count() == 1, address
    assert not said, said[:5]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(chrome, served, two, hostile, scheme):
    "No serious finding of axe, and nothing scrolls sideways at 390 pixels, in light and in dark."
    from axe_playwright_python.sync_playwright import Axe

    pages = [
        "/",
        f"/ui/experiments/{two[0]}",
        f"/ui/compare?ids={two[0]}&ids={two[1]}",
        "/ui/new",
        "/ui/studies",
        "/ui/api",
        "/ui/nothing",
    ]
    pages += ["/ui/studies/hostile", "/ui/experiments/none", "/ui/prefer"]
    session = f"a={two[0]}&b={two[1]}"
    pages += [f"/ui/prefer?{session}&voter=Ada", f"/ui/votes?a={hostile[0]}&b={hostile[1]}"]
    [row] = served.http.get(f"/experiments/{two[0]}/rows", params={"limit": 1}).json()["rows"]
    pages += [f"/ui/sides?{session}&example={row['example_id']}"]
    narrow = {"width": 390, "height": 844}
    with browser(chrome, served, color_scheme=scheme, viewport=narrow, bypass_csp=True) as page:
        for address in pages:
            page.goto(address)
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= 390, f"{address}: {width}"
            found = Axe().run(page).response["violations"]
            serious = [v for v in found if v["impact"] in ("serious", "critical")]
            assert not serious, (
                address,
                [
                    (v["id"], v["nodes"][0]["html"][:300], v["nodes"][0].get("failureSummary"))
                    for v in serious
                ],
            )


def test_by_keyboard(chrome, served, two):
    "From the top of the list to a comparison with Tab, Space and Enter alone."
    with browser(chrome, served) as page:
        page.goto("/?text=run-")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        chosen = 0
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.name") == "ids":
                page.keyboard.press("Space")
                chosen += 1
            if chosen == 2:
                break
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Compare", exact=True)).to_be_visible()
