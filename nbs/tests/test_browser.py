"The built site in a real browser, opened from the disk as a reader opens it."

import csv
import re
from importlib.resources import files

import pytest
from conftest import HOSTILE
from playwright.sync_api import expect, sync_playwright
from tracked import tracked

from llmforge.comparison import compare
from llmforge.published import published
from llmforge.traceview import walk

pytestmark = pytest.mark.slow
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MODES = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}},
    "wide": {"viewport": {"width": 1440, "height": 900}},
}
AXE = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
NAIVE, NONE, REACT = "retrieval-naive-almanac-6e34c61e", "retrieval-none-almanac-5857a546", "react-04be8240"
HYBRID, OTHER = "retrieval-hybrid-almanac-4f4c2810", "retrieval-naive-meridia-dce1d5fb"
REACT_ARMS = ("agents-react-meridia-0619f280", "agents-react_calibrated-meridia-b40ba905")
STUDIES = [folder.name.removeprefix("study-") for folder in tracked("plan.json")]
PAGES = [
    "index.html",
    "findings/index.html",
    "findings/retrieval.html",
    "findings/chunk_size/512--128.html",
    "findings/reasoning/study.html",
    "leaderboard.html",
    "experiments/index.html",
    f"experiments/{NAIVE}.html",
    f"experiments/{REACT}.html",
    f"experiments/{NAIVE}/experiment.html",
    f"compare.html#a={NONE}&b={NAIVE}",
    f"trace.html#e={REACT}&row=7",
    "cards/index.html",
    "benchmarks.html",
    "learn/index.html",
    "learn/wing-7.html",
    "learn/54_logs.html",
    "learn/tutorials/first_experiment.html",
    "api/index.html",
    "api/config.html",
    "architecture.html",
    "design/index.html",
    "search.html?q=rerank",
    "genindex.html",
    "limitations.html",
]


@pytest.fixture(scope="module")
def contexts(chromium, built):
    """A browser's profile for each mode. It is the module's own: while playwright's loop runs, other
    tests cannot call asyncio.run()."""
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=FLAGS)
        opened = {
            mode: browser.new_context(
                **{"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", **options}
            )
            for mode, options in MODES.items()
        }
        for context in opened.values():
            context.set_default_timeout(15_000)
        yield opened
        browser.close()


def watched(context, said):
    "A page whose complaints, dialogs and requests to a network are noted."

    def _no_network(route):
        said.append(f"asked for {route.request.url}")
        route.abort()

    def _dialog(d):
        said.append(f"{d.type}: {d.message}")
        d.dismiss()

    page = context.new_page()
    page.on("console", lambda m: m.type in ("error", "warning") and said.append(f"{page.url}: {m.text}"))
    page.on("pageerror", lambda e: said.append(f"{page.url}: {e}"))
    page.on(
        "requestfailed",
        lambda r: r.failure != "net::ERR_ABORTED" and said.append(f"{page.url}: {r.url} failed"),
    )  # aborted: the reader was quicker than the page
    page.on("dialog", _dialog)
    page.route(re.compile(r"^(?!file:|data:|blob:)"), _no_network)
    return page


@pytest.fixture(scope="module")
def tabs():
    "What the pages said, and for each mode the pages that no test uses: a new one costs half a second."
    return [], {mode: [] for mode in MODES}


@pytest.fixture
def visit(contexts, built, tabs):
    """Open a page. At the test's end nothing was said on the console, nothing was asked of a network, and no
    dialog was shown."""
    (said, free), used = tabs, []
    said.clear()

    def _visit(url, mode="light"):
        page = free[mode].pop() if free[mode] else watched(contexts[mode], said)
        used.append((mode, page))
        page.goto(f"file://{built[0]}/{url}")
        if url.startswith(("search.html?", "compare.html", "trace.html")):
            expect(page.locator(".search-summary, #difference, #asked")).not_to_be_empty()
        return page

    yield _visit
    for mode, page in used:
        page.evaluate("sessionStorage.clear()")
        page.mouse.move(0, 0)
        page.goto("about:blank")
        free[mode].append(page)
    assert not said, said


def path_of(page):
    "Where the reader is: the address below the site."
    return re.sub(r"^file://.*/site/", "", page.url)


# Reading

