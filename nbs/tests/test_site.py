"The site, built once from what is published and from experiments of a hostile model; see also test_browser."

import json
import os
import re
import shutil
import socket
import urllib.request
from dataclasses import replace
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup
from selectolax.lexbor import LexborHTMLParser
from typer.testing import CliRunner

from llmforge.card import save_card
from llmforge.cards import make_card
from llmforge.cli import app
from llmforge.contrasts import arm_lines, arms_of
from llmforge.core import DataError
from llmforge.docs import WINGS, lessons_by_wing
from llmforge.experimentpages import reproduce
from llmforge.files import project_root
from llmforge.pages import executed_cells
from llmforge.policy import check_pages
from llmforge.published import about_these, bound, pair_page, published

pytestmark = pytest.mark.slow
ROOT = project_root()
HYBRID = "retrieval-hybrid-almanac-4f4c2810"


@pytest.fixture(scope="module")
def all_pages(built):
    "Path from the site's root -> the page, parsed as browsers do."
    return {
        p.relative_to(built[0]).as_posix(): LexborHTMLParser(p.read_text(encoding="utf-8"))
        for p in sorted(built[0].rglob("*.html"))
        if "_static" not in p.parts
    }


class Pages(dict):
    "Path from the site's root -> the page for those who look at a few: parsed when it is asked for."

    def __init__(self, site):
        self.site = site

    def __missing__(self, name):
        self[name] = BeautifulSoup((self.site / name).read_text(encoding="utf-8"), "html.parser")
        return self[name]


@pytest.fixture(scope="module")
def pages(built):
    return Pages(built[0])


@pytest.fixture(scope="module")
def p(built):
    "What is published, read again."
    return published(built[1])


def test_a_page_for_everything(all_pages, p):
    wanted = [
        "index.html",
        "findings/index.html",
        "leaderboard.html",
        "experiments/index.html",
        "compare.html",
        "learn/index.html",
        "api/index.html",
        "architecture.html",
        "cards/index.html",
        "benchmarks.html",
        "limitations.html",
        "future.html",
        "design/index.html",
        *(f"learn/wing-{wing}.html" for wing in lessons_by_wing()),
    ]
    wanted += [f"experiments/{id}.html" for id in p.experiments] + [
        f"findings/{name}.html" for name in p.studies
    ]
    wanted += [f"learn/{f.stem}.html" for f in (ROOT / "nbs").glob("[0-9][0-9]_*.ipynb")] + [
        f"api/{f.stem.split('_', 1)[1]}.html" for f in (ROOT / "nbs").glob("[0-9][0-9]_*.ipynb")
    ]
    wanted += [f"learn/tutorials/{f.stem}.html" for f in (ROOT / "nbs" / "tutorials").glob("*.ipynb")]
    assert set(wanted) <= set(all_pages) and len(p.studies) >= 5
    for name, page in all_pages.items():
        assert page.css_first("title") and (
            name in ("genindex.html", "search.html") or len(page.css("article h1")) == 1
        ), name


def test_nothing_is_loaded_from_elsewhere(all_pages, built):
    "No script, style, font, picture or frame of another machine; in style sheets neither."
    for name, page in all_pages.items():
        for tag in page.css("script, img, iframe, source, video, audio, embed, object, link"):
            given = tag.attributes
            url = given.get("src") or given.get("data") or (given.get("href") if tag.tag == "link" else "")
            assert not re.match(r"(https?:)?//", url or ""), f"{name}: {tag.html}"
    for css in built[0].rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", css.read_text(encoding="utf-8")), css


def test_every_internal_link_leads_somewhere(all_pages):
    "Files and anchors, followed here by other code than the builder's."
    ids = {
        name: {t.attributes["id"] for t in page.css("[id]")}
        | {t.attributes["name"] for t in page.css("a[name]")}
        for name, page in all_pages.items()
    }
    files = set(ids)
    for name, page in all_pages.items():
        for href in (a.attributes["href"] or "" for a in page.css("a[href]")):
            url, _, fragment = href.partition("#")
            if re.match(r"[a-z]+:", url) or url.startswith("//"):
                continue
            target = (
                os.path.normpath(os.path.join(os.path.dirname(name), urllib.request.unquote(url)))
                if url
                else name
            )
            if not target.endswith(".html"):
                continue
            assert target in files, f"{name}: {href}"
            if fragment and target not in ("compare.html", "trace.html"):
                assert urllib.request.unquote(fragment) in ids[target] | {"top"}, f"{name}: {href}"


