"Every article and every question of the Almanac and of Meridia, and the fact tables they are made from."

import csv
import os
import re
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from llmforge.almanac import almanac, almanac_chapters, almanac_corpus, meridia, passage_id
from llmforge.core import DataError, corpora, datasets
from llmforge.files import project_root
from llmforge.templates import WORLDS, articles, asks, facts, parse_texts, say, texts

CORPUS = almanac_corpus()
TEXT = {p.id: p.text for p in CORPUS.passages}
SETS = (almanac(), meridia())
EXAMPLES = [e for d in SETS for e in d.examples]
EVERY = EXAMPLES + [e for d in SETS for e in d.pool]


def plain(text):
    return " " + re.sub(r"\W+", " ", text.replace(",", "").casefold()).strip() + " "


PLAIN = {id: plain(text) for id, text in TEXT.items()}


def states(passage, *values):
    return any(plain(v) in PLAIN[passage] for v in values)


# ---- sizes ----


def test_sizes():
    kinds, fiction = (Counter(e.kind for e in d.examples) for d in SETS)
    worlds = Counter(p.id.split("/")[0] for p in CORPUS.passages)
    assert worlds["almanac"] >= 400 and worlds["meridia"] >= 60
    assert kinds["single_hop"] >= 400 and kinds["two_hop"] >= 80 and kinds["calculation"] >= 60
    assert fiction.total() >= 120 and set(fiction) == set(kinds) == {"single_hop", "two_hop", "calculation"}


def test_the_first_hundred_are_a_mix():
    for d in SETS:
        assert (
            min(
                Counter(e.kind for e in d.examples[:100])[k] for k in ("single_hop", "two_hop", "calculation")
            )
            >= 5
        )
        assert len({e.meta["table"] for e in d.examples[:100]}) >= 5


def test_registered():
    assert (
        datasets.get("almanac") is almanac
        and datasets.get("meridia") is meridia
        and corpora.get("almanac") is almanac_corpus
    )


# ---- evidence ----


@pytest.mark.parametrize("kind", ["single_hop", "two_hop"])
def test_the_last_gold_passage_holds_the_answer(kind):
    missing = [e.id for e in EVERY if e.kind == kind and not states(e.gold[-1], *e.answers)]
    assert not missing


def test_the_first_gold_passage_of_two_hops_names_the_bridge():
    title = {p.id: re.sub(r" \(\w+\)$", "", p.title) for p in CORPUS.passages}
    two = [e for e in EVERY if e.kind == "two_hop"]
    assert not [e.id for e in two if not states(e.gold[0], title[e.gold[1]])]
    assert all(len(e.gold) == 2 for e in two)
    assert not [e.id for e in two if plain(title[e.gold[1]]) in plain(e.question)], (
        "the question names the bridge"
    )


def test_gold_passages_hold_the_operands_and_the_result_is_right():
    for e in EVERY:
        if e.kind != "calculation":
            continue
        a, sign, b, result = re.search(r"(\d+) ([-+]) (\d+) = (\d+)\.$", e.rationale).groups()
        assert states(e.gold[0], a) and states(e.gold[-1], b), e.id
        assert (
            int(result) == (int(a) + int(b) if sign == "+" else int(a) - int(b)) > 0
            and e.answers[0] == result
        ), e.id


def test_every_fact_used_stands_in_its_passage():
    rows = {passage_id(t, r): r for t in articles() for r in facts(t)}
    for e in EVERY:
        for used in e.meta["facts"]:
            id, column = used.rsplit(":", 1)
            assert id in e.gold
            assert column == "order" or states(id, *(v.lstrip("-") for v in rows[id][column])), (e.id, used)


def test_the_rationale_leads_to_the_answer():
    for e in EVERY:
        assert any(plain(a) in plain(e.rationale) for a in e.answers), e.id
        assert "answer is" not in e.rationale and len(e.rationale.split()) < 60


def test_gold_passages_exist_and_are_about_the_question():
    for e in EVERY:
        assert all(g in TEXT for g in e.gold) and e.gold, e.id


# ---- questions ----


def test_ids_and_questions_are_unique():
    assert len({e.id for e in EVERY}) == len(EVERY)
    assert len({plain(e.question) for e in EVERY}) == len(EVERY)


def test_no_fact_is_asked_twice_among_single_hop_questions():
    asked = Counter(f for e in EVERY if e.kind == "single_hop" for f in e.meta["facts"])
    assert max(asked.values()) == 1


