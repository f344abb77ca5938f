"Tools: hostile expressions, arguments and tools, and a Wikipedia that misbehaves, each cost one observation."

import asyncio
import gzip
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Annotated, Literal
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import Field

from llmforge import lookup
from llmforge.calculator import calculator
from llmforge.core import ConfigError, tools
from llmforge.lookup import find_title
from llmforge.records import Corpus, Passage
from llmforge.tools import ToolResult, call_tool, printable, tool
from llmforge.trace import span, to_dict
from llmforge.traceview import walk


def call(*args, **kwargs):
    return asyncio.run(call_tool(*args, **kwargs))


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    "Tools that a test registers are gone after it."
    monkeypatch.setattr(tools, "_entries", dict(tools._entries))


# The calculator

HOSTILE = [
    # names, attributes, calls
    "__import__('os').system('id')",
    "__import__",
    "__builtins__",
    "().__class__.__bases__[0].__subclasses__()",
    "(1).__class__",
    "1 .real",
    "1..real",
    "(1).bit_length()",
    "1.0.hex()",
    "open('/etc/passwd').read()",
    "exec('1')",
    "eval('1')",
    "compile('1','','eval')",
    "globals()",
    "locals()",
    "vars()",
    "dir()",
    "getattr(1,'real')",
    "setattr(1,'a',1)",
    "input()",
    "breakpoint()",
    "exit()",
    "quit()",
    "help()",
    "print(1)",
    "os",
    "os.system",
    "self",
    "text",
    "Fraction(1)",
    "math.pi",
    "pi",
    "e",
    "True",
    "None",
    "...",
    "abs",
    "abs.__self__",
    "abs.__call__(1)",
    "abs(abs)",
    "abs()",
    "abs(1, 2)",
    "abs(x=1)",
    "abs(*(1,))",
    "abs(**{})",
    "sqrt(-1)",
    "round(1, 10**9)",
    "round(1, 99999)",
    "round(1, -5)",
    "round(1, 0.5)",
    "round(round)",
    "max(1,2)",
    "pow(9,9)",
    "sum([1])",
    "int('9'*999)",
    "range(10**9)",
    "len('a')",
    "chr(65)",
    "type(1)",
    "factorial(99999)",
    # size
    "9**9**9",
    "9**9**9**9**9",
    "(9**9)**(9**9)",
    "10**1000000",
    "10**-1000000",
    "2**99999999999",
    "0.5**99999999",
    "4000000**4000000",
    "99999**99999",
    "(" + "9**99*" * 40 + "1)",
    "9" * 299,
    "0." + "0" * 290 + "1/3",
    "1e308*10",
    "1e308**2",
    "1e999",
    "1e-999",
    "1e999999999",
    "1e-999999999",
    "1e99999999999999999999",
    "9" * 5000,
    "1" * 1_000_000,
    "1+" * 500_000 + "1",
    "(1+1e-300)**1e300",
    "(1/3)**(1/3)**999**999",
    "3**0.5**-9999",
    "1.0000001**1e99",
    "*".join(["1e300"] * 40),
    "*".join(["sqrt(2)"] * 35),
    "/".join(["7.7777777"] * 29),
    "+".join(f"1/{n}" for n in range(1, 60)),
    "2**1024",
    "-(2**1024)",
    "7**7**7",
    "1e300*1e300-1e300*1e300",
    "9%9**9**9",
    "9//9**9**9",
    # nesting
    "(" * 100 + "1" + ")" * 100,
    "(" * 140 + ")" * 140,
    "(" * 50_000 + "1" + ")" * 50_000,
    "-" * 299 + "1",
    "-" * 100_000 + "1",
    "+-" * 149 + "1",
    "1" + "**1" * 99,
    "1" + "+1" * 149,
    "2" + "**2" * 60,
    "[" * 100 + "]" * 100,
    "abs(" * 70 + "1" + ")" * 70,
    "((((",
    "))))",
    ")(",
    # no number
    "1/0",
    "0/0",
    "1//0",
    "1%0",
    "0**-1",
    "0.0**-0.5",
    "(-8)**(1/3)",
    "(-1)**0.5",
    "nan",
    "inf",
    "-inf",
    "float('nan')",
    "float('inf')",
    "1e",
    "0x10",
    "0b11",
    "0o7",
    "1_000",
    "1j",
    "1+2j",
    "1if 1 else 2",
    "007",
    # other syntax
    "lambda: 1",
    "(lambda: 9**9**9)()",
    "(lambda f: f(f))(lambda f: f(f))",
    "[x for x in range(9**9)]",
    "{x for x in (1,)}",
    "{1: 2}",
    "{1, 2}",
    "(x for x in ())",
    "[1, 2][0]",
    "(1, 2)",
    "1, 2",
    "f'{9**9**9}'",
    "f'{1:>999999999}'",
    "'%999999999d' % 1",
    "'{:>999999999}'.format(1)",
    "'a' * 999999999",
    "'1'",
    "b'1'",
    '"1" * 9',
    "'a'.join(['b'])",
    "(y := 1)",
    "y = 1",
    "await 1",
    "yield 1",
    "not 1",
    "1 and 2",
    "1 < 2",
    "1 == 1",
    "1 is 1",
    "1 in (1,)",
    "1 if 1 else 0",
    "1 << 99999999",
    "1 >> 1",
    "1 & 1",
    "1 | 1",
    "~1",
    "1 @ 1",
    "1; 1",
    "1\n2",
    "import os",
    "del x",
    "#",
    "1 # 2",
    "\\",
    "1\\\n+1",
    "*1",
    "**1",
    "1 +",
    "+",
    "",
    " ",
    "\n",
    "'",
    "`",
    "=",
    "?",
    "%",
    "$",
    ",",
    ".",
    "1..2",
    "1.2.3",
    "1,2,3",
    "2(3)",
    "(2)(3)",
    "200 + 10%",
    # characters
    "１+１",
    "٣+٤",
    "²",
    "2²",
    "½",
    "Ⅷ",
    "1\u200b+1",
    "1\x00+1",
    "\x00",
    "1\u202e+1",
    "\ud800",
    "1+\ud800",
    "𝟏+𝟏",
    "а+1",
    "ａｂｓ(1)",
    "ⅇ",
    "∞",
    "√4",
    "π",
    "1\x1b[31m+1",
    "\x1b]0;x\x07",
    "<script>alert(1)</script>",
    "${7*7}",
    "{{7*7}}",
    "%s%s%n",
    "'; drop table runs; --",
    "1" + "\t" * 1_000_000 + "+1",
    "a" * 1_000_000,
    "%" * 300,
    "1%" * 149,
    "," * 300,
    "1,000" * 59,
    "$" * 299 + "1",
    "1 x " * 74 + "1",
    "= " * 149,
    "5%" + "+5%" * 90,
    "(5%) - 5%" * 30,
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("expression", HOSTILE, ids=lambda e: ascii(e[:24]))
def test_hostile_expressions_are_refused_or_bounded(expression):
    r = asyncio.run(call_tool("calculator", {"expression": expression}))
    assert len(r.text) <= 700 and "\n" not in r.text and "\x1b" not in r.text
    if r.failed:
        assert r.text.startswith("error: ") and len(r.text) > 20
    else:
        assert abs(Fraction(r.text)) < 2**1024 and not set(r.text) - set("0123456789.-e")


@pytest.mark.slow
def test_most_hostile_expressions_are_refused():
    assert len(set(HOSTILE)) >= 200
    bounded = [e for e in HOSTILE if not call("calculator", {"expression": e}).failed]
    assert len(bounded) < 30, bounded


@pytest.mark.parametrize(
    "expression, value",
    {
        "1,827 / 3": "609",
        "12,345,678 + 1": "12345679",
        "2^10 − 24": "1000",
        "3 × 4 ÷ 2": "6",
        "$5.50 * 12 =": "66",
        "12*3=?": "36",
        "€ 1,200 / 4": "300",
        "15% of 80": "12",
        "(10 + 5%*100) of 2": "30",
        "50%": "0.5",
        "200 * (1 + 10%)": "220",
        "100 - 15% of 100": "85",
        "17 % 5": "2",
        "-7 // 2": "-4",
        "0.1 + 0.2": "0.3",
        "1/3*3": "1",
        "2/3": "0.6666666667",
        "sqrt(2)**2": "2",
        "sqrt(16)": "4",
        "round(2.5)": "3",
        "round(-2.5)": "-3",
        "round(1.005, 2)": "1.01",
        "abs(3 - 10)": "7",
        "-2**2": "-4",
        "2**-1": "0.5",
        "8**(1/3)": "2",
        "1e-20": "1e-20",
        "12345678901.555": "12345678901.56",
        "10**20 + 1": "100000000000000000001",
        "1e3": "1000",
        "3 x 4": "12",
        "`3+4`": "7",
        "1200 * 1.00375^360": "4617.23766",
        "1 +\n 2": "3",
        "7**100": str(7**100),
        "99999999999 * 99999999999": str(99999999999**2),
        ".5 + 5.": "5.5",
        "2 * -3": "-6",
        "2**3**2": "512",
        "100/7": "14.28571429",
        "1000000/7": "142857.1429",
        "(5 + 20 % 3)": "7",
        "ABS(-1)": "1",
    }.items(),
)
def test_arithmetic(expression, value):
    assert calculator(expression) == value


def test_arithmetic_agrees_with_python():
    "500 random expressions over integers, against Python's own fractions."
    import random

    r = random.Random(0)

    def make(depth):
        return (
            str(r.randint(0, 99))
            if not depth
            else f"({make(depth - 1)} {r.choice('+-*/')} {make(depth - 1)})"
        )

    for _ in range(500):
        text = make(r.randint(1, 4))
        try:
            expected = eval(__import__("re").sub(r"\d+", r"Fraction(\g<0>)", text))
        except ZeroDivisionError:
            assert call("calculator", {"expression": text}).failed
            continue
        shown = Fraction(calculator(text))
        assert (
            shown == expected
            if expected.denominator == 1
            else abs(shown - expected) <= abs(expected) * Fraction(1, 10**9)
        )


# Declarations


def test_schema_comes_from_the_function():
    @tool(opening="I need to convert")
    def convert(
        amount: float,  # how much
        unit: Literal["km", "mi"] = "km",  # of what
        digits: Annotated[int, Field(ge=0, le=9)] = 2,  # after the point
        json: list[str] | None = None,
        *,
        context,
    ) -> str:
        """Convert a length.

        More about it."""
        return f"{amount} {unit} {digits} {context}"

    assert (
        tools.get("convert") is convert
        and convert.opening == "I need to convert"
        and convert.description == "Convert a length."
    )
    p = convert.input_schema["properties"]
    assert (
        list(p) == ["amount", "unit", "digits", "json"]
        and convert.input_schema["required"] == ["amount"]
        and convert.input_schema["additionalProperties"] is False
    )
    assert (
        p["amount"] == {"type": "number", "description": "how much"}
        and p["unit"]["enum"] == ["km", "mi"]
        and (p["digits"]["minimum"], p["digits"]["default"]) == (0, 2)
    )
    json_ = __import__("json")
    json_.dumps(convert.input_schema)
    assert call("convert", {"amount": "3.5", "json": ["a"]}, "K").text == "3.5 km 2 K"
    assert convert(1, context=0) == "1 km 2 0"


def test_opening_has_a_default():
    @tool
    async def ping() -> str:
        "Answer."
        return "pong"

    assert (
        ping.opening == "I need to use ping for"
        and call("ping", {}).text == "pong"
        and call("ping", {"x": 1}).text.endswith("allowed: no arguments")
    )


def bad_declarations():
    def no_docstring(a: str):
        return a

    def no_annotation(a):
        "Doc."

    def star(*a: str):
        "Doc."

    def stars(**a: str):
        "Doc."

    def positional(a: str, /):
        "Doc."

    def plain_context(context):
        "Doc."

    def unknown_type(a):
        "Doc."

    unknown_type.__annotations__["a"] = "Nowhere"  # as in a file whose import was forgotten

    def no_schema(a: Callable):
        "Doc."

    def arbitrary(a: threading.Lock):
        "Doc."

    return [
        no_docstring,
        no_annotation,
        star,
        stars,
        positional,
        plain_context,
        unknown_type,
        no_schema,
        arbitrary,
        lambda a: a,
    ]


@pytest.mark.parametrize("f", bad_declarations(), ids=lambda f: f.__name__)
def test_bad_declarations_are_refused_at_once(f):
    with pytest.raises(ConfigError, match="^tool "):
        tool(f)
    assert f.__name__ not in tools.names()


# Arguments


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({}, "'expression' is missing"),
        ({"expresion": "1"}, "did you mean 'expression'"),
        ({"expression": ["1"]}, "valid string"),
        ({"expression": None}, "valid string"),
        ({"expression": {"a": 1}}, "valid string"),
        ({"expression": "1", "precision": 3}, "unknown argument 'precision'"),
        ({1: 2}, "unknown argument"),
        ("1 + 1", "must be a JSON object; received str"),
        (None, "received NoneType"),
        ([1], "received list"),
        ({"arg_expression": "1"}, "unknown argument"),
        ({"context": 1, "expression": "1"}, "unknown argument 'context'"),
        ({f"k{i}": i for i in range(10_000)}, "unknown argument 'k0'"),
        ({"x" * 1_000_000: 1}, "unknown argument"),
        ({"\x1b[31m\ud800": "\x00"}, "unknown argument"),
    ],
    ids=lambda a: ascii(a)[:30],
)
def test_wrong_arguments_are_told_in_one_line(arguments, said):
    with span("chain", "x") as s:
        r = call("calculator", arguments)
    assert (
        r.failed
        and said in r.text
        and "allowed: expression (string)" in r.text
        and "\n" not in r.text
        and len(r.text) < 700
        and "\x1b" not in r.text
    )
    assert len(json.dumps(to_dict(s), ensure_ascii=False, allow_nan=False).encode()) < 10_000


