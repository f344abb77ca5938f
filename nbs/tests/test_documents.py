"A folder of text, Markdown, HTML and PDF files as a corpus: real files, real readers."

import sys

import pytest

from llmforge.batching import FakeEngine
from llmforge.config import load_config
from llmforge.converters import read_folder, skipped_text
from llmforge.core import ConfigError, DataError, MissingExtra
from llmforge.data import load_corpus
from llmforge.experiment import Experiment
from llmforge.results import provenance_table
from llmforge.runner import run_experiment
from llmforge.sections import CorpusConfig
from llmforge.store import Store


@pytest.fixture
def docs(tmp_path, monkeypatch):
    "An empty folder of documents that configs can name: docs/."
    monkeypatch.setenv("LLMFORGE_DATA", str(tmp_path))
    (tmp_path / "docs").mkdir()
    return tmp_path / "docs"


def pdf(path, *pages, **metadata):
    "A real PDF with a line of text on each page; without text on a page where the line is empty."
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    with PdfPages(path, metadata=metadata) as f:
        for line in pages:
            figure = Figure(figsize=(5, 2))
            figure.text(0.1, 0.5, line)
            f.savefig(figure)


def corpus(limit=None):
    return load_corpus(CorpusConfig(name="docs/", limit=limit))


def texts():
    return {p.id: (p.title, p.text) for p in corpus().passages}


@pytest.mark.slow
def test_every_kind_of_file_is_a_passage(docs):
    (docs / "a.txt").write_text("Just words.\n")
    (docs / "b.md").write_text("---\nx: 1\n---\n\n```\n# no heading\n```\n\n## Leave ##\n\nThirty days.\n")
    (docs / "c.MARKDOWN").write_text("\ufeff# Travel\n\nBy train.\n")
    (docs / "deep" / "er").mkdir(parents=True)
    (docs / "deep" / "er" / "d.html").write_text(
        "<!doctype html><head><title>Site</title><style>p{}</style></head>"
        "<body><h1>The <i>old</i>\n bridge</h1><p>Built in <b>18</b>64.<br>By hand.<script>x()</script>"
        "<!-- no --><table><tr><td>a</td><td>b</td></tr></table>"
    )
    (docs / "e.htm").write_text("<title>Only a title</title><p>Caf&eacute; &lt;b&gt;")
    pdf(docs / "f.pdf", "The ferry leaves at nine.", "It is back at ten.", Title="Microsoft Word - x.doc")
    assert texts() == {
        "a.txt": ("a", "Just words."),
        "b.md": ("Leave", (docs / "b.md").read_text().strip()),
        "c.MARKDOWN": ("Travel", "By train."),
        "deep/er/d.html": ("The old bridge", "Built in 1864.\nBy hand.\na b"),
        "e.htm": ("Only a title", "Café <b>"),
        "f.pdf": ("f", "The ferry leaves at nine.\n\nIt is back at ten."),
    }
    assert [p.id for p in corpus(2).passages] == ["a.txt", "b.md"]


def test_the_fingerprint_is_of_contents(docs, tmp_path):
    (docs / "a.md").write_text("# T\n\nx")
    before = corpus().fingerprint
    docs.rename(tmp_path / "elsewhere")
    assert load_corpus(CorpusConfig(name="elsewhere/")).fingerprint == before
    (tmp_path / "elsewhere" / "a.md").write_text("# T\n\ny")
    assert load_corpus(CorpusConfig(name="elsewhere/")).fingerprint != before


@pytest.mark.slow
def test_whatever_cannot_be_read_is_named(docs):
    (docs / "good.txt").write_text("x")
    (docs / "latin.txt").write_bytes("Zürich".encode("latin-1"))
    (docs / "blank.md").write_text(" \n")
    (docs / "rota.docx").write_bytes(b"PK")
    (docs / "broken.pdf").write_bytes(b"%PDF-1.7\nnothing")
    pdf(docs / "scan.pdf", "")
    read = corpus()
    said = skipped_text(read)
    assert "5 of 6 files are skipped" in said and "good.txt" not in said and len(read) == 1
    (docs / "good.txt").unlink()
    with pytest.raises(DataError, match="nothing is left to search") as e:
        corpus()
    assert "5 of 5 files" in str(e.value)
    for words in (
        "latin.txt: it is not UTF-8",
        "blank.md: it has no text",
        "rota.docx: its type is not known; allowed: .txt, .md",
        "broken.pdf: it cannot be read",
        "scan.pdf: it has no text (a scan?)",
    ):
        assert words in said


