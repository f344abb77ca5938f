// Two experiments side by side. Everything that comes from data is set as text.
"use strict";

(() => {
  const nonce = document.currentScript.nonce; // the page's policy lets only scripts with it run
  const data = window.llmforge, groups = data.index, form = document.getElementById("choose"), filters = document.getElementById("diff-filters");
  const [a, b] = [form.elements.a, form.elements.b], wait = {};
  const element = (name, text, parent) => { const e = document.createElement(name); if (text !== undefined) e.textContent = text; if (parent) parent.append(e); return e; };
  const group = id => groups.findIndex(g => g.experiments.includes(id));
  const load = name => wait[name] ??= new Promise((done, failed) => {
    if (data[name]) return done(data[name]);
    const script = document.createElement("script");
    script.nonce = nonce;
    script.src = `data/${encodeURIComponent(name)}.js`;
    script.onload = () => done(data[name]);
    script.onerror = () => failed(new Error(`${name} cannot be loaded`));
    document.head.append(script);
  });

  function offer(select, from, chosen) {
    select.replaceChildren();
    for (const g of from) {
      const part = element("optgroup", undefined, select);
      part.label = g.label;
      for (const id of g.experiments) element("option", id, part).value = id;
    }
    if (chosen) select.value = chosen;
  }

  function start() {
    const asked = new URLSearchParams(location.hash.slice(1)), known = id => group(id) >= 0;
    const first = known(asked.get("a")) ? asked.get("a") : groups[0]?.experiments[0];
    if (!first) return;
    const same = groups[group(first)], second = same.experiments.includes(asked.get("b")) ? asked.get("b") : same.experiments.find(id => id !== first) ?? first;
    offer(a, groups, first);
    offer(b, [same], second);
    show();
  }

  const signed = (x, digits) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(digits);
  const points = x => signed(100 * x, 1);
  const pText = p => p < 0.001 ? "p < .001" : `p = ${p.toFixed(3).replace(/^0/, "")}`;

  function sentence(d, turned, metric) {
    if (d.refused) return d.refused;
    const [value, low, high, up, down] = turned ? [-d.value, -d.high, -d.low, d.losses, d.wins] : [d.value, d.low, d.high, d.wins, d.losses];
    return `b − a on accuracy (${metric.replaceAll("_", " ")}): ${points(value)} points, ${Math.round(100 * d.confidence)}% interval ${points(low)} to ${points(high)}, ${pText(d.p)} (${d.test}), `
      + `n = ${d.n}; b is higher on ${up}, a on ${down}, equal on ${d.n - up - down}.`;
  }

  function means(pairs, target) {
    const names = Object.keys(pairs[0]?.[0].scores ?? {}).filter(n => pairs.some(([r, s]) => n in r.scores && n in s.scores));
    const box = element("div", undefined, target), table = element("table", undefined, box), head = element("tr", undefined, element("thead", undefined, table)), body = element("tbody", undefined, table);
    box.className = "wide"; box.tabIndex = 0; box.setAttribute("role", "region"); box.setAttribute("aria-label", "Means of every score");
    element("caption", "Means over the questions that have the value on both sides", table);
    for (const c of ["score", "a", "b", "b − a", "n"]) element("th", c, head).scope = "col";
    for (const name of names) {
      const both = pairs.filter(([r, s]) => name in r.scores && name in s.scores), mean = side => both.reduce((sum, pair) => sum + pair[side].scores[name], 0) / both.length;
      const digits = /latency|tokens/.test(name) ? 1 : 3, row = element("tr", undefined, body);
      element("th", name.replaceAll("_", " "), row).scope = "row";
      for (const text of [mean(0).toFixed(digits), mean(1).toFixed(digits), signed(mean(1) - mean(0), digits), both.length]) element("td", text, row);
    }
  }

  const change = (r, s) => s.accuracy > r.accuracy ? "improved" : s.accuracy < r.accuracy ? "regressed" : r.accuracy >= 1 ? "both right" : "both wrong";
  const rowLink = (id, r, parent) => { const link = element("a", r.answer || "–", parent); link.href = `experiments/${encodeURIComponent(id)}.html#row-${r.at}`; };

  let pairs = [];
  function diff() {
    const body = document.getElementById("diff"), wanted = filters.elements.change.value, text = filters.elements.text.value.toLowerCase();
    body.replaceChildren();
    let shown = 0;
    for (const [r, s] of pairs) {
      const what = change(r, s), asked = s.q || s.id;
      if (wanted === "changed" ? !["improved", "regressed"].includes(what) : wanted && what !== wanted) continue;
      if (!`${asked} ${r.answer} ${s.answer} ${s.expected}`.toLowerCase().includes(text)) continue;
      const row = element("tr", undefined, body);
      element("td", what, row).className = what.replace(" ", "-");
      element("td", asked, row);
      element("td", s.expected.join(", "), row);
      rowLink(a.value, r, element("td", undefined, row));
      rowLink(b.value, s, element("td", undefined, row));
      shown++;
    }
    filters.querySelector("output").textContent = `${shown} of ${pairs.length}`;
  }

  async function show() {
    const [left, right] = [a.value, b.value], part = id => document.getElementById(id);
    history.replaceState(null, "", `#${new URLSearchParams({a: left, b: right})}`);
    try {
      const [x, y, paired] = await Promise.all([load(left), load(right), load(`pairs-${group(left)}`)]);
      if (a.value !== left || b.value !== right) return;
      const before = new Map(x.rows.map(r => [r.id, r])), key = [left, right].sort().join("|");
      pairs = y.rows.filter(s => before.has(s.id)).map(s => [before.get(s.id), s]);
      for (const id of ["about", "means"]) part(id).replaceChildren();
      const about = element("ul", undefined, part("about"));
      for (const [label, id, e] of [["a", left, x], ["b", right, y]]) {
        const item = element("li", `${label}: `, about);
        element("a", id, item).href = `experiments/${encodeURIComponent(id)}.html`;
        item.append(`, ${e.setting}`);
      }
      part("difference").textContent = left === right ? "An experiment does not differ from itself." : sentence(paired[key], !key.startsWith(`${left}|`), x.accuracy_is);
      means(pairs, part("means"));
      diff();
    } catch (e) { part("difference").textContent = e.message; }
  }

  a.addEventListener("change", () => { if (group(b.value) !== group(a.value)) offer(b, [groups[group(a.value)]], groups[group(a.value)].experiments.find(id => id !== a.value)); show(); });
  b.addEventListener("change", show);
  filters.addEventListener("input", diff);
  for (const f of [form, filters]) f.addEventListener("submit", event => event.preventDefault());
  addEventListener("hashchange", start);
  start();
})();