def test_a_number_for_a_text_is_taken():
    assert call("calculator", {"expression": 42}).text == "42"


@pytest.mark.slow
def test_nested_arguments_that_exhaust_the_stack():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert call("calculator", {"expression": deep}).failed


def test_numbers_that_json_cannot_hold():
    with span("chain", "x") as s:
        r = call("retrieval", {"query": "x", "k": float("nan"), "n": 10**5000, "b": b"x"})
    assert r.failed and s.children[0].input == {"query": "x", "k": "(float)", "n": "(int)", "b": "(bytes)"}


@pytest.mark.parametrize("limit", [0, 1, 29, 30, 31, 40])
def test_no_result_is_longer_than_its_limit(limit):
    assert len(printable("x" * 1000, limit)) == limit


def test_unknown_names():
    assert (
        call("calculater", {}).text
        == "error: unknown tool 'calculater'; allowed: calculator, retrieval, wikipedia_search "
        "(did you mean 'calculator'?)"
    )
    assert (
        call("calculator", {"expression": "1"}, allowed=["retrieval"]).text
        == "error: unknown tool 'calculator'; allowed: retrieval"
    )
    for name in ["", "x" * 1_000_000, "\x1b[31m", "\ud800", None, "__class__"]:
        assert (r := call(name, {})).failed and len(r.text) < 300 and r.text.isprintable()


