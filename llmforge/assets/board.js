// The dashboard: what runs is followed, a config is checked as it is typed. Foreign text is only ever set as text.
"use strict";

const notice = text => { const p = document.querySelector(".notice"); p.textContent = text; p.hidden = !text; };

async function send(url, body, method = "POST") {
  const answer = await fetch(url, { method, headers: { "content-type": "application/json" }, body: body === undefined ? null : JSON.stringify(body) });
  const value = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(value.detail), { errors: value.errors });
  return value;
}

// --- live lines: counts are set as they come; where a state changes, the page's own HTML is asked for again
async function again() {
  const text = await (await fetch(location.href)).text(), fresh = new DOMParser().parseFromString(text, "text/html");
  for (const now of document.querySelectorAll("main [data-id]")) {
    const then = [...fresh.querySelectorAll("main [data-id]")].find(e => e.dataset.id === now.dataset.id);
    if (!then || then.dataset.state === now.dataset.state) continue;
    if (now.matches(".summary") && then.dataset.state === "COMPLETED") return location.reload();
    const checked = now.querySelector("input[name=ids]")?.checked;
    now.replaceWith(document.importNode(then, true));
    const box = [...document.querySelectorAll("input[name=ids]")].find(b => b.value === then.dataset.id);
    if (box && checked) box.checked = true;
  }
}

function show(line) {
  const e = [...document.querySelectorAll("main [data-id]")].find(e => e.dataset.id === line.id);
  if (!e) return;
  if (e.dataset.state !== line.state) again();
  const count = e.querySelector(".count"), bar = e.querySelector("progress");
  if (count) count.textContent = line.questions && line.state !== "COMPLETED" ? `${line.done} / ${line.questions}` : `${line.done}`;
  if (bar) bar.value = line.done;
}

const live = document.body.dataset.live;
if (live) {
  const events = new EventSource(`/events?ids=${encodeURIComponent(live)}`);
  events.onmessage = event => show(JSON.parse(event.data));
  addEventListener("pagehide", () => events.close());
}

// --- buttons and forms
document.addEventListener("click", async event => {
  const button = event.target.closest("[data-post]");
  if (!button || (button.dataset.confirm && !confirm(button.dataset.confirm))) return;
  button.disabled = true;
  const { post, method, body, then } = button.dataset;
  try { await send(post, body && JSON.parse(body), method); if (then) location.assign(then); else location.reload(); } catch (e) { notice(e.message); button.disabled = false; }
});
for (const form of document.querySelectorAll("[data-marks]")) form.addEventListener("submit", async event => {
  event.preventDefault();
  const { tags, note } = form.elements;
  try { await send(form.dataset.marks, { tags: tags.value.split(/\s+/).filter(Boolean), note: note.value }, "PATCH"); location.reload(); } catch (e) { notice(e.message); }
});
for (const form of document.querySelectorAll("[data-submit]")) form.addEventListener("change", event => event.target.matches("select") && form.submit());

// --- a blind vote: by button or by key
const ballot = document.getElementById("prefer");
if (ballot) {
  const keys = { ArrowLeft: "left", ArrowRight: "right", t: "tie", s: "skip" };
  let sent = false;
  const vote = async said => {
    if (sent) return;
    sent = true;
    const { a, b, voter, seed, example } = ballot.dataset, next = new URL(location.href);
    next.searchParams.delete("example");
    try { await send("/votes", { a, b, voter, seed: Number(seed), example_id: example, said }); location.replace(next); } catch (e) { notice(e.message); sent = false; }
  };
  ballot.addEventListener("click", event => { const button = event.target.closest("[data-said]"); if (button) vote(button.dataset.said); });
  addEventListener("keydown", event => { if (keys[event.key] && !event.altKey && !event.ctrlKey && !event.metaKey && !event.repeat) vote(keys[event.key]); });
}

// --- a new experiment
const form = document.getElementById("new");
if (form) {
  const yaml = document.getElementById("yaml"), verdict = document.getElementById("verdict"), problems = document.getElementById("problems"), estimate = document.getElementById("estimate");
  let turn = 0, wait;
  const say = (text, kind, errors = []) => {
    verdict.textContent = text; verdict.className = kind;
    problems.replaceChildren(...errors.map(e => { const li = document.createElement("li"); li.textContent = `${e.path}: ${e.detail}`; return li; }));
  };
  const at = (config, path) => path.split(".").reduce((value, key) => value?.[key], config);
  async function check() {
    const mine = ++turn;
    try {
      const found = await send("/check", { yaml: yaml.value });
      if (mine !== turn) return;
      say(`Valid: ${found.id}, ${found.questions} questions${found.known ? "; it exists already" : ""}.`, "good");
      for (const field of form.querySelectorAll("[data-path]")) if (field !== document.activeElement) field.value = at(found.config, field.dataset.path) ?? "";
    } catch (e) { if (mine === turn) say(e.errors ? "The config is wrong:" : e.message, "bad", e.errors); }
  }
  const soon = () => { clearTimeout(wait); wait = setTimeout(check, 350); };
  yaml.addEventListener("input", () => { estimate.replaceChildren(); soon(); });
  form.addEventListener("change", async event => {
    const path = event.target.dataset.path;
    if (!path) return;
    estimate.replaceChildren();
    try { yaml.value = (await send("/ui/change", { yaml: yaml.value, path, value: event.target.value })).yaml; check(); } catch (e) { say(e.message, "bad"); }
  });
  const create = async run => {
    const address = `/experiments?${new URLSearchParams({ run, like: form.dataset.like })}`;
    try { location.assign(`/ui/experiments/${encodeURIComponent((await send(address, { yaml: yaml.value })).id)}`); }
    catch (e) { say(e.errors ? "The config is wrong:" : e.message, "bad", e.errors); }
  };
  form.addEventListener("submit", event => { event.preventDefault(); create(true); });
  document.getElementById("create").addEventListener("click", () => create(false));
  const tell = lines => estimate.replaceChildren(...lines.map(text => { const li = document.createElement("li"); li.textContent = text; return li; }));
  document.getElementById("preflight").addEventListener("click", async event => {
    event.target.disabled = true; tell(["Asking the first questions …"]);
    try { tell((await send("/preflight", { yaml: yaml.value })).lines); } catch (e) { tell([e.message]); }
    event.target.disabled = false;
  });
  check();
}