def test_what_is_ignored_is_neither_read_nor_told(docs):
    for name in (
        "a.md",
        "notes.tmp",
        "drafts/b.md",
        "drafts/old/c.md",
        "deep/drafts/d.md",
        "deep/e.tmp",
        "f.xyz",
    ):
        (docs / name).parent.mkdir(parents=True, exist_ok=True)
        (docs / name).write_text("x")

    def read(*patterns):
        found = load_corpus(CorpusConfig(name="docs/", ignore=patterns))
        return [p.id for p in found.passages], [line.partition(":")[0] for line in found.skipped]

    assert read("*.tmp", "drafts/") == (["a.md", "deep/drafts/d.md"], ["f.xyz"])
    assert read("*.tmp", "*/drafts/", "drafts/*", "f.xyz") == (["a.md"], [])
    assert read("A.MD", "drafts")[0] == ["a.md", "deep/drafts/d.md", "drafts/b.md", "drafts/old/c.md"]
    with pytest.raises(DataError, match="corpus 'docs/' has no passages"):
        read("*")


def test_the_id_holds_what_is_ignored_and_what_was_read(docs):
    "An ignored pattern is a field of its own; without one the config is what it was before there were any."
    experiment = {"name": "x", "method": "rag", "dataset": "almanac", "corpus": "docs/"}
    plain = load_config({"experiment": experiment})
    assert "ignore" not in plain.model_dump(mode="json")["corpus"]
    assert load_config({"experiment": experiment}, ["corpus.ignore=['*.tmp']"]).corpus.ignore == ("*.tmp",)
    with pytest.raises(
        ConfigError, match="ignore: leaves out files of a folder, e.g. docs/; received corpus"
    ):
        load_config({"experiment": experiment | {"corpus": {"name": "almanac", "ignore": ["*.tmp"]}}})


def test_an_encrypted_pdf_is_named(docs):
    from pypdf import PdfReader, PdfWriter

    pdf(docs / "locked.pdf", "secret")
    writer = PdfWriter(PdfReader(docs / "locked.pdf"))
    writer.encrypt("password", algorithm="RC4-128")
    writer.write(docs / "locked.pdf")
    with pytest.raises(DataError, match="locked.pdf: it cannot be read.*decrypt"):
        corpus()


def test_an_empty_folder_is_an_error(docs):
    (docs / ".DS_Store").write_bytes(b"\x00")
    (docs / ".git").mkdir()
    (docs / ".git" / "HEAD").write_text("x")
    with pytest.raises(DataError, match="corpus 'docs/' has no passages"):
        corpus()