def test_questions_are_self_contained_and_do_not_hold_their_answer():
    for e in EVERY:
        assert not any(plain(a) in plain(e.question) for a in e.answers), (e.question, e.answers)
        assert e.question[0].isupper() or e.question[0].isdigit() or e.question[0] == "d", e.question
        assert e.question.endswith(("?", ".")) and 3 <= len(e.question.split()) <= 45, e.question
        if e.id.startswith("meridia/"):
            assert "Meridia" in e.question, e.question


def test_an_exemplar_tells_no_answer():
    for d, least in zip(SETS, (16, 8)):
        told = {f for e in d.pool for f in e.meta["facts"]}
        assert len(d.pool) >= least and {e.kind for e in d.pool[:5]} == {
            "single_hop",
            "two_hop",
            "calculation",
        }
        assert all(len(e.answers[0].split()) <= 3 for e in d.pool[:5])
        assert not [e.id for e in d.examples if told & set(e.meta["facts"])]


def test_answers_are_clean():
    for e in EVERY:
        assert e.answers and len(set(e.answers)) == len(e.answers)
        assert all(a == a.strip() and a for a in e.answers), e.id


# ---- texts ----


def test_titles_are_unique_and_lengths_fit_a_chunk():
    assert len({p.title for p in CORPUS.passages}) == len(CORPUS.passages) == len(TEXT)
    lengths = [len(t.split()) for t in TEXT.values()]
    assert min(lengths) >= 50 and max(lengths) <= 220 and sum(n < 60 for n in lengths) <= 10


ARTEFACT = re.compile(
    r"[{}|;]{2}|[{}|]|  | [,?]| \.(?!\w)|\.\.|\?\?|\b(None|nan|NaN|True|False)\b|\ba [aeio]\w"
    r"|\ban [bcdfgjkpqtvwz]\w|\b(the the|and and|a the|an the|of of|in in)\b"
)


@pytest.mark.parametrize(
    "texts",
    [list(TEXT.values()), [e.question for e in EVERY], [e.rationale for e in EVERY]],
    ids=["articles", "questions", "rationales"],
)
def test_no_template_artefacts(texts):
    found = [
        (m[0], t)
        for t in texts
        if (m := ARTEFACT.search(t)) and not re.search(r"\ba (one|once|European|eu)", t[m.start() :])
    ]
    assert not found


def test_every_sentence_begins_with_a_capital():
    for id, text in TEXT.items():
        assert not re.search(r'[a-zé]{3}[.?!]"? [a-z]', re.sub(r"Sheep\?|Whaam!", "X", text)), (id, text)


def test_wording_varies():
    for table in articles():
        rows, texts = facts(table), [p.text for p in CORPUS.passages if p.meta["table"] == table]
        openings = {" ".join(text.replace(r["name"][0], "X").split()[:5]) for r, text in zip(rows, texts)}
        assert len(set(texts)) == len(rows) and (len(openings) >= 2 or table == "planets"), table


# ---- the same everywhere ----


def test_published_content_stays():
    "Ids of published experiments are made from these: a changed table or text makes another data set."
    made = (almanac(), meridia(), almanac_corpus(), almanac_chapters())
    assert [d.fingerprint for d in made] == [
        "b1745ec579cdb641",
        "d68ea78a87dcaf01",
        "f8edb81207d8dbc5",
        "3093733ace766a67",
    ]


@pytest.mark.slow
def test_the_same_in_every_process():
    code = (
        "from llmforge.almanac import *;"
        "print(almanac().fingerprint, meridia().fingerprint, almanac_corpus().fingerprint)"
    )
    prints = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in "07"
    }
    assert prints == {f"{almanac().fingerprint} {meridia().fingerprint} {CORPUS.fingerprint}"}


# ---- the fact tables ----

TABLES = {t: [{k: "; ".join(v) for k, v in r.items()} for r in facts(t)] for t in articles()}


def column(table, name):
    return [r[name] for r in facts(table)]


def names(table):
    return {r["name"][0] for r in facts(table)}


@pytest.mark.parametrize("table", sorted(articles()))
def test_a_table_is_well_formed(table):
    with (files("llmforge") / "facts" / f"{table}.csv").open(encoding="utf-8", newline="") as f:
        cells = list(csv.reader(f))
    header, rows = cells[0], cells[1:]
    assert not [r for r in rows if len(r) != len(header)]
    assert len({r[0] for r in rows}) == len(rows) and all(r[0] for r in rows)
    for r in rows:
        for k, v in zip(header, r):
            assert v == v.strip() and "\n" not in v and "  " not in v, (r[0], k)
            if re.search(r"(^|_)year(_discovered)?$|_(m|km|days)$|^(number|order|period|group)$", k) and v:
                assert all(re.fullmatch(r"-?\d+", part) for part in v.split(";")), (r[0], k, v)
        note = dict(zip(header, r))["note"]
        assert 10 <= len(note.split()) <= 45 and note[-1] in '."', r[0]