# What repeats its markup is looked at in part: axe takes a second for a hundred rows.
PREPARE = """() => {
  const keep = (selector, n) => [...document.querySelectorAll(selector)].slice(n).forEach(e => e.remove());
  const parts = [['details.trace', 3], ['.cell', 8], ['dl.py', 6], ['.genindextable li', 40],
                 ['tbody tr:nth-child(n+13)', 0]];
  for (const [selector, n] of parts) keep(selector, n);
  document.querySelectorAll('details.trace').forEach(d => d.open = true);
}"""


def violations(page, **options):
    "What axe finds, a line each: the rule, how bad it is, where."
    page.evaluate(PREPARE)
    page.evaluate(AXE)
    found = page.evaluate(
        "options => axe.run(document, {resultTypes: ['violations'], preload: false, ...options})", options
    )
    lines = []
    for v in found["violations"]:
        for n in v["nodes"]:
            messages = [c["message"] for k in ("any", "all", "none") for c in n[k]]
            lines.append(f"{v['id']} ({v['impact']}): {n['html'][:200]} {messages[:1]}")
    return lines


@pytest.mark.parametrize("url", PAGES)
def test_accessible(url, visit):
    "Every rule of axe: contrast, words for pictures, order of headings, names of what can be operated."
    assert not violations(visit(url))


@pytest.mark.parametrize("url", PAGES)
def test_contrast_in_the_dark(url, visit):
    "The other rules do not depend on colours."
    page = visit(url, "dark")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert not violations(page, runOnly=["color-contrast", "link-in-text-block"])


OUTSIDE = """() => [...document.querySelectorAll('article *, #search-results *')].filter(e => {
  const box = e.getBoundingClientRect();
  if (!box.width || box.right <= innerWidth + 1 || !e.checkVisibility()) return false;
  for (let p = e.parentElement; p; p = p.parentElement) {
    if (getComputedStyle(p).overflowX === 'auto') return false;
  }
  return true;
}).map(e => e.outerHTML.slice(0, 160))"""


@pytest.mark.parametrize("url", PAGES)
def test_fits_a_phone(url, visit):
    "Nothing is wider than the screen, but tables and code within boxes that scroll."
    page = visit(url, "phone")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, page.evaluate(OUTSIDE)
    assert not page.evaluate(OUTSIDE)


ARTICLE = re.compile(r"<article[^>]*>(.*)</article>", re.S)
SIDEWAYS = """cells => {
  const article = document.querySelector('article');
  article.innerHTML = cells;
  const cut = e => e.clientWidth && e.scrollWidth > e.clientWidth
    && getComputedStyle(e).overflowX !== 'visible';
  return [...article.querySelectorAll('.cell, .cell *')].filter(cut).map(e => e.outerHTML.slice(0, 160));
}"""


def test_no_code_cell_scrolls_sideways(contexts, built):
    """Lessons, tutorials and executed pages at 1440 pixels: code, and what it printed, fits into its cell.
    The cells of all pages of a kind are looked at in the place of those of its first page."""
    site = built[0]
    folders = (
        "learn/*.html",
        "learn/tutorials/*.html",
        "*/*/experiment.html",
        "*/*/study.html",
        "cards/*.html",
    )
    wide, looked, page = {}, 0, contexts["wide"].new_page()
    for pages in filter(None, (sorted(site.glob(pattern)) for pattern in folders)):
        page.goto(f"file://{pages[0]}")
        for path in pages:
            cells = ARTICLE.search(path.read_text(encoding="utf-8"))[1]
            looked += 1
            if found := page.evaluate(SIDEWAYS, cells):
                wide[path.relative_to(site).as_posix()] = found
    assert looked > 40 and not wide, wide
    assert page.evaluate(SIDEWAYS, f'<div class="cell" style="overflow-x: auto"><pre>{"x" * 400}</pre></div>')
    page.close()


CUT = """what => [...document.querySelectorAll(what)].filter(e => {
  let box = e;
  while (getComputedStyle(box).overflowX === 'visible') box = box.parentElement;
  const inner = box.getBoundingClientRect().left + box.clientWidth;
  return e.getBoundingClientRect().right > inner + 1;
}).map(e => e.outerHTML.slice(0, 160))"""