# Tools that go wrong


class Stop(BaseException):
    pass


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no")


def behave(how):
    def recurse():
        return recurse()

    match how:
        case "raise":
            raise RuntimeError("first line\nsecond \x1b[31mline")
        case "secret":
            raise ValueError("401 for token hf_abcdefghijklmnop and Bearer abc.def")
        case "interrupt":
            raise KeyboardInterrupt
        case "exit":
            sys.exit(3)
        case "stop":
            raise Stop("enough")
        case "generator":
            raise GeneratorExit
        case "iteration":
            raise StopIteration(1)
        case "cancel":
            raise asyncio.CancelledError
        case "mute":
            raise Mute
        case "recurse":
            recurse()
        case "memory":
            raise MemoryError
        case "long":
            raise RuntimeError("x" * 10_000_000)
        case "dict":
            return {"a": 1}
        case "none":
            return None
        case "bytes":
            return b"abc"
        case "result of bytes":
            return ToolResult(b"abc")
        case "10 MB":
            return "\x1b[31m é " * 1_300_000
        case "controls":
            return "a\x00b\x1b[2Jc\ud800d\u202ee\x9b31mf\r\n\tg\x1b]0;title\x07h"
        case "failed":
            return ToolResult("no luck", failed=True, source="here")


def define(kind):
    if kind == "sync":

        @tool
        def wild(how: str) -> str:
            "Go wrong."
            return behave(how)
    else:

        @tool
        async def wild(how: str) -> str:
            "Go wrong."
            await asyncio.sleep(0)
            return behave(how)


