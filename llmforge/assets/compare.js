// Experiments side by side, a baseline and what is held against it. Everything that comes from data is set as text.
"use strict";

(() => {
  const data = window.llmforge, groups = data.index, {paired, holm, fixed, brief} = data.statistics;
  const form = document.getElementById("choose"), filters = document.getElementById("diff-filters");
  const element = (name, text, parent) => { const e = document.createElement(name); if (text !== undefined) e.textContent = text; if (parent) parent.append(e); return e; };
  const part = id => document.getElementById(id), group = id => groups.find(g => g.experiments.includes(id));
  const words = name => name.replaceAll("_", " "), letter = i => "abcdefghijklmnopqrstuvwxyz"[i] ?? `no. ${i + 1}`;

  // Choosing: a select for the baseline and one for each treatment; the address has them all.

  const selects = () => [...form.querySelectorAll("select")], chosen = () => selects().map(s => s.value);

  function offer(select, from, id) {
    select.replaceChildren();
    element("option", "choose", select).value = "";
    const others = group(id) && !from.includes(group(id)) ? [group(id)] : [];
    for (const g of [...from, ...others]) {
      const box = element("optgroup", undefined, select);
      box.label = g.label;
      for (const id of g.experiments) element("option", id, box).value = id;
    }
    select.value = group(id) ? id : "";
  }

  function arrange(ids) {
    const own = group(ids[0]), treatments = ids.length > 1 ? ids.slice(1) : [""];
    form.querySelectorAll("label").forEach((label, i) => { if (i > treatments.length) label.remove(); });
    treatments.forEach((_, i) => {
      if (form.elements[letter(i + 1)]) return;
      const label = element("label", `${letter(i + 1)}, another treatment `);
      element("select", undefined, label).name = letter(i + 1);
      form.querySelector("button").before(label);
    });
    selects().forEach((select, i) => offer(select, i && own ? [own] : groups, ids[i]));
  }

  function start() {
    const asked = new URLSearchParams(location.hash.slice(1)), ids = [asked.get("a") ?? "", ...asked.getAll("b")];
    arrange(ids);
    show(ids);
  }

  form.addEventListener("change", event => {
    let ids = chosen();
    if (event.target === selects()[0]) ids = [ids[0], ...ids.slice(1).map(id => group(id) === group(ids[0]) ? id : "")];
    arrange(ids);
    history.replaceState(null, "", `#${new URLSearchParams(ids.flatMap((id, i) => id ? [[i ? "b" : "a", id]] : []))}`);
    show(ids);
  });
  form.querySelector("button").addEventListener("click", () => {
    arrange([...chosen(), ""]);
    selects().at(-1).focus();
  });

  // What cannot be compared, in the words of `llmforge compare`.

  function refusal(x, y) {
    if (x.questions !== y.questions) {
      const [mine, theirs] = [new Set(x.ids), new Set(y.ids)], shared = x.ids.filter(id => theirs.has(id)).length;
      return `${x.id} and ${y.id} cannot be paired: their questions differ (${shared} have the same name, ${mine.size - shared} are in the first only, `
        + `${theirs.size - shared} in the second only); run both on the same dataset section`;
    }
    if (x.normalization !== y.normalization) {
      return `${x.id} and ${y.id} cannot be compared: their answers were normalised differently (${x.normalization} and ${y.normalization})`;
    }
    if (x.scorer && y.scorer && x.scorer !== y.scorer) {
      return `${x.id} and ${y.id} cannot be compared: their answers were judged by different scorers (${x.scorer} and ${y.scorer})`;
    }
    return "";
  }

  // A measure of two experiments, over the questions on which both have a value.
  function contrast(x, y, measure) {
    const at = new Map(y.ids.map((id, i) => [id, i])), [u, v, hang] = [[], [], []];
    x.ids.forEach((id, i) => {
      const [p, q] = [x.values[measure][i], y.values[measure][at.get(id)]];
      if (p != null && q != null) { u.push(p); v.push(q); hang.push(x.groups[i]); }
    });
    return {...paired(u, v, hang, x.confidence), measure, x, y, left: x.ids.length - u.length};
  }

  const signed = (v, n) => { const text = fixed(v, n); return text.startsWith("−") ? text : `+${text}`; };
  const points = v => signed(100 * v, 1), pText = p => p < 0.001 ? "p < .001" : `p = ${fixed(p, 3).replace(/^0/, "")}`;

  function sentence(d, name, p, family) {
    return `${name} − a on accuracy (${words(d.measure)}): ${points(d.value)} points, ${Math.round(100 * d.x.confidence)}% interval ${points(d.low)} to ${points(d.high)}, `
      + `${pText(p)} (${d.test}${family > 1 ? `, Holm's method for ${family} treatments` : ""}), n = ${d.n}; `
      + `${name} is higher on ${d.wins}, a on ${d.losses}, equal on ${d.n - d.wins - d.losses}.`;
  }

  function download(name, rows, target) {
    const inert = v => typeof v === "string" && /^[=+\-@\t\r]/.test(v) ? `'${v}` : v; // a spreadsheet would take it for a formula
    const cell = v => { const text = String(inert(v) ?? ""); return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text; };
    const link = element("a", `${name}.csv`, target);
    link.href = URL.createObjectURL(new Blob([rows.map(row => row.map(cell).join(",") + "\n").join("")], {type: "text/csv"}));
    link.download = `${name}.csv`;
    target.append(" ");
  }

  function measures(found, names, target) {
    const box = element("div", undefined, target), table = element("table", undefined, box), head = element("tr", undefined, element("thead", undefined, table)), body = element("tbody", undefined, table);
    box.className = "wide"; box.tabIndex = 0; box.setAttribute("role", "region"); box.setAttribute("aria-label", "Every measure");
    table.className = "measures";
    element("caption", "Every measure over the questions that have it on both sides; p is of this comparison alone", table);
    for (const c of ["measure", ...names.length > 2 ? ["treatment"] : [], "a", names.length > 2 ? "treatment's" : "b", "difference", `${Math.round(100 * names[0].confidence)}% interval`, "p", "higher / a higher / equal", "n", "left out"]) element("th", c, head).scope = "col";
    for (const d of found) {
      const row = element("tr", undefined, body), n = d.x.digits[d.measure];
      element("th", words(d.measure), row).scope = "row";
      if (names.length > 2) element("td", d.name, row);
      const cells = [fixed(d.a, n), fixed(d.b, n), signed(d.value, n), `${signed(d.low, n)} to ${signed(d.high, n)}`, `${brief(d.p)} (${d.test})`, `${d.wins} / ${d.losses} / ${d.n - d.wins - d.losses}`, d.n, d.left];
      for (const text of cells) element("td", text, row);
    }
    const columns = "a,b,metric,value_a,value_b,difference,low,high,p,test,b_higher,a_higher,equal,n".split(",");
    const rows = found.map(d => [d.x.id, d.y.id, d.measure, d.a, d.b, d.value, d.low, d.high, d.p, d.test, d.wins, d.losses, d.n - d.wins - d.losses, d.n]);
    download("measures", [columns, ...rows], part("downloads"));
  }

  // Question by question.

  const change = (before, after) => before === null || after === null ? "not scored" : after > before ? "improved" : after < before ? "regressed" : before >= 1 ? "both right" : "both wrong";
  let shown = [], rows = [];

  function asked() {
    const [x, ...others] = shown, at = others.map(y => new Map(y.ids.map((id, i) => [id, i])));
    return x.ids.map((id, i) => {
      const places = [i, ...at.map(m => m.get(id))], right = shown.map((e, k) => e.accuracy[places[k]]);
      return {places, question: x.asked[i] || id, expected: x.expected[i].join(", "), answers: shown.map((e, k) => e.answers[places[k]]), changes: others.map((_, k) => change(right[0], right[k + 1]))};
    });
  }

  function diff() {
    const body = part("diff"), wanted = filters.elements.change.value, text = filters.elements.text.value.toLowerCase();
    const flips = ["improved", "regressed"], fits = r => !wanted || r.changes.some(c => wanted === "changed" ? flips.includes(c) : c === wanted);
    const kept = rows.filter(r => fits(r) && [r.question, r.expected, ...r.answers].join(" ").toLowerCase().includes(text));
    body.replaceChildren();
    for (const r of kept) {
      const row = element("tr", undefined, body), kinds = [...new Set(r.changes)];
      element("td", kinds.length > 1 ? r.changes.map((c, k) => `${letter(k + 1)} ${c}`).join(", ") : kinds[0], row).className = kinds.length > 1 ? "" : kinds[0].replace(" ", "-");
      element("td", r.question, row);
      element("td", r.expected, row);
      r.places.forEach((at, k) => {
        const link = element("a", r.answers[k] || "–", element("td", undefined, row));
        link.href = `experiments/${encodeURIComponent(shown[k].id)}.html#row-${shown[k].at[at]}`;
      });
    }
    filters.querySelector("output").textContent = `${kept.length} of ${rows.length}`;
  }

  function heads() {
    const row = part("diff").closest("table").tHead.rows[0];
    row.replaceChildren();
    const answered = shown.length ? shown.map((_, i) => `${letter(i)} answered`) : ["a answered", "b answered"];
    for (const c of ["change", "question", "expected", ...answered]) element("th", c, row).scope = "col";
  }

  function tell(sentences, experiments = []) {
    [shown, rows] = [experiments, []];
    for (const id of ["about", "measures", "downloads"]) part(id).replaceChildren();
    part("difference").replaceChildren(...sentences.map(text => element("span", text)));
    heads();
    diff();
  }

  let turn = 0;
  async function show(all) {
    const ids = all.filter(Boolean), mine = ++turn, unknown = ids.filter(id => !group(id));
    if (unknown.length) return tell(unknown.map(id => `There is no experiment ${id} on this site, so nothing is compared. Choose from the lists.`));
    if (!groups.length) return tell(["No experiment is published here yet."]);
    if (!all[0] || ids.length < 2) return tell(["Choose a baseline and at least one treatment on the same questions."]);
    if (new Set(ids).size < ids.length) return tell(["An experiment does not differ from itself."]);
    try {
      const loaded = await Promise.all(ids.map(id => loadData(id))), [x, ...others] = loaded;
      if (mine !== turn) return;
      const refused = others.map(y => refusal(x, y)).filter(Boolean);
      if (refused.length) return tell(refused);
      const name = i => loaded.length > 2 ? letter(i + 1) : "b", found = others.flatMap((y, i) => x.measures.filter(m => y.measures.includes(m)).map(m => ({...contrast(x, y, m), name: name(i)})));
      const first = others.map((y, i) => x.accuracy_is === y.accuracy_is ? found.find(d => d.y === y && d.measure === x.accuracy_is) : null), ps = holm(first.filter(Boolean).map(d => d.p));
      tell(first.map((d, i) => d ? sentence(d, name(i), ps[first.slice(0, i).filter(Boolean).length], ps.length)
        : `${x.id} calls ${words(x.accuracy_is)} accuracy and ${others[i].id} ${words(others[i].accuracy_is)}: see the single measures.`), loaded);
      const about = element("ul", undefined, part("about"));
      loaded.forEach((e, i) => {
        const item = element("li", `${letter(i)}: `, about);
        element("a", e.id, item).href = `experiments/${encodeURIComponent(e.id)}.html`;
        item.append(`, ${e.setting}; ${e.counts}`);
      });
      const order = x.measures.flatMap(m => found.filter(d => d.measure === m && d.n));
      measures(order, loaded, part("measures"));
      rows = asked();
      download("questions", [["question", "expected", ...loaded.map(e => e.id), ...others.map(y => `change of ${y.id}`)], ...rows.map(r => [r.question, r.expected, ...r.answers, ...r.changes])], part("downloads"));
      diff();
    } catch (e) { if (mine === turn) tell([e.message]); }
  }

  filters.addEventListener("input", diff);
  for (const f of [form, filters]) f.addEventListener("submit", event => event.preventDefault());
  addEventListener("hashchange", start);
  start();
})();