@pytest.mark.parametrize(
    "url, what",
    [
        ("leaderboard.html", "article table"),
        ("api/config.html", ".page-toc a"),
        ("api/comparison.html", ".page-toc a"),
    ],
)
def test_seen_whole_on_a_small_laptop(url, what, visit):
    "Leaderboards, and the names beside the API: nothing is cut at 1280 pixels."
    page = visit(url)
    assert page.locator(what).count() and not page.evaluate(CUT, what)


def test_code_has_room_for_110_characters(contexts, built):
    "A line as long as the formatter allows is not broken; a longer one is."
    page = contexts["wide"].new_page()
    page.goto(f"file://{built[0]}/learn/79_site.html")
    height = """n => { const pre = document.querySelector('.cell_input pre');
      pre.textContent = 'x'.repeat(n); return pre.offsetHeight; }"""
    one, line, three = (page.evaluate(height, n) for n in (1, 110, 330))
    page.close()
    assert one == line < three


@pytest.mark.parametrize(
    "url", ["index.html", "findings/retrieval.html", f"experiments/{REACT}.html", "search.html?q=rerank"]
)
def test_accessible_on_a_phone(url, visit):
    "Where the layout differs: the navigation is a drawer, tables scroll."
    assert not violations(visit(url, "phone"))


def test_the_switch_between_light_and_dark(visit):
    "The theme's own switch, with keys; the choice holds on the next page."
    page = visit("index.html")
    theme, colour = (
        "document.documentElement.dataset.theme",
        "getComputedStyle(document.body).backgroundColor",
    )
    light = page.evaluate(colour)
    page.locator("button.theme-switch-button:visible").press("Enter")
    page.locator(".dropdown-menu.show [data-mode=dark]").press("Enter")
    assert page.evaluate(theme) == "dark" and page.evaluate(colour) != light
    page.get_by_role("link", name="Findings", exact=True).first.click()
    page.wait_for_url("**/findings/index.html")
    assert page.evaluate(theme) == "dark" and not violations(page, runOnly=["color-contrast"])
    page.evaluate("localStorage.clear()")


# Searching


@pytest.mark.parametrize(
    "words, address",
    [
        ("paired_difference", ".paired_difference"),
        ("squad_retrieval", "findings/squad_retrieval.html"),
        ("chunk_size", "findings/chunk_size.html"),
        ("reciprocal rank fusion", "learn/3"),
        ("bootstrap", "learn/10_stats.html"),
    ],
)
def test_search_finds(words, address, visit):
    "A function, a study by its name, a lesson's term: typed into the page, found, and opened."
    page = visit("search.html")
    page.locator("form.bd-search input:visible").fill(words)
    page.keyboard.press("Enter")
    expect(page.locator("#search-results")).to_contain_text("found")
    found = page.locator(f"#search-results a[href*='{address}']")
    assert found.count(), page.locator("#search-results li a").all_text_contents()[:20]
    target = found.first.get_attribute("href").split("?")[0].split("#")[0]
    found.first.click()
    page.wait_for_url(f"**/{target}*")
    expect(page.locator("article h1")).to_be_visible()


def test_search_by_keys_from_any_page(visit):
    "The index, megabytes of it, is loaded by the page that shows the results, and by no other."
    page = visit("limitations.html")
    assert page.evaluate("typeof Search") == "undefined"
    page.keyboard.press("Control+k")
    page.keyboard.type("groundedness")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=groundedness*")
    page.locator("#search-results li a").first.click()
    marked = page.locator("article span.highlighted")
    expect(marked.first).to_be_visible()
    page.get_by_text("Hide Search Matches").click()
    expect(marked).to_have_count(0)


# Comparing, by keys alone


FOCUS = """() => {
  const {outlineStyle, outlineWidth, boxShadow} = getComputedStyle(document.activeElement);
  return outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2 || boxShadow !== 'none';
}"""


def tab_to(page, selector, most=60):
    "Press Tab until it is reached; what has the focus is seen to have it."
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            break
    else:
        raise AssertionError(f"{most} times Tab do not reach {selector}")
    assert page.evaluate(FOCUS), f"{selector} has the focus and does not show it"


