// One row's trace, drawn from its experiment's data: trace.html#e=ID&row=3. Everything that comes from data is set as text.
"use strict";

(() => {
  const about = document.getElementById("asked"), place = document.getElementById("steps");
  const element = (name, text, parent) => { const e = document.createElement(name); if (text !== undefined) e.textContent = text; if (parent) parent.append(e); return e; };

  function fold(title, parent, open) {
    const box = element("details", undefined, parent);
    box.open = open;
    element("summary", title, box);
    return box;
  }

  function draw(span, lines, parent, depth) {
    const [kind, name, counts] = span.head, box = fold(undefined, parent, depth < 3), head = box.firstChild;
    element("small", kind, head);
    element("b", ` ${name} `, head);
    if (span.failed) element("b", "✗ ", head).className = "failed";
    element("small", counts, head);
    if (span.facts) element("p", span.facts, box);
    for (const [label, numbers, cut] of span.texts) {
      const text = numbers.map(i => lines[i]).join("\n"), more = cut ? `, ${cut} more cut` : "";
      element("pre", text, fold(`${label}: ${text.length} characters${more}`, box, text.length <= 600 || label !== "input"));
    }
    for (const child of span.below) draw(child, lines, box, depth + 1);
  }

  function tell(text) {
    about.textContent = text;
    place.replaceChildren();
  }

  let turn = 0;
  async function show() {
    const asked = new URLSearchParams(location.hash.slice(1)), id = asked.get("e") ?? "", at = asked.get("row") ?? "", mine = ++turn;
    if (!id) return tell("Choose a row of an experiment; its trace is behind the link in the table's last column.");
    if (!window.llmforge.index.some(group => group.experiments.includes(id))) return tell(`There is no experiment ${id} on this site.`);
    try {
      const e = await loadData(id, "traces/"), row = Object.hasOwn(e.rows, at) && e.rows[at];
      if (mine !== turn) return;
      if (!row) return tell(`No trace is stored of row ${at} of ${id}.`);
      tell("");
      element("a", `${id}, row ${at}`, about).href = `experiments/${encodeURIComponent(id)}.html#row-${at}`;
      const facts = element("dl", undefined, place);
      for (const [name, text] of [["question", row.asked], ["expected", row.expected], ["answered", row.answered], ["outcome", row.outcome]]) {
        element("dt", name, facts);
        element("dd", text || "–", facts);
      }
      draw(row.trace, e.lines, place, 0);
    } catch (e) { if (mine === turn) tell(e.message); }
  }

  addEventListener("hashchange", show);
  show();
})();