SAID = {
    "raise": "error: RuntimeError: first line second line",
    "secret": "error: 401 for token *** and ***",
    "exit": "error: SystemExit: 3",
    "stop": "error: Stop: enough",
    "generator": "error: GeneratorExit",
    "iteration": "error: ",
    "cancel": "error: CancelledError",
    "mute": "error: Mute",
    "recurse": "error: RecursionError: maximum recursion",
    "memory": "error: MemoryError",
    "dict": "error: the tool returned dict; a tool must return str or ToolResult",
    "none": "error: the tool returned NoneType",
    "bytes": "error: the tool returned bytes",
    "result of bytes": "error: the tool returned ToolResult with a text of type bytes",
    "long": "error: RuntimeError: xxx",
    "failed": "no luck",
}
MARKS = {"long": pytest.mark.slow}


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("how", [pytest.param(how, marks=MARKS.get(how, ())) for how in SAID])
def test_a_failure_is_an_observation(how, kind):
    define(kind)
    with span("chain", "x") as s:
        r = call("wild", {"how": how})
    assert (
        r.failed
        and r.text.startswith(SAID[how])
        and len(r.text) <= 600
        and "\n" not in r.text
        and "hf_" not in json.dumps(to_dict(s))
    )
    [t] = walk(to_dict(s), "tool")
    assert (
        (t["name"], t["input"], t["output"], t["attributes"]["failed"])
        == ("wild", {"how": how}, r.text, True)
        and "error" not in t
        and t["attributes"]["work_ms"] >= 0
    )
    assert t["attributes"].get("source", "") == r.source