def test_compare_by_keys_alone(visit):
    "Two experiments chosen, their difference, the questions they differ on, and on to a row; no mouse."
    page = visit("compare.html")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # skip to main content
    tab_to(page, "select[name=a]", 15)
    page.keyboard.type("retrieval-none-alm", delay=10)
    said = page.get_by_role("status").and_(page.locator("#difference"))  # announced when it changes
    expect(said).to_contain_text("Choose a baseline and at least one treatment")
    tab_to(page, "select[name=b]", 1)
    page.keyboard.type("retrieval-naive-alm", delay=10)
    expect(said).to_contain_text(
        "b − a on accuracy (exact match): +30.0 points, 95% interval +19.0 to +39.8, p < .001"
    )
    assert (page.locator("select[name=a]").input_value(), page.locator("select[name=b]").input_value()) == (
        NONE,
        NAIVE,
    )
    assert (
        page.locator("#about a").all_text_contents() == [NONE, NAIVE]
        and page.locator("#measures tbody tr").count() >= 5
    )
    rows, count = page.locator("#diff tr"), page.locator("#diff-filters output")
    changed = rows.count()
    assert set(page.locator("#diff td:first-child").all_text_contents()) == {"improved", "regressed"}
    expect(count).to_have_text(f"{changed} of 100")
    tab_to(page, "#diff-filters select", 8)
    page.keyboard.press("ArrowDown")
    assert (
        set(page.locator("#diff td:first-child").all_text_contents()) == {"improved"}
        and 0 < rows.count() < changed
    )
    expect(count).to_have_text(f"{rows.count()} of 100")
    expect(count).to_have_attribute("aria-live", "polite")
    tab_to(page, "#diff-filters input", 1)
    page.keyboard.type("who wrote")
    assert 0 < rows.count() < 20 and all(
        "Who wrote" in text for text in page.locator("#diff td:nth-child(2)").all_text_contents()
    )
    tab_to(page, "#diff a", 3)
    answer = page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(rf"experiments/{NONE}\.html#row-\d+"))
    assert answer in page.locator("tr:target").inner_text()


def test_a_comparison_has_an_address(visit):
    "A link to two experiments shows them; turned round, the difference turns its sign."
    page = visit(f"compare.html#a={NAIVE}&b={NONE}")
    expect(page.locator("#difference")).to_contain_text("−30.0 points, 95% interval −39.8 to −19.0")
    page.locator("select[name=a]").select_option(NONE)
    page.locator("select[name=b]").select_option(NAIVE)
    assert path_of(page) == f"compare.html#a={NONE}&b={NAIVE}"


def cells_of(page):
    "The table of measures, as text."
    rows = page.locator("#measures tbody tr").evaluate_all(
        "rows => rows.map(r => [...r.cells].map(c => c.textContent.replaceAll('\u2212', '-')))"
    )
    return {row[0]: row[1:] for row in rows}


def test_compared_as_on_the_command_line(visit, built):
    "Every measure, every digit: the table of `llmforge compare`, and the costs besides; and as a file."
    shelf = published(built[1]).experiments
    for a, b in ((NONE, NAIVE), (REACT_ARMS[0], REACT_ARMS[1])):
        page = visit(f"compare.html#a={a}&b={b}")
        expect(page.locator("#measures tbody tr").first).to_be_visible()
        shown = cells_of(page)
        table = compare(shelf[a], shelf[b])._repr_markdown_().split("\n\n")[-1].splitlines()[2:]
        for line in table:
            name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            assert shown[name][:7] == cells, name
        assert {"tokens in", "tokens out"} <= shown.keys()
        with page.expect_download() as got:
            page.get_by_role("link", name="measures.csv").click()
        records = list(csv.DictReader(got.value.path().read_text().splitlines()))
        (f1,) = [r for r in records if r["metric"] == "f1"]
        expected = compare(shelf[a], shelf[b]).differences["f1"]
        assert (float(f1["difference"]), int(f1["n"])) == (expected.difference.value, expected.n)