def test_every_packaged_file_is_used():
    "Each table has an article, each file of texts belongs to a world, and setup.py ships them all."
    packaged = {f.name for f in (files("llmforge") / "facts").iterdir()}
    tables = {f"{t}.csv" for t in articles()}
    parts = {f"{name}.yaml" for w in WORLDS for name in (w, *texts(w).texts)}
    assert packaged == tables | parts | {"preferences.yaml"}  # the last: of llmforge.pairs
    patterns = re.findall(r'"facts/\*(\.\w+)"', (project_root() / "setup.py").read_text())
    assert {Path(name).suffix for name in packaged} == set(patterns)
    manifest = re.search(r"llmforge/facts (.*)", (project_root() / "MANIFEST.in").read_text())[1]
    assert manifest.split() == [f"*{p}" for p in patterns]


COUNTRIES_YAML = (files("llmforge") / "facts" / "countries.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("{capital}", "{capitol}", "articles.countries: no column 'capitol'; allowed: name,"),
        ("{currency|low}", "{currency|lower}", "no filter 'lower'; allowed: and, or"),
        ("answer: tld", "answer: domain", "questions.countries.domain: no column 'domain'"),
        ("by: capital", "by: capitol", "questions.countries.name: no column 'capitol'"),
        ("opening:", "openings:", "articles.countries.openings: unknown key; .*did you mean 'opening'"),
        ("limit: 32", "limit: many", r"questions.countries.0.limit: .*received 'many'"),
        ("sign: '-'", "sign: minus", r"questions.countries.8.sign: must be one of , -, \+; received 'minus'"),
        (
            "  countries:\n    - answer",
            "  lands:\n    - answer",
            "countries.yaml: questions.lands: no article for this table",
        ),
        ("noun: country", "noun: country\n    noun: land", "'noun' is given twice"),
        (
            "  countries:\n    noun",
            "  lands:\n    noun",
            "no file of facts 'lands.csv'; allowed: authors.csv",
        ),
        (
            "{currency|low}",
            "{currency |low}",
            r"a brace of .*\{currency \|low\}.* is of no field; allowed: \{col",
        ),
    ],
)
def test_a_mistake_in_the_texts_is_one_clear_error(old, new, words):
    assert old in COUNTRIES_YAML
    with pytest.raises(DataError, match=words):
        parse_texts(COUNTRIES_YAML.replace(old, new), "countries.yaml")


def test_of_no_templates_none_is_said():
    assert say([], facts("countries")[0]) is None


def test_questions_name_columns_that_exist():
    for ask in asks():
        header = set(facts(ask.table)[0]) | {f"to_{c}" for c in facts(ask.to or ask.table)[0]}
        for t in (*ask.questions, ask.because):
            assert set(re.findall(r"\{(\w+)", t)) <= header, t


@pytest.mark.parametrize("table", ["scientists", "authors", "composers", "meridia_people"])
def test_people_are_born_before_they_die(table):
    for r in facts(table):
        if r["born_year"] and r["died_year"]:
            assert 14 < int(r["died_year"][0]) - int(r["born_year"][0]) < 110, r["name"]


def test_elements_are_complete():
    rows = facts("elements")
    assert [int(r["number"][0]) for r in rows] == list(range(1, 119))
    assert len({r["symbol"][0] for r in rows}) == 118 and all(
        re.fullmatch(r"[A-Z][a-z]?", r["symbol"][0]) for r in rows
    )
    assert all(1 <= int(r["period"][0]) <= 7 for r in rows) and all(
        1 <= int(r["group"][0]) <= 18 for r in rows if r["group"]
    )
    ends = {1: 2, 2: 10, 3: 18, 4: 36, 5: 54, 6: 86, 7: 118}  # the noble gas that ends each period
    for r in rows:
        n = int(r["number"][0])
        assert int(r["period"][0]) == min(p for p, last in ends.items() if n <= last), r["name"]
    assert {r["name"][0] for r in rows if r["category"][:1] == ("noble gas",)} == {
        "Helium",
        "Neon",
        "Argon",
        "Krypton",
        "Xenon",
        "Radon",
        "Oganesson",
    }