def test_interrupts():
    "In a thread it is never the user's; on the event loop it may be, so it passes."
    define("sync")
    assert call("wild", {"how": "interrupt"}).text == "error: KeyboardInterrupt"
    define("async")
    with pytest.raises(KeyboardInterrupt):
        call("wild", {"how": "interrupt"})


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_results_are_cut_and_cleaned(kind):
    define(kind)
    r = call("wild", {"how": "10 MB"}, limit=1000)
    assert (
        not r.failed
        and len(r.text) <= 1000
        and r.text.endswith("[cut from 10,400,000 characters]")
        and "\x1b" not in r.text
    )
    assert call("wild", {"how": "controls"}).text == "a�bc�d�ef \n\tgh"
    assert len(call("wild", {"how": "10 MB"}, limit=5).text) < 50


@pytest.mark.slow
@pytest.mark.timeout(50)  # less than one of them hangs
def test_hanging_tools_cost_their_timeout_and_nothing_else():
    @tool
    def stuck() -> str:
        "Hang."
        time.sleep(60)

    @tool
    async def waiting() -> str:
        "Hang."
        await asyncio.sleep(60)

    @tool
    async def stubborn() -> str:
        "Refuse to be cancelled, for a while."
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            try:
                await asyncio.sleep(1.5)
            except asyncio.CancelledError:
                pass

    async def run():
        return await asyncio.gather(
            *(call_tool(n, {}, timeout=0.3) for n in ["stuck", "waiting", "stubborn"] * 10),
            *(call_tool("calculator", {"expression": f"{i}+1"}) for i in range(20)),
        )

    r = asyncio.run(run())
    hung = ["stuck", "waiting", "stubborn"] * 10
    assert [x.text for x in r[:30]] == [f"error: {n} gave no result within 0.3 s" for n in hung]
    assert all(x.failed for x in r[:30])
    assert [x.text for x in r[30:]] == [str(i + 1) for i in range(20)]


@pytest.mark.slow
def test_a_hanging_tool_does_not_keep_the_process_alive():
    code = """
import asyncio, time
from llmforge.tools import tool, call_tool

@tool
def stuck() -> str:
    "Hang."
    time.sleep(60)

print(asyncio.run(call_tool("stuck", {}, timeout=0.1)).text)
"""
    p = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert p.stdout == "error: stuck gave no result within 0.1 s\n" and not p.stderr


@pytest.mark.slow
def test_a_late_result_disturbs_nobody(capfd):
    @tool
    def slow() -> str:
        "Be late."
        time.sleep(0.2)
        raise RuntimeError("late")

    async def run():
        r = await call_tool("slow", {}, timeout=0.05)
        await asyncio.sleep(0.3)
        return r

    assert asyncio.run(run()).failed
    assert call("slow", {}, timeout=0.05).failed  # the loop is closed when this one is done
    time.sleep(0.3)
    assert not capfd.readouterr().err


def test_cancelling_the_caller_cancels_the_tool():
    seen = []

    @tool
    async def waiting() -> str:
        "Wait."
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def run():
        t = asyncio.create_task(call_tool("waiting", {}))
        await asyncio.sleep(0.05)
        t.cancel()
        with pytest.raises(asyncio.CancelledError):
            await t
        await asyncio.sleep(0.05)

    asyncio.run(run())
    assert seen == ["cancelled"]