def test_one_baseline_and_several_treatments(visit):
    "Each against the first, p by Holm's method in the sentences; the address keeps all of them."
    page = visit(f"compare.html#a={NONE}&b={NAIVE}")
    page.get_by_role("button", name="add another").click()
    page.locator("select[name=c]").select_option(HYBRID)
    expect(page.locator("#difference span")).to_have_count(2)
    expect(page.locator("#difference span").last).to_contain_text("c − a on accuracy")
    expect(page.locator("#difference span").last).to_contain_text("Holm's method for 2 treatments")
    assert path_of(page) == f"compare.html#a={NONE}&b={NAIVE}&b={HYBRID}"
    heads = page.locator("#diff").locator("xpath=../thead//th").all_text_contents()
    assert heads[-3:] == ["a answered", "b answered", "c answered"]
    page.reload()
    expect(page.locator("#about li")).to_have_count(3)


@pytest.mark.parametrize(
    "ids, says",
    [
        (f"a={NONE}&b=nobody-knows-it", "There is no experiment nobody-knows-it on this site"),
        (f"a=gone&b={NAIVE}", "There is no experiment gone on this site"),
        (
            f"a={NONE}&b={OTHER}",
            "their questions differ (0 have the same name, 100 are in the first only, 100",
        ),
        (f"a={NONE}&b={NONE}", "An experiment does not differ from itself"),
        ("", "Choose a baseline"),
    ],
)
def test_never_another_pair(ids, says, visit):
    "What cannot be compared is said, and nothing else is put in its place."
    page = visit(f"compare.html#{ids}")
    expect(page.locator("#difference")).to_contain_text(says)
    assert not page.locator("#measures tr").count() and not page.locator("#diff tr").count()


# From a number to its row, and to the command

IN_VIEW = """e => {
  const r = e.getBoundingClientRect();
  const x = r.left + Math.min(r.width, innerWidth) / 2, y = r.top + r.height / 2;
  return r.height > 0 && e.contains(document.elementFromPoint(x, y));
}"""

LOOSE = r"""(table, labels) => [...table.tBodies[0].rows]
  .flatMap(r => [...r.cells].slice(labels))
  .filter(c => /\d/.test(c.textContent) && !c.querySelector('a.bound'))
  .map(c => c.textContent)"""


def reach_the_command(page):
    "From the rows, or from two arms side by side: click a number, see its row; a click on, see the command."
    if path_of(page).startswith("findings/"):
        page.locator("#pairs-table tbody td a.bound").first.click()
        page.wait_for_url(re.compile(r"experiments/.*#row-\d+"))
    else:
        page.locator("#rows-table tbody th a").nth(2).click()
    row = page.locator("tr:target")
    expect(row).to_have_count(1)
    assert row.evaluate(IN_VIEW), f"{page.url}: the row is not to be seen"
    onwards = page.locator(".parts a[href='#reproduce']")
    assert onwards.evaluate(IN_VIEW), f"{page.url}: from the row, the way to the command is not to be seen"
    onwards.click()
    command = page.locator("#reproduce pre")
    expect(command).to_be_in_viewport()
    assert re.search(r"llmforge (run outputs/|import )\S", command.inner_text())


@pytest.mark.parametrize("study", STUDIES)
def test_two_clicks_to_the_row_and_one_to_the_command(study, visit):
    """Every number in the tables of verdicts and of arms is a link, and so is every claim; the last of each
    kind is followed, to two arms side by side and to the rows of one. No verdict is cut at 1280 pixels."""
    page = visit(f"findings/{study}.html")
    assert not page.evaluate(CUT, "#verdicts table")
    start = page.url
    for labels, part in ((4, "verdicts"), (2, "arms")):
        for t in page.locator(f"#{part} table").all():
            assert not (loose := t.evaluate(LOOSE, labels)), f"numbers without a link: {loose}"
    assert page.locator("#arms table").count()
    claims = page.locator("li.claim").all()
    assert claims and all(claim.locator("a.bound").count() for claim in claims)
    bound = page.locator("li.claim a.bound, #verdicts table a.bound, #arms table a.bound")
    urls = bound.evaluate_all("links => links.map(a => a.getAttribute('href'))")
    last = {url.startswith("../experiments/"): url for url in urls}
    assert len(last) == 2
    for url in last.values():
        if page.url != start:
            page.goto(start)
        page.locator(f"a.bound[href='{url}']").first.click()
        page.wait_for_url("**/" + url.removeprefix("../"))
        reach_the_command(page)


def test_two_clicks_from_a_claim(visit):
    "The same from a sentence of Findings."
    page = visit("findings/index.html")
    page.locator("li.claim a.bound").nth(3).click()
    reach_the_command(page)