def test_ids_are_unique(all_pages):
    for name, page in all_pages.items():
        ids = [t.attributes["id"] for t in page.css("article [id]")]
        assert len(ids) == len(set(ids)), f"{name}: {sorted(i for i in ids if ids.count(i) > 1)[:3]}"


def test_hostile_text_is_text(pages, all_pages, built, p):
    "What the model, the questions and the notebook's outputs say is shown, and acts on no page."
    id = built[2][0]
    for name in [f"experiments/{i}{page}" for i in built[2] for page in (".html", "/experiment.html")]:
        page = pages[name]
        assert 'document.title="pwned"' in page.article.get_text()
    for name, page in all_pages.items():
        for tag in page.css("*"):
            given = tag.attributes
            assert not any(k.startswith("on") for k in given), f"{name}: {tag.tag} {given}"
            urls = [(given.get(k) or "").strip().lower() for k in ("href", "src", "action")]
            assert not any(url.startswith("javascript:") for url in urls), f"{name}: {given}"
        assert not any("pwned" in s.text() or "alert(" in s.text() for s in page.css("script")), name
        assert not page.css("img[src=x]"), name
    table = pages[f"experiments/{id}.html"].find(id="rows-table")
    assert (
        len(table.tbody.find_all("tr")) == len(p.experiments[id].rows) >= 4
        and "javascript:alert(1)" in table.get_text()
        and not table.find_all(["b", "i", "script"])
    )


def test_two_clicks_from_a_finding_to_its_row_and_the_command(all_pages):
    "Sentence on Findings -> the arms side by side -> the row, on whose page the command is."
    home = all_pages["findings/index.html"]
    sentences = home.css("li.claim a.bound")
    assert len(sentences) >= 14 and all(re.search(r"\d", a.text()) for a in sentences)
    for a in sentences:
        second = os.path.normpath("findings/" + a.attributes["href"].split("#")[0])
        rows = all_pages[second].css("#pairs-table tbody td a.bound")
        assert rows, second
        url, anchor = rows[0].attributes["href"].split("#")
        page = all_pages[os.path.normpath(os.path.join(os.path.dirname(second), url))]
        assert (
            page.css_first(f'[id="{anchor}"]').tag == "tr"
            and "llmforge run outputs/" in page.css_first("#reproduce").text()
        )


def test_numbers_on_a_study_page_are_those_of_the_rows(pages, p):
    for name, s in p.studies.items():
        text = pages[f"findings/{name}.html"].article.get_text()
        for v in p.verdicts(name):
            assert v.sentence(arm_lines(arms_of(s)).get).rsplit(": ", 1)[0] in text
        for e in arms_of(s).values():
            assert e.id in text
    e = p.experiments["retrieval-hybrid-almanac-4f4c2810"]
    rows = pages[f"experiments/{e.id}.html"].select("#rows-table tbody tr")
    assert (
        len(rows) == 100
        and sum(r["data-outcome"] == "right" for r in rows) / 100 == e.estimate("accuracy").value
    )


def test_a_study_that_was_run_again_says_so(pages, p):
    "Its page is kept and marked, its claims do not count: the page of findings names it below those that do."
    assert p.replaced["retrieval"] == "retrieval_2" and p.replaced["reasoning"] == "reasoning_2"
    findings = pages["findings/index.html"]
    for old, new in p.replaced.items():
        quote = pages[f"findings/{old}.html"].find("blockquote")
        assert quote.get_text().startswith("\nReplaced.") and quote.a["href"].endswith(f"{new}.html")
        claims = [a for a in findings.select("li.claim a") if f"/{old}/" in f"/{a['href']}"]
        assert not claims and findings.find("a", href=f"{old}.html")
        assert not any(
            q.get_text().startswith("\nReplaced.") for q in pages[f"findings/{new}.html"]("blockquote")
        )


def test_every_row_leads_to_its_trace(all_pages, built, p):
    "On its page, or on the page that draws it, from data smaller than the rows; or it says so."
    for e in p.experiments.values():
        page, data = all_pages[f"experiments/{e.id}.html"], built[0] / "data" / "traces" / f"{e.id}.js"
        drawn = json.loads(data.read_text().split(" = ", 1)[1][:-2])["rows"] if data.exists() else {}
        for row, stored in zip(page.css("#rows-table tbody tr"), e.rows):
            link, at = row.css("td")[-1].css_first("a"), str(stored["position"])
            if link is None:
                assert not stored["trace"].get("children") and at not in drawn
            else:
                assert drawn[at]["trace"]["head"][1] and link.attributes["href"] in (
                    f"#trace-{at}",
                    f"../trace.html#e={e.id}&row={at}",
                )
        if drawn:
            assert data.stat().st_size < (built[1] / e.id / "runs.jsonl").stat().st_size
    linked = all_pages[f"experiments/{HYBRID}.html"].css("#rows-table a[href*='trace']")
    assert len(linked) == 100