def test_a_tool_cannot_change_what_was_asked():
    @tool
    def greedy(items: list, options: dict) -> str:
        "Change the arguments."
        items.clear()
        options["x"] = 1
        return "done"

    arguments = {"items": [1, 2], "options": {"a": [1]}}
    with span("chain", "x") as s:
        assert call("greedy", arguments).text == "done"
    assert arguments == {"items": [1, 2], "options": {"a": [1]}} == s.children[0].input


def test_parallel_calls_overlap_and_keep_their_traces_apart():
    all_are_under_way = threading.Barrier(50, timeout=60)

    @tool
    def wait(n: int) -> str:
        "Wait."
        with span("chain", f"inner {n}"):
            all_are_under_way.wait()
        return str(n)

    async def one(n):
        with span("chain", f"{n}") as s:
            await call_tool("wait", {"n": n})
        return s

    async def run():
        return await asyncio.gather(*map(one, range(50)))

    for n, s in enumerate(asyncio.run(run())):
        assert [(t.kind, t.output, [c.name for c in t.children]) for t in s.children] == [
            ("tool", str(n), [f"inner {n}"])
        ]


def test_work_is_without_the_retrievers_own_time():
    @tool
    async def searching() -> str:
        "Search."
        with span("chain", "c"), span("retriever", "r", search_ms=80.0):
            await asyncio.sleep(0.1)
        return "found"

    with span("chain", "x") as s:
        call("searching", {})
    assert 10 <= s.children[0].attributes["work_ms"] < 70


# Wikipedia from the corpus

TITLES = ["Zürich", "The Hague", "Republic of the Congo", "Johann Sebastian Bach", "C++", "Bach"]
CORPUS = Corpus(
    "small",
    tuple(
        Passage(f"p{i}", t, f"\n\n{t} is first.\nSame paragraph.\n\nSecond paragraph.")
        for i, t in enumerate(TITLES)
    ),
)


class Context:
    "The parts of a method's context that tools use."

    def __init__(self, corpus=CORPUS, wikipedia="corpus", retriever=None):
        self.corpus, self.retriever, self.notes = corpus, retriever, []
        self.config = SimpleNamespace(method=SimpleNamespace(agent=SimpleNamespace(wikipedia=wikipedia)))

    def note(self, passage):
        self.notes.append(passage)

    async def search(self, query, k):
        return await self.retriever.search(query, k)


@pytest.mark.parametrize(
    "query, title",
    [
        ("zurich", "Zürich"),
        ("  ZÜRICH!", "Zürich"),
        ("Zu\u0308rich", "Zürich"),
        ("Hague", "The Hague"),
        ("hague, the", "The Hague"),
        ("Congo (Republic)", "Republic of the Congo"),
        ("Sebastian Bach", "Johann Sebastian Bach"),
        ("bach", "Bach"),
        ("C++", "C++"),
    ],
)
def test_titles(query, title):
    context = Context()
    r = call("wikipedia_search", {"query": query}, context)
    assert r == ToolResult(f"{title}: {title} is first.\nSame paragraph.", source="corpus small")
    assert [(p.title, p.text) for p in context.notes] == [
        (title, f"{title} is first.\nSame paragraph.")
    ] and CORPUS.passages[0].text.startswith("\n\nZ")


def test_what_is_not_there_is_no_failure():
    context = Context()
    assert (
        call("wikipedia_search", {"query": "the composer called Bach"}, context).text
        == "Could not find [the composer called Bach]. Similar: [Bach, Johann Sebastian Bach]."
    )
    assert call("wikipedia_search", {"query": "Atlantis"}, context) == ToolResult(
        "Could not find [Atlantis].", source="corpus small"
    )
    for query in ["", " ", "!!", "\x00", "x" * 1_000_000, "of"]:
        assert "Could not find" in call("wikipedia_search", {"query": query}, context).text
    assert not context.notes


def test_without_a_corpus_it_fails():
    assert (
        call("wikipedia_search", {"query": "Bach"}, Context(corpus=None)).text
        == "error: there is no corpus to look in"
    )


