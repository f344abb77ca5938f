"A stranger's texts act nowhere on the site, and no file comes in by them. See `hostile` for the texts."

import re
from contextlib import contextmanager
from urllib.parse import quote

import pytest
from bs4 import BeautifulSoup
from hostile import CANARY, HTML, MARKUP, PAYLOADS, hostile_home, hostile_outputs
from playwright.sync_api import expect, sync_playwright

from llmforge.files import project_root

pytestmark = pytest.mark.slow
ROOT = project_root()
KINDS = {  # a page of each kind, by a part of its name -> what it must show as text
    "findings/index.html": HTML[9],
    "findings/hostile.html": HTML[9],
    "findings/hostile/study.html": HTML[9],
    "findings/hostile/plain--other.html": HTML[5],
    "experiments/index.html": "",
    "experiments/hostile-plain": HTML[10],
    "experiments/hostile-other": MARKUP[0],
    "/experiment.html": HTML[0],
    "compare.html": "",
    "leaderboard.html": "<img src=x onerror=alert(203)>",  # a file of questions
    "cards/index.html": HTML[0],
    "cards/beside.html": HTML[9],
    "benchmarks.html": HTML[9],
    "search.html": "",
    "genindex.html": "",
    "learn/01_text.html": "",
}
ALLOWED = set(  # what the theme, the pages and the sanitiser write
    """html head meta title link script noscript style body div span p a b i em strong small sup sub code pre
    kbd br wbr hr ul ol li dl dt dd table caption thead tbody tfoot tr th td colgroup col h1 h2 h3 h4 h5 h6
    section article aside nav header footer main form label input select option optgroup output button
    details summary blockquote img svg g path rect text defs marker dialog figure figcaption abbr""".split()
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    "The site of hostile outputs, and the folder that all is in."
    from llmforge.site import build_site

    work = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as m:
        m.setenv("LLMFORGE_HOME", str(hostile_home(ROOT, work / "home")))
        m.setenv("LLMFORGE_DATA", str(work))
        m.setenv("LLMFORGE_OUTPUTS", str(work / "outputs"))
        hostile_outputs(work)
        build_site(work / "site", work / "outputs")
    return work


@pytest.fixture(scope="module")
def pages(corpus):
    "Path from the site's root -> the page's text."
    site = corpus / "site"
    found = {p.relative_to(site).as_posix(): p.read_text(encoding="utf-8") for p in site.rglob("*.html")}
    return {name: text for name, text in found.items() if "_static" not in name}


def test_the_corpus_is_large(pages):
    assert len(set(PAYLOADS)) == len(PAYLOADS) >= 100
    assert all(any(part in name for name in pages) for part in KINDS)


def test_no_payload_became_markup(pages):
    "By a parser: only elements that the site itself writes, without handlers and addresses that are scripts."
    for name, text in pages.items():
        page = BeautifulSoup(text, "html.parser")
        nonces = {s.get("nonce") for s in page.find_all("script")}
        assert len(nonces) == 1 and None not in nonces, name
        assert len(page.find_all("meta", attrs={"http-equiv": True})) == 1, name
        for tag in page.find_all(True):
            assert tag.name in ALLOWED, f"{name}: {tag.name}"
            assert not [k for k in tag.attrs if k.startswith("on") or k in ("srcdoc", "formaction")], (
                f"{name}: {tag}"
            )
            for key in ("href", "src", "action", "xlink:href"):
                scheme = re.match(r"[\x00-\x20]*([\w+.-]+):|//", str(tag.get(key, "")))
                assert not scheme or scheme[1] in ("http", "https", "data"), f"{name}: {tag}"
            assert "evil.example" not in str(tag.get("src", "")) + str(tag.get("style", "")), f"{name}: {tag}"
        assert not [s for s in page.find_all("script") if re.search(r"alert|pwned", s.get_text())], name


def test_no_file_came_in(corpus):
    "Not the canary's text in any file of the site, and no file that is not the builder's or an export."
    for path in (corpus / "site").rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path
            assert path.suffix != ".svg" or b"<script" not in path.read_bytes(), path
    assert not list((corpus / "site").rglob("picture.svg")) and not list((corpus / "site").rglob("canary*"))


WATCH = """window.violated = [];
addEventListener('securitypolicyviolation', e => violated.push(`${e.violatedDirective}: ${e.blockedURI}`));"""
TOUCH = """document.querySelectorAll('details').forEach(d => d.open = true);
document.querySelectorAll('article a, article td').forEach(e => e.dispatchEvent(new Event('mouseover')));"""


@contextmanager
def opened(chromium, said):
    "A browser that notes every dialog, complaint, and request to another machine."

    def note(text):
        said.append(text)

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context()
        context.add_init_script(WATCH)
        context.route(re.compile(r"^(?!file:|data:|blob:)"), lambda r: (note(r.request.url), r.abort()))
        context.on("dialog", lambda d: (note(f"{d.page.url}: {d.message}"), d.dismiss()))
        context.on("console", lambda m: m.type in ("error", "warning") and note(f"{m.page.url}: {m.text}"))
        context.on("weberror", lambda e: note(str(e.error)))
        yield context.new_page()
        browser.close()


def test_nothing_happens_in_a_browser(corpus, pages, chromium):
    "Every page, all that folds unfolded: no dialog, no sentinel, no request to elsewhere, no violation."
    said = []
    urls = [quote(name) for name in pages]
    urls += [f"search.html?q={quote(text)}" for text in (HTML[9], "alert", "pwned", MARKUP[0])]
    a, b = (quote(p.stem) for p in (corpus / "site" / "data").glob("hostile-*.js"))
    urls.append(f"compare.html#a={a}&b={b}")
    urls += [f"trace.html#e={id}&row={row}" for id in (a, b) for row in range(3)]
    urls.append(f"trace.html#e={quote(HTML[9])}&row={quote(HTML[0])}")
    urls += [f"compare.html#a={quote(HTML[9])}&b={quote(HTML[0])}", f"index.html#{quote(HTML[9])}"]
    with opened(chromium, said) as page:
        for url in urls:
            page.goto("about:blank")
            page.goto(f"file://{corpus}/site/{url}")
            if "search.html?" in url:
                expect(page.locator(".search-summary")).not_to_be_empty()
            if url.startswith("compare.html"):
                expect(page.locator("#difference")).not_to_be_empty()
                page.locator("#diff-filters select").select_option("")
            if url.startswith("trace.html"):
                expect(page.locator("#asked")).not_to_be_empty()
                assert page.locator("#steps pre").count() or "#e=hostile-" not in url
            page.evaluate(TOUCH)
            page.wait_for_timeout(60)
            assert page.evaluate("[window.pwned, ...violated].filter(Boolean)") == [], url
            assert "pwned" not in page.title()
            shown = [text for part, text in KINDS.items() if part in url]
            shown += [HTML[10]] if "#a=hostile-" in url else []
            assert all(text in page.locator("main").inner_text() for text in shown), url
    assert not said, said[:5]


def test_the_policy_by_itself(corpus, chromium):
    "Behind the first wall, as HTML within a page, payloads still run nothing and load nothing."
    said, page_file = [], corpus / "site" / "broken.html"
    behind = [text for text in HTML[:65] if "refresh" not in text]  # no policy keeps a page from going away
    home = (corpus / "site" / "index.html").read_text()
    page_file.write_text(home.replace("</article>", "\n".join(behind) + "</article>"))
    with opened(chromium, said) as page:
        page.goto(f"file://{page_file}")
        page.evaluate(TOUCH)
        page.wait_for_timeout(300)
        assert page.evaluate("window.pwned") is None and len(page.evaluate("violated")) > 10
    page_file.unlink()
    assert not [text for text in said if re.search(r"^https?://|: \d+$", text)], said  # requests and dialogs