def test_countries_agree_with_themselves():
    rows = facts("countries")
    for key in ("capital", "tld"):
        values = [r[key][0] for r in rows if r[key]]
        assert len(values) == len(set(values)), key
    assert all(
        r["capital"] and re.fullmatch(r"\.[a-z]{2}", r["tld"][0]) and r["landlocked"][0] in ("yes", "no")
        for r in rows
    )
    assert all(
        set(r["continent"]) <= {"Africa", "Asia", "Europe", "North America", "South America", "Oceania"}
        for r in rows
    )
    assert not [r["name"] for r in rows if r["largest_city"] and r["largest_city"][0] in r["capital"]]


COUNTRIES = {v for r in facts("countries") for v in (*r["name"], *r["aliases"])}
ELSEWHERE = {"Indonesia", "Israel", "Palestine"}  # not in the table: their capitals are moving or disputed
UK = {"England", "Scotland", "Wales", "Northern Ireland"}


@pytest.mark.parametrize(
    "table, key",
    [
        ("scientists", "birth_country"),
        ("authors", "birth_country"),
        ("composers", "birth_country"),
        ("inventions", "country"),
        ("mountains", "country"),
        ("rivers", "source_country"),
        ("rivers", "mouth_country"),
        ("lakes", "country"),
    ],
)
def test_countries_are_spelt_as_in_their_table(table, key):
    for r in facts(table):
        if r[key]:
            assert r[key][0] in names("countries") | ELSEWHERE, (r["name"], r[key])
        assert set(r[key]) <= COUNTRIES | UK | ELSEWHERE, (r["name"], r[key])


def test_books_and_authors_agree():
    written = {r["author"][0] for r in facts("books")}
    assert names("authors") <= written
    born = {r["name"][0]: r for r in facts("authors")}
    for b in facts("books"):
        if (a := born.get(b["author"][0])) and b["year"] and a["born_year"]:
            assert int(b["year"][0]) - int(a["born_year"][0]) > 12, b["name"]


def test_moons_belong_to_planets_and_were_found_in_order():
    assert {p for r in facts("moons") for p in r["planet"]} <= names("planets")
    assert [int(r["order"][0]) for r in facts("planets")] == list(range(1, 9))
    for key in ("year_days",):
        assert (v := [int(x[0]) for x in column("planets", key)]) == sorted(v)


def test_one_person_has_one_birth():
    seen = {}
    for table in ("scientists", "authors", "composers"):
        for r in facts(table):
            life = (r["born_year"], r["died_year"])
            assert seen.setdefault(r["name"][0], life) == life, r["name"]


def test_discoverers_lived_at_the_time():
    lives = {r["name"][0]: r for r in facts("scientists")}
    for table, who, year in (
        ("elements", "discoverer", "year_discovered"),
        ("moons", "discoverer", "year"),
        ("inventions", "inventor", "year"),
    ):
        for r in facts(table):
            for name in r[who]:
                if name in lives and r[year] and lives[name]["born_year"]:
                    assert (
                        int(lives[name]["born_year"][0]) + 15
                        < int(r[year][0])
                        <= int(lives[name]["died_year"][0])
                    ), (r["name"], name)


def test_mountains_are_lower_than_everest():
    heights = [int(r["height_m"][0]) for r in facts("mountains") if r["height_m"]]
    assert max(heights) == 8849 and min(heights) > 500


def test_meridia_agrees_with_itself():
    towns, provinces, people, rivers = (
        names(f"meridia_{t}") for t in ("towns", "provinces", "people", "rivers")
    )
    province = {r["name"][0]: r["province"][0] for r in facts("meridia_towns")}
    assert set(province.values()) == provinces
    assert all(province[r["capital"][0]] == r["name"][0] for r in facts("meridia_provinces"))
    assert all(set(r["river"]) <= rivers for r in facts("meridia_towns"))
    life = {r["name"][0]: (int(r["born_year"][0]), int(r["died_year"][0])) for r in facts("meridia_people")}
    for r in facts("meridia_people"):
        assert r["birthplace"][0] in towns
        for t in r["teacher"]:
            assert life[t][0] < life[r["name"][0]][0] < life[t][1], r["name"]
    for r in facts("meridia_works"):
        born, died = life[r["maker"][0]]
        assert born + 12 < int(r["year"][0]) <= died and r["place"][0] in towns, r["name"]
    for r in facts("meridia_towns"):
        if (f := r["founder"][0]) in life:
            assert life[f][0] < int(r["founded_year"][0]) <= life[f][1], r["name"]


def test_meridia_is_not_of_this_world():
    real = {p.title.casefold() for p in CORPUS.passages if p.id.startswith("almanac/")}
    assert not [
        p.title for p in CORPUS.passages if p.id.startswith("meridia/") and p.title.casefold() in real
    ]