@pytest.mark.slow
def test_titles_are_indexed_once(monkeypatch):
    monkeypatch.setattr(lookup, "_titles", {})
    big = Corpus("big", tuple(Passage(str(i), f"Title {i}", "x") for i in range(50_000)))
    find_title("Title 1", big)
    (index,) = lookup._titles.values()
    for i in range(1000):
        assert find_title(f"title {i}", big)[0].id == str(i)
    assert [i is index for i in lookup._titles.values()] == [True]
    for i in range(9):
        find_title("x", Corpus("c", (Passage(str(i), "x", "x"),)))
    assert len(lookup._titles) <= 4


# Wikipedia over HTTP

BOMB = gzip.compress(b" " * 100_000_000)


class Wiki(BaseHTTPRequestHandler):
    "Answers as the MediaWiki API does, or as it should not."

    def log_message(self, *args):
        pass

    def do_GET(self):
        q = {k: v[0] for k, v in parse_qs(urlsplit(self.path).query).items()}
        self.server.asked.append((urlsplit(self.path).path, q, dict(self.headers)))
        word, status, headers = q.get("gsrsearch", ""), 200, {"Content-Type": "application/json"}
        page = lambda i, title, text: {
            "pageid": i,
            "ns": 0,
            "title": title,
            "index": i,
            "extract": text,
            "fullurl": f"https://en.wikipedia.org/wiki/{title.replace(' ', '_')}",
        }
        match word:
            case "nothing":
                body = {"batchcomplete": True}
            case "500":
                status, body = 500, {}
            case "429":
                status, body = 429, {}
            case "redirect":
                status, body, headers = (
                    302,
                    {},
                    {"Location": f"http://127.0.0.1:{self.server.server_port}/elsewhere?gsrsearch=Bern"},
                )
            case "api error":
                body = {"error": {"code": "maxlag", "info": "Waiting for a database"}}
            case "html":
                body = b"<html>captive portal</html>"
            case "list":
                body = [1, 2]
            case "odd":
                body = {"query": {"pages": [{"title": 3}]}}
            case "slow":
                time.sleep(1.5)
                body = {}
            case "big":
                body = {"query": {"pages": [page(1, "Big", "x" * 3_000_000)]}}
            case "bomb":
                body, headers = BOMB, {"Content-Encoding": "gzip"}
            case "drip" | "cut":
                body = b'{"batchcomplete": true' + b" " * 100
            case _:
                body = {
                    "batchcomplete": True,
                    "query": {
                        "pages": [
                            page(2, "Bern", "Bern is a city.\nIt is the federal city.\n\nMore."),
                            page(1, "Canton of Bern", "The canton."),
                        ]
                    },
                }
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for k, v in headers.items():
            self.send_header(k, v)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        try:
            if word == "drip":
                for i in range(20):
                    self.wfile.write(data[i : i + 1])
                    self.wfile.flush()
                    time.sleep(0.1)
            elif word == "cut":
                self.wfile.write(data[:10])
            else:
                self.wfile.write(data)
        except OSError:
            pass  # the client has had enough


@pytest.fixture
def wiki(monkeypatch):
    server = type("Server", (ThreadingHTTPServer,), {"request_queue_size": 64})(("127.0.0.1", 0), Wiki)
    server.daemon_threads, server.asked = True, []
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    monkeypatch.setenv("LLMFORGE_WIKIPEDIA", f"http://127.0.0.1:{server.server_port}/w/api.php")
    monkeypatch.setenv("LLMFORGE_CONTACT", "mailto:someone@example.org")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


def test_live_pages_are_read(wiki):
    context = Context(wikipedia="live")
    r = call("wikipedia_search", {"query": "bern"}, context)
    assert r == ToolResult(
        "Bern: Bern is a city.\nIt is the federal city.", source="https://en.wikipedia.org/wiki/Bern"
    )
    assert [(p.id, p.title, p.text) for p in context.notes] == [
        ("https://en.wikipedia.org/wiki/Bern", "Bern", "Bern is a city.\nIt is the federal city.")
    ]
    assert (
        call("wikipedia_search", {"query": "where Swiss bears live"}, context).text
        == "Canton of Bern: The canton."
    )
    path, q, headers = wiki.asked[0]
    assert (
        path == "/w/api.php"
        and q["action"] == "query"
        and q["gsrsearch"] == "bern"
        and "llmforge/" in headers["User-Agent"]
        and "someone@example.org" in headers["User-Agent"]
    )