# Filters


def test_filters_of_the_rows(visit):
    page = visit(f"experiments/{NAIVE}.html")
    shown, out, outcomes = (
        page.locator("#rows-table tbody tr:visible"),
        page.locator("form.filters output"),
        page.locator("form.filters select[name=outcome]"),
    )
    expect(out).to_have_text("100 of 100")
    expect(out).to_have_attribute("aria-live", "polite")
    outcomes.select_option("wrong")
    wrong = shown.count()
    assert 0 < wrong < 100 and set(shown.evaluate_all("rows => rows.map(r => r.cells[4].textContent)")) == {
        "wrong"
    }
    expect(out).to_have_text(f"{wrong} of 100")
    page.get_by_label("text").fill("capital")
    assert 0 < shown.count() < wrong
    expect(out).to_have_text(f"{shown.count()} of 100")
    page.get_by_label("text").fill("no such text")
    expect(out).to_have_text("0 of 100")
    page.evaluate("location.hash = '#row-3'")  # a link to a row shows it, whatever is filtered
    expect(page.locator("#row-3")).to_be_visible()


def column(page, table, n):
    return page.locator(f"{table} tbody tr:visible").evaluate_all(
        f"rows => rows.map(r => r.cells[{n}].textContent)"
    )


def test_experiments_are_sorted_and_filtered(visit):
    "By a heading, with a mouse or with keys, upwards and then downwards; filtered, too; numbers as numbers."
    page = visit("experiments/index.html")
    names = column(page, "#experiments-table", 0)
    assert names == sorted(names) and len(names) > 10
    head = page.locator("#experiments-table th", has_text="accuracy")
    for order in ("ascending", "descending"):
        head.press("Enter")
        expect(head).to_have_attribute("aria-sort", order)
        values = [float(text.split()[0]) for text in column(page, "#experiments-table", 5)]
        assert values == sorted(values, reverse=order == "descending")
    page.locator("form.filters select[name=method]").select_option("naive")
    assert set(column(page, "#experiments-table", 2)) == {"naive"}
    values = [float(text.split()[0]) for text in column(page, "#experiments-table", 5)]
    assert values == sorted(values, reverse=True)


def test_leaderboards_are_sorted_and_keep_their_first_column(visit):
    "Dashes stand below numbers; scrolled sideways on a phone, the names stay."
    page = visit("leaderboard.html", "phone")
    board = page.locator(".boards table").first
    head = board.locator("th", has_text="tokens in")
    head.click()
    cells = board.locator("tbody tr").evaluate_all("rows => rows.map(r => r.cells[7].textContent)")
    values = [-1.0 if text == "–" else float(text.replace(",", "")) for text in cells]
    assert values == sorted(values)
    left = board.locator("tbody tr:first-child :is(th, td):first-child")
    before = left.bounding_box()["x"]
    board.evaluate("t => { for (let e = t; e; e = e.parentElement) e.scrollLeft = 300; }")
    assert abs(left.bounding_box()["x"] - before) < 30


def test_filters_of_two_arms(visit):
    page = visit("findings/retrieval/none--naive.html")
    page.get_by_label("accuracy").select_option("lower")
    shown = page.locator("#pairs-table tbody tr:visible")
    assert set(shown.evaluate_all("rows => rows.map(r => r.cells[2].textContent)")) == {"1.00 → 0.00"}
    expect(page.locator("form.filters output")).to_have_text(f"{shown.count()} of 200")


def test_a_link_opens_its_trace(visit):
    page = visit(f"experiments/{NAIVE}.html")
    page.locator("#rows-table a[href^='#trace-']").first.click()
    expect(page.locator("details.trace[open]")).to_be_in_viewport()


def test_the_trace_of_any_row_is_drawn(visit, built):
    "By a link in its row: the steps, their texts in full, and the way back."
    page = visit(f"experiments/{REACT}.html")
    link = page.locator("#rows-table a[href*='trace.html']").last
    at = int(link.get_attribute("href").rsplit("=", 1)[1])
    link.click()
    page.wait_for_url("**/trace.html#*")
    row = published(built[1]).experiments[REACT].rows[at]
    call = next(walk(row["trace"], "llm"))
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    drawn = page.locator("#steps pre").evaluate_all("all => all.map(e => e.textContent)")
    assert row["position"] == at and call["input"] in drawn and call["output"] in drawn
    assert page.locator("#steps details details").count() >= len([*walk(row["trace"])])
    page.locator("#asked a").click()
    page.wait_for_url(f"**/experiments/{REACT}.html#row-{at}")


