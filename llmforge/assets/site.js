// Filters over tables that are on the page already, and folds that a link can open. No data is ever read as HTML.
"use strict";

function filterTable(form) {
  const rows = [...document.getElementById(form.getAttribute("data-for")).tBodies[0].rows], out = form.querySelector("output");
  const apply = () => {
    const text = form.elements.text.value.toLowerCase(), chosen = [...form.querySelectorAll("select")].filter(s => s.value);
    let shown = 0;
    for (const row of rows) {
      const keep = chosen.every(s => row.dataset[s.name] === s.value) && row.textContent.toLowerCase().includes(text);
      row.hidden = !keep;
      shown += keep;
    }
    out.textContent = `${shown} of ${rows.length}`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", event => event.preventDefault());
  apply();
}

// Sorting by a heading, with the vendored tablesort. It sorts downwards and turns the rows round.
const figure = text => { const found = text.replaceAll(",", "").replace("−", "-").match(/^\s*[+-]?(\d|\.\d)[\d.]*(e[+-]?\d+)?/); return found ? Number(found[0]) : -Infinity; };
Tablesort.extend("figure", text => /^\s*([+−-]?[.\d]|–)/.test(text), (a, b) => (figure(b) > figure(a)) - (figure(b) < figure(a)));

// In the picture of the modules: what a module imports, and what imports it.
function lightUp(svg) {
  const boxes = [...svg.querySelectorAll("a[data-module]")], imports = box => box.dataset.imports.split(" ");
  const show = box => boxes.forEach(other => {
    other.classList.toggle("used", Boolean(box) && imports(box).includes(other.dataset.module));
    other.classList.toggle("user", Boolean(box) && imports(other).includes(box.dataset.module));
  });
  for (const box of boxes) {
    for (const event of ["mouseenter", "focus"]) box.addEventListener(event, () => show(box));
    for (const event of ["mouseleave", "blur"]) box.addEventListener(event, () => show(null));
  }
}

function openTarget() {
  const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) { target.open = true; target.scrollIntoView(); }
  if (target instanceof HTMLTableRowElement && target.hidden) { target.hidden = false; target.scrollIntoView(); }
}

// The page's policy lets no form send anything. A search is an address, and goes there as a link does.
document.addEventListener("submit", event => {
  if (!event.target.matches("form.bd-search")) return;
  event.preventDefault();
  const words = new URLSearchParams(new FormData(event.target)), page = new URL(event.target.getAttribute("action"), location);
  location.assign(`${page.href.split(/[?#]/)[0]}?${words}`);
});

// Sphinx lets a reader hide the words found by an address that is a script. The page's policy runs none.
function mendHiding(link) {
  link.href = "#";
  link.addEventListener("click", event => { event.preventDefault(); SphinxHighlight.hideSearchWords(); });
}

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".highlight-link a").forEach(mendHiding);
  document.querySelectorAll("form.filters[data-for]").forEach(filterTable);
  document.querySelectorAll(".boards table, table.rows[id]").forEach(table => new Tablesort(table));
  document.querySelectorAll("svg.modules").forEach(lightUp);
  openTarget();
});
addEventListener("hashchange", openTarget);