def test_a_contact_need_not_be_ascii_nor_an_empty_address_count(wiki, monkeypatch):
    monkeypatch.setenv("LLMFORGE_CONTACT", "Jörg\n<joerg@example.org>")
    monkeypatch.setattr(lookup, "_WIKIPEDIA", lookup.os.environ["LLMFORGE_WIKIPEDIA"])
    monkeypatch.setenv("LLMFORGE_WIKIPEDIA", "")
    r = call("wikipedia_search", {"query": "bern"}, Context(wikipedia="live"))
    assert r.source == "https://en.wikipedia.org/wiki/Bern"
    sent = wiki.asked[0][2]["User-Agent"].encode("latin-1").decode()
    assert "(Jörg <joerg@example.org>)" in sent


def test_a_live_miss_is_no_failure(wiki):
    assert call("wikipedia_search", {"query": "nothing"}, Context(wikipedia="live")) == ToolResult(
        "Could not find [nothing].", source="Wikipedia"
    )


@pytest.mark.parametrize(
    "query, why",
    [
        ("500", "ValueError: status 500"),
        ("429", "ValueError: status 429"),
        ("redirect", "ValueError: status 302"),
        ("api error", "ValueError: error maxlag"),
        ("html", "JSONDecodeError"),
        ("list", "AttributeError"),
        ("odd", ""),
        ("slow", "T"),
        ("drip", "TimeoutError"),
        ("cut", "RemoteProtocolError"),
        ("big", "ValueError: more than 2 MB"),
        ("bomb", "ValueError: more than 2 MB"),
    ],
)
def test_where_wikipedia_does_not_answer_the_corpus_does(query, why, wiki, monkeypatch):
    if query in ("slow", "drip"):
        monkeypatch.setattr(lookup, "_SECONDS", 0.8)
    corpus = Corpus("small", (Passage("p", query, "From the corpus."),))
    r = call("wikipedia_search", {"query": query}, Context(corpus, "live"))
    if query == "odd":
        assert r == ToolResult("Could not find [odd].", source="Wikipedia")
        return
    assert (
        r.text == f"{query}: From the corpus."
        and r.source.startswith(f"corpus small (Wikipedia did not answer: {why}")
        and not r.failed
    )
    assert not any(path == "/elsewhere" for path, *_ in wiki.asked)


def test_without_network_or_corpus(wiki, monkeypatch):
    monkeypatch.setenv("LLMFORGE_WIKIPEDIA", "http://127.0.0.1:9/w/api.php")
    assert (
        call("wikipedia_search", {"query": "Bach"}, Context(wikipedia="live")).source
        == "corpus small (Wikipedia did not answer: ConnectError)"
    )
    assert (
        call("wikipedia_search", {"query": "Bach"}, Context(None, "live")).text
        == "error: there is no corpus to look in (Wikipedia did not answer: ConnectError)"
    )


def test_many_agents_ask_at_once(wiki):
    async def run():
        return await asyncio.gather(
            *(call_tool("wikipedia_search", {"query": "bern"}, Context(wikipedia="live")) for _ in range(30))
        )

    assert {r.text for r in asyncio.run(run())} == {"Bern: Bern is a city.\nIt is the federal city."}


# Retrieval


def test_retrieval_reads_the_experiments_index(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMFORGE_CACHE", str(tmp_path / "cache"))
    from llmforge.indexing import build_index
    from llmforge.retriever import Retriever
    from llmforge.sections import RetrievalConfig

    sparse = RetrievalConfig(name="sparse")
    context = Context(retriever=Retriever(build_index(CORPUS, sparse), sparse))
    with span("chain", "x") as s:
        r = call("retrieval", {"query": "Johann Bach", "k": 2}, context)
    assert (
        [line.split(":")[0] for line in r.text.splitlines()] == ["Johann Sebastian Bach", "Bach"]
        and r.source == "index of small"
        and not r.failed
    )
    [t] = s.children
    [found] = t.children
    assert (
        found.kind == "retriever"
        and found.attributes["top_k"] == 2
        and t.attributes["work_ms"] <= t.duration_ms - found.attributes["search_ms"] + 0.001
    )
    assert call("retrieval", {"query": " "}, context).failed
    for k in (0, 11, -1, "many", 1.5):
        assert "argument 'k'" in call("retrieval", {"query": "Bach", "k": k}, context).text
    assert (
        call("retrieval", {"query": "Bach"}, Context()).text
        == "error: there is no index to search: the experiment has retrieval: none"
    )