def test_leaderboards_and_rows_lead_to_files(pages, built):
    board = pages["leaderboard.html"]
    assert len(board.select("article table")) >= 6 and board.select_one("article table td a.bound")[
        "href"
    ].endswith("#rows")
    for f in ("runs.jsonl", "config.yaml", "result.json"):
        assert (built[0] / "rows" / "retrieval-hybrid-almanac-4f4c2810" / f).read_bytes() == (
            built[1] / "retrieval-hybrid-almanac-4f4c2810" / f
        ).read_bytes()


def test_search_knows_functions_studies_and_lessons(built):
    "Sphinx's index, as the page's script reads it."
    text = (built[0] / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))

    def where(term):
        found = [index[part].get(term, []) for part in ("terms", "titleterms")]
        return {index["docnames"][i] for f in found for i in (f if isinstance(f, list) else [f])}

    assert "learn/10_stats" in where("bootstrap") and "findings/retrieval" in where("rerank")
    functions = {o[4] for objects in index["objects"].values() for o in objects}
    assert {"paired_difference", "build_site"} <= functions


def test_lessons_show_their_code(pages):
    "Exported cells are visible, directives are not, stored outputs are."
    text = pages["learn/10_stats.html"].article.get_text()
    assert "def estimate(" in text and "#| export" not in text


def test_lessons_show_their_pictures(all_pages):
    "Every picture among the stored outputs of a lesson, a tutorial or a notebook to be executed."
    counted = {}
    for path in [*(ROOT / "nbs").glob("[0-9r]*_*.ipynb"), *(ROOT / "nbs" / "tutorials").glob("*.ipynb")]:
        cells = json.loads(path.read_text())["cells"]
        stored = [o for c in cells for o in c.get("outputs", ()) if "image/png" in o.get("data", {})]
        name = path.relative_to(ROOT / "nbs").with_suffix("").as_posix()
        shown = all_pages[f"learn/{name}.html"].css("article .cell_output img")
        counted[name] = len(stored), len(shown)
    assert all(stored == shown for stored, shown in counted.values()), counted
    assert counted["69_plots"][0] >= 6


def test_api_has_signatures_and_docments(pages, all_pages):
    page = pages["api/claims.html"]
    entry = page.find(id="llmforge.claims.LeaseStore.claim")
    assert "seconds that the lease lives" in entry.parent.get_text()  # a method, with its docments
    assert not page.find(id="llmforge.claims.Lease")  # it has its place on another page
    models = [page.text() for name, page in all_pages.items() if name.startswith("api/")]
    assert any("branch, tag or commit" in text for text in models)  # pydantic's descriptions


def test_architecture_is_drawn_from_imports(pages):
    page = pages["architecture.html"]
    boxes = {a.get_text(): a["href"] for a in page.select("svg.modules a")}
    modules = {f.stem.split("_", 1)[1]: f.stem for f in (ROOT / "nbs").glob("[0-9][0-9]_*.ipynb")}
    assert boxes == {name: f"learn/{stem}.html" for name, stem in modules.items()}
    rows = [
        [cell.get_text(strip=True) for cell in row.find_all("td")] for row in page.select("article table tr")
    ]
    layers = {row[1]: (row[0], row[3].split(", ")) for row in rows if len(row) == 4}
    assert {name: number for name, (number, _) in layers.items()} == {n: s[:2] for n, s in modules.items()}
    assert "core" in layers["files"][1] and layers["core"][1] == ["–"]


def test_learn_is_grouped_by_wing(pages):
    "The navigation lists wings and not dozens of lessons; each wing's page lists its lessons."
    learn = pages["learn/index.html"]
    titles = [heading.get_text().rstrip("#") for heading in learn.select("article h3")]
    assert titles == [WINGS[wing][0] for wing in lessons_by_wing()]
    first, second, third = (h.get_text().rstrip("#") for h in learn.select("article h2"))
    assert (first, second, third) == ("Tutorials", "Notebooks to be executed", "Lessons")
    for wing, paths in lessons_by_wing().items():
        links = [
            a["href"] for a in pages[f"learn/wing-{wing}.html"].select("article li > p > a, article li > a")
        ]
        assert links == [f"{path.stem}.html" for path in paths]
    entries = learn.select(".bd-links li.toctree-l1.current > details > ul > li")
    hrefs = [e.a["href"] for e in entries]
    assert len(hrefs) < 30 and not any(re.fullmatch(r"\d\d_.*", href) for href in hrefs)