def test_links_do_not_lead_out(docs, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.txt").write_text("secret")
    (docs / "a.txt").write_text("fine")
    (docs / "again.txt").symlink_to(docs / "a.txt")
    assert set(texts()) == {"a.txt", "again.txt"}
    (docs / "link.txt").symlink_to(outside / "secret.txt")
    (docs / "folder").symlink_to(outside)
    (docs / "loop").symlink_to(docs)
    (docs / "gone.txt").symlink_to(docs / "nowhere.txt")
    (docs / "round.txt").symlink_to(docs / "about.txt")
    (docs / "about.txt").symlink_to(docs / "round.txt")
    read = corpus()
    assert {p.id for p in read.passages} == {"a.txt", "again.txt"}
    said = skipped_text(read)
    for words in (
        "round.txt: it is no file",
        "link.txt: it is a link out of the folder",
        "folder: it is a link out of the folder",
        "loop: it is no file",
        "gone.txt: it is no file",
    ):
        assert words in said
    assert "secret.txt" not in said and "6 of 8" in said


def test_the_folder_itself_stays_below_the_roots(docs, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (docs.parent / "away").symlink_to(outside)
    for name in ("../", "away/", f"{outside}/"):
        with pytest.raises(ConfigError, match="outside the project"):
            load_corpus(CorpusConfig(name=name))
    with pytest.raises(ConfigError, match="corpus 'nowhere/' does not exist"):
        load_corpus(CorpusConfig(name="nowhere/"))


def test_a_config_names_a_folder_by_its_slash(docs):
    with pytest.raises(ConfigError, match="of a folder of documents, which ends with /"):
        load_config({"experiment": {"name": "x", "method": "rag", "corpus": "docs"}})
    with pytest.raises(ConfigError, match="a folder of documents, e.g. my/docs/"):
        load_config({"experiment": {"name": "x", "method": "rag", "dataset": "q.jsonl"}})
    with pytest.raises(ConfigError, match="dataset.name"):
        load_config({"experiment": {"name": "x", "dataset": "docs/"}})


@pytest.mark.parametrize("module, file", [("pypdf", "a.pdf"), ("bs4", "a.html")])
def test_a_missing_reader_says_what_to_install(docs, monkeypatch, module, file):
    (docs / file).write_bytes(b"<p>x")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r"pip install 'llmforge-lab\[documents\]'"):
        read_folder(docs)


@pytest.mark.slow
def test_an_experiment_reads_a_folder(docs, capsys):
    """Gold evidence is named by a file's path, and is found through the real index.

    What was skipped is said once, and is in the provenance."""
    pytest.importorskip("qdrant_edge", reason="the retrieval extra is not installed")
    (docs / "ferry.md").write_text("# The ferry\n\nThe ferry to Ulvo leaves at nine.\n")
    pdf(docs / "museum.pdf", "The museum is closed on Mondays.")
    (docs / "rota\x1b.docx").write_bytes(b"PK")
    (docs.parent / "q.jsonl").write_text(
        '{"id": "q1", "question": "When is the museum closed?", "answers": ["Mondays"],'
        ' "gold": ["museum.pdf"]}\n'
    )
    config = load_config(
        {
            "experiment": {
                "name": "folder",
                "engine": {"name": "fake", "cache": False},
                "method": {"shots": 0},
                "dataset": "q.jsonl",
                "corpus": "docs/",
                "retrieval": {"name": "hybrid", "top_k": 1},
            }
        }
    )
    store = Store()
    id = run_experiment(config, store, FakeEngine(" Mondays"))
    (row,) = store.rows(id)
    assert row["correct"] and row["scores"]["recall@1"] == 1
    said = capsys.readouterr().err
    assert (
        said.count("warning: corpus 'docs/': 1 of 3 files are skipped:\n  rota␛.docx: its type is not") == 1
    )
    (skipped,) = store.experiment(id).provenance_json["skipped"]
    assert skipped.startswith("rota\x1b.docx: its type is not known")
    assert "files skipped" in provenance_table(Experiment(id, store))


# --- encodings


TEXTS = (
    "Zürich – Łódź – Ελλάδα",
    "Москва — столица России",
    "東京は日本の首都です (Tokyo)。",
    "Just ASCII, nothing else.",
)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("ending, around", [("txt", "{}"), ("md", "# {}\n\nx"), ("html", "<h1>{}</h1><p>x")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_an_encoding_that_can_be_told_is_read(docs, encoding, text, ending, around):
    (docs / f"a.{ending}").write_bytes(around.format(text).encode(encoding))
    title, body = texts()[f"a.{ending}"]
    assert (body if ending == "txt" else title) == text


@pytest.mark.parametrize("mark, encoding", [(b"\xfe\xff", "utf-16-be"), (b"\0\0\xfe\xff", "utf-32-be")])
def test_big_endian_with_a_mark(docs, mark, encoding):
    (docs / "a.txt").write_bytes(mark + "Zoë".encode(encoding))
    assert texts()["a.txt"][1] == "Zoë"


@pytest.mark.parametrize(
    "encoding, text",
    [
        *(
            ("cp1252", "Déjà vu, café, naïve"),
            ("iso8859_2", "Zażółć gęślą jaźń"),
            ("cp1250", "Příliš žluťoučký"),
        ),
        *(("cp1251", "Москва"), ("koi8_r", "Москва"), ("cp1253", "Αθήνα"), ("iso8859_9", "İstanbul şehri")),
        *(("shift_jis", "東京は日本"), ("gbk", "北京是中国"), ("euc_kr", "서울은"), ("mac_roman", "Zürich")),
    ],
)
def test_an_encoding_that_cannot_be_told_is_refused_and_a_declared_one_is_read(docs, encoding, text):
    (docs / "a.txt").write_bytes(text.encode(encoding))
    (docs / "a.html").write_bytes(f"<p>{text}".encode(encoding))
    with pytest.raises(DataError) as e:
        corpus()
    assert str(e.value).count("it is not UTF-8; save it as UTF-8") == 2
    (docs / "a.txt").unlink()
    label = {"mac_roman": "macintosh"}.get(
        encoding, encoding.replace("iso8859_", "iso-8859-").replace("_", "-")
    )
    for meta in (
        f'<meta charset="{label}">',
        f"<META http-equiv=Content-Type content='text/html; charset={label.upper()}'>",
        f'<?xml version="1.0" encoding="{label}"?>',
    ):
        (docs / "a.html").write_bytes(f"{meta}<p>{text}".encode(encoding))
        assert texts()["a.html"][1] == text


def test_what_a_page_declares_is_not_always_so(docs):
    "Labels mean what browsers take them for; UTF-8 is known by itself; a wrong label is refused."
    for label, data, text in (
        ("iso-8859-1", b"\x93caf\xe9\x94", "“café”"),
        ("ascii", b"caf\xe9", "café"),
        ("iso-8859-1", "café – Łódź".encode(), "café – Łódź"),
        ("no-such-name", "café".encode(), "café"),
        ("utf-16", "café".encode(), "café"),
        ("utf-16", b"cafe", "cafe"),
    ):
        (docs / "a.html").write_bytes(f"<meta charset={label}><p>".encode() + data)
        assert texts()["a.html"][1] == text
    for label in ("utf-8", "shift_jis", "no-such-name"):
        (docs / "a.html").write_bytes(f"<meta charset={label}><p>".encode() + b"caf\xe9")
        with pytest.raises(DataError, match="a.html: it is not .*; save it as UTF-8"):
            corpus()


@pytest.mark.parametrize(
    "data",
    [
        *(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0", b"PK\x03\x04\x14\0\0\0", b"\x7fELF\x02\x01\x01\0\0\0\0\0"),
        *(b"text\0text", b"\0", b"\xff\xfe\x00", b"\xff\xfe\x00\xd8", b"\xef\xbb\xbf\xff", bytes(range(256))),
    ],
)
@pytest.mark.parametrize("ending", ["txt", "md", "html"])
def test_what_is_no_text_is_refused(docs, data, ending):
    (docs / f"a.{ending}").write_bytes(data)
    with pytest.raises(DataError, match=f"a.{ending}: it is (no text|not UTF)"):
        corpus()


def test_line_breaks_of_any_system(docs):
    (docs / "a.md").write_bytes(b"# Title\r\n\r\none\r\ntwo\rthree")
    assert texts()["a.md"] == ("Title", "one\ntwo\nthree")


# --- end tags that HTML allows to leave out


@pytest.mark.parametrize(
    "html, text",
    [
        ("<table><tr><th>Name<th>Year<tr><td>Ulvo<td>1864</table>", "Name Year\nUlvo 1864"),
        ("<table><thead><tr><td>a<td>b<tbody><tr><td>c<td>d</table>", "a b\nc d"),
        ("<table><caption>Ferries<tr><td>a<td>b", "Ferries\na b"),
        ("<table><tr><td><p>a<td><p>b<tr><td>c</table>", "a\nb\nc"),
        ("<ul><li>one<li>two<ul><li>three</ul><li>four</ul>", "one\ntwo\nthree\nfour"),
        ("<dl><dt>Ferry<dd>at nine<dt>Train<dd>at ten</dl>", "Ferry\nat nine\nTrain\nat ten"),
        ("<p>one<p>two<div>three</div>", "one\ntwo\nthree"),
        ("<select><option>red<option>blue</select>", "red\nblue"),
        ("<details><summary>More</summary>text</details>", "More\ntext"),
        ("<html><head><title>T</title><body><p>text", "text"),
        ("<head><title>T</title><style>p{}</style><p>text", "text"),
        ("<title>T</title><meta charset=utf-8><p>text", "text"),
        ("<p>one<p><button>two</button><button>three</button><iframe>four</iframe>", "one\ntwo three"),
        ("<p>H<sub>2</sub>O and <b>18</b>64", "H2O and 1864"),
    ],
)
def test_end_tags_may_be_left_out(docs, html, text):
    (docs / "a.html").write_text(html)
    assert texts()["a.html"][1] == text


def test_a_page_in_xhtml_is_read_without_a_word(docs, recwarn):
    (docs / "a.html").write_bytes('<?xml version="1.0" encoding="iso-8859-1"?><p>Café</p>'.encode("latin-1"))
    assert texts()["a.html"][1] == "Café" and not recwarn.list