@pytest.mark.parametrize("at", [0, 1])
def test_a_hostile_trace_is_text(at, visit, built):
    id = built[2][at]
    for row in range(4):
        page = visit(f"trace.html#e={id}&row={row}")
        expect(page.locator("#steps pre").first).to_be_attached()
        harmless(page)


def test_a_trace_that_is_not_there_is_said(visit):
    for url, says in {
        "trace.html": "Choose a row",
        "trace.html#e=../../x&row=1": "There is no experiment ../../x",
        f"trace.html#e={REACT}&row=999": "No trace is stored of row 999",
        f"trace.html#e={REACT}&row=toString": "No trace is stored of row toString",
        "trace.html#e=<img src=x onerror=alert(1)>": "There is no experiment <img",
    }.items():
        expect(visit(url).locator("#asked")).to_contain_text(says)


# Hostile text


ACTIVE = r"""() => {
  const urls = ['href', 'src', 'action', 'formaction', 'data', 'xlink:href'];
  const acts = a => a.name.startsWith('on')
    || /^\s*(javascript|vbscript|data:text)/i.test(a.value) && urls.includes(a.name);
  return [...document.querySelectorAll('*')].flatMap(
    e => [...e.attributes].filter(acts).map(a => e.tagName + ' ' + a.name + '=' + a.value));
}"""


def harmless(page, *texts):
    "Nothing ran, nothing could run, and the texts are to be read."
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert "pwned" not in page.title()
    assert not page.evaluate(ACTIVE)
    assert (
        not page.evaluate("[...document.scripts].filter(s => /pwned|alert\\(/.test(s.textContent)).length")
        and not page.locator("img[src=x]").count()
    )
    shown = page.locator("main").inner_text()
    for text in texts:
        assert text in shown, text


@pytest.mark.parametrize("at", [0, 1])
def test_hostile_rows_and_traces(at, visit, built):
    harmless(
        visit(f"experiments/{built[2][at]}.html"),
        HOSTILE[0],
        HOSTILE[1],
        "<img src=x onerror=alert(3)></td></table></details>",
        "<b>bold</b>",
        "<i>i</i> $x$ | pipe | ${z}",
    )


def test_hostile_outputs_of_a_notebook(visit, built):
    harmless(visit(f"experiments/{built[2][0]}/experiment.html"), HOSTILE[0], HOSTILE[1], "<b>bold</b>")


def test_hostile_answers_compared(visit, built):
    "What is put on the page by a script."
    a, b = built[2]
    page = visit(f"compare.html#a={a}&b={b}")
    expect(page.locator("#difference")).to_contain_text("b − a on accuracy")
    page.locator("#diff-filters select").select_option("")
    assert page.locator("#diff tr").count() >= 4
    harmless(
        page,
        HOSTILE[0],
        "javascript:alert(2)",
        "<img src=x onerror=alert(3)></td></table></details>",
        "<i>i</i>",
    )
    page.locator("#diff a").first.click()
    page.wait_for_url(f"**/experiments/{a}.html#row-*")


@pytest.mark.parametrize(
    "url",
    [
        "experiments/index.html",
        "leaderboard.html",
        "compare.html#a=<script>alert(1)</script>&b=javascript:alert(2)",
        "search.html?q=%3Cimg+src%3Dx+onerror%3Dalert(5)%3E+pwned",
    ],
)
def test_hostile_elsewhere(url, visit):
    "Lists that name such experiments; addresses that somebody else wrote."
    harmless(visit(url))


def test_hostile_text_is_found(visit, built):
    page = visit("search.html?q=pwned")
    found = page.locator(f"#search-results a[href*='{built[2][0]}']")
    expect(found.first).to_be_visible()
    harmless(page)
    found.first.click()
    page.wait_for_url(f"**/{built[2][0]}*")
    harmless(page, HOSTILE[0])