def test_every_design_page_is_listed(pages):
    "Whatever is in nbs/site/design/, also nothing."
    written = {f.stem for f in (ROOT / "nbs" / "site" / "design").glob("*.md")} - {"index"}
    listed = {a["href"] for a in pages["design/index.html"].select("article li a")}
    assert listed >= {f"{name}.html" for name in written}
    assert written or "Nothing is written down yet" in pages["design/index.html"].article.get_text()


def test_pictures_have_words(all_pages):
    for name, page in all_pages.items():
        if not name.startswith(("learn/", "cards/")) and "/experiment" not in name and "/study" not in name:
            assert all(len(img.attributes.get("alt") or "") > 10 for img in page.css("article img")), name


def test_the_commands_of_the_home_page_are_the_readmes(pages):
    readme = (ROOT / "README.md").read_text()
    commands = [c.get_text().strip() for c in pages["index.html"].select("article div.highlight pre")]
    assert len(commands) == 2 and all(c in readme for c in commands)


def test_tables_are_tables(all_pages):
    "No page shows the bars of a Markdown table, outside code."
    bars = re.compile(r"\|\s*(?:-{3}|—|–)\s*\|.*")
    for path, page in all_pages.items():
        prose = LexborHTMLParser(page.html)
        prose.strip_tags(["pre", "code", "td"])
        texts = [article.text(separator="\0") for article in prose.css("article")]
        assert not (loose := bars.search(" ".join(texts))), (path, loose[0][:80])


@pytest.mark.parametrize(
    "text, says",
    [
        ("{{nothing:accuracy}}", "nothing called 'nothing' is published"),
        ("{{retrieval/H9:effect}}", "no such value"),
        ("{{retrieval-hybrid-almanac-4f4c2810:recall@77}}", "no value"),
        ("{{retrieval/H1:effect:.zz}}", "resolves to nothing"),
        ("{{ retrieval }}", "is no bound number"),
        ("{{retrieval/none/nowhere:accuracy}}", "resolves to nothing"),
        ("`{{a:b}}` {{retrieval/H1:nothing}}", "no such value"),
    ],
)
def test_a_number_that_resolves_to_nothing_stops_the_build(text, says, p):
    with pytest.raises(DataError, match=re.escape(says)):
        bound(text, p)


def test_pages_say_nothing_of_results_that_are_not_there(tmp_path):
    "With anybody's results, also none: blocks about the project's own are left out, all else stays."
    nothing = published(tmp_path)
    for page in sorted((ROOT / "nbs" / "site").rglob("*.md")):
        text = page.read_text()
        left = about_these(text, nothing)
        assert "{{" not in bound(left, nothing) and "/figures/" not in left
        assert not re.search(r"findings/(?!index)[\w-]+\.md", left)
        assert [line for line in text.splitlines() if line.startswith("#")] == [
            line for line in left.splitlines() if line.startswith("#")
        ]
        assert text.count(":::") == left.count(":::") and text.count("```") == left.count("```")


def test_code_is_no_bound_number(p):
    "Between backticks and in fences a bound number is shown as it is written."
    text = "`{{a:b}}` ``{{ a `b` }}``\n\n````\n```\n{{x}}\n```\n````\n"
    assert bound(text, p) == text
    mixed = bound(f"{text}{{{{retrieval/H1:n}}}} `{{{{c:d}}}}`", p)
    assert mixed.startswith(text) and ">200</a> `{{c:d}}`" in mixed


def test_a_broken_link_stops_the_build(tmp_path):
    (tmp_path / "index.html").write_text(
        '<a href="nowhere.html">x</a><a href="#nothing">y</a><script src="https://cdn.example/x.js"></script>'
    )
    with pytest.raises(DataError, match="5 faults"):  # the script also has no nonce, and no policy before it
        check_pages(tmp_path)


@pytest.mark.parametrize(
    "text, says",
    [
        ('<a href="http://[x">x</a>', "links to http://[x, which is no address"),
        ('<img src="//elsewhere.example/x.png">', "would load //elsewhere.example/x.png"),
        ("<script>alert(1)</script>", "a script that is not the site's"),
    ],
)
def test_a_page_is_checked_wherever_the_site_is_built(text, says, tmp_path):
    site = tmp_path / "_static" / "site"  # as the theme's folder is called, whose pages are left out
    site.mkdir(parents=True)
    (site / "index.html").write_text(text)
    with pytest.raises(DataError, match=re.escape(says)):
        check_pages(site)


def test_two_notebooks_of_one_name_are_refused(tmp_path):
    "Both would be `cards/x.html`."
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.ipynb").write_text('{"cells": []}')
    with pytest.raises(DataError, match=r"a/x\.ipynb and .*b/x\.ipynb would be one page"):
        published(tmp_path)
    (tmp_path / "b" / "x.ipynb").rename(tmp_path / "b" / "index.ipynb")
    with pytest.raises(DataError, match=r"b/index\.ipynb: id 'index' is the name of a page of the site"):
        published(tmp_path)


def test_half_a_character_and_an_empty_title_stop_no_build(tmp_path):
    "JSON can hold half of a surrogate pair, which no page can."
    outputs = [
        {"output_type": "display_data", "data": {kind: "a \ud800 b"}}
        for kind in ("text/plain", "text/html", "text/markdown")
    ]
    cells = [
        {"cell_type": "markdown", "source": "#  "},
        {"cell_type": "markdown", "source": ["x \ud800 y"]},
        {"cell_type": "code", "source": "print('\ud800')", "outputs": outputs},
    ]
    (tmp_path / "n.ipynb").write_text(json.dumps({"cells": cells}))
    title, *shown = executed_cells(tmp_path / "n.ipynb")
    assert title["source"] == "# n" and "x ? y" in shown[-2]["source"]
    assert len(shown[-1]["outputs"]) == 3 and json.dumps(shown, ensure_ascii=False).encode()


def test_arms_that_differ_in_signs_have_pages_of_their_own():
    arms = {"rag": {}, "RAG": {"seed": 1}, "k=1": {}, "k-1": {}, "base": {}}
    study = SimpleNamespace(config=SimpleNamespace(name="s", arms=arms))
    assert {arm: pair_page(study, "base", arm)[len("findings/s/base--") : -len(".html")] for arm in arms} == {
        "RAG": "rag",
        "rag": "rag_2",
        "k-1": "k-1",
        "k=1": "k-1_2",
        "base": "base",
    }


def test_a_strangers_command_is_one_command(tmp_path):
    "What is pasted into a shell from an experiment's page."
    shutil.copytree(ROOT / "outputs" / "react-04be8240", tmp_path / "x; true")
    head = json.loads((tmp_path / "x; true" / "result.json").read_text())
    head["experiment"]["provenance_json"] |= {"commit": "; true", "engine": None, "attempts": []}
    (tmp_path / "x; true" / "result.json").write_text(json.dumps(head))
    shelf = published(tmp_path)
    (e,) = shelf.experiments.values()
    *_, command = reproduce(shelf, e).splitlines()
    assert command == "llmforge run 'outputs/x; true/config.yaml'"
    assert reproduce(shelf, e).startswith("git checkout '; true'")
    known = e.record.provenance_json | {"engine": {"log": "a.json; true"}}
    imported = SimpleNamespace(id=e.id, record=replace(e.record, provenance_json=known))
    assert reproduce(shelf, imported) == "llmforge import 'a.json; true'"


def test_the_command_refuses_in_a_sentence(tmp_path, outputs):
    "A damaged export stops the build before anything is written."
    (outputs / "x").mkdir(parents=True)
    (outputs / "x" / "result.json").write_text("{}")
    r = CliRunner().invoke(app, ["site", str(tmp_path / "site")])
    assert (
        r.exit_code == 1 and "is not an exported experiment" in r.stderr and not (tmp_path / "site").exists()
    )


def test_a_port_that_is_taken_is_told_before_the_build(tmp_path, outputs):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        r = CliRunner().invoke(app, ["site", str(tmp_path / "site"), "--serve", "--port", port])
    assert r.exit_code == 2
    assert f"port {port} cannot be used" in r.stderr and not (tmp_path / "site").exists()


def test_what_measures_no_metric_is_listed_apart(pages):
    "The notebook that measured the cards is listed beside them; other pages are not, and keep their address."
    cards, others = (
        {a["href"] for a in pages[name].select("article li a")}
        for name in ("cards/index.html", "benchmarks.html")
    )
    assert "metric_cards.html" in cards and "alignment.html" not in cards
    assert "cards/alignment.html" in others and "cards/metric_cards.html" not in others


def test_a_card_made_here_wins_over_the_packages(tmp_path):
    "The site lists the cards of outputs/cards, too; of two for one metric and version, that one."
    own = (
        save_card(replace(make_card("exact_match", "2030-01-01"), metric="mine"), tmp_path / "cards"),
        save_card(make_card("exact_match", "2030-01-01"), tmp_path / "cards"),
    )
    cards = published(tmp_path).cards
    assert set(own) < set(cards) and len({f.name for f in cards}) == len(cards)
