// The page works without this. With it, filters apply as they are typed, and the
// tables follow what changes, without a reload.
"use strict";

const content = document.getElementById("content");
const form = document.getElementById("filter");
const live = document.getElementById("live");
let asked = 0;

// Puts the content of a page of this server in place of what is shown. Of answers
// that overtake each other the last one asked for counts.
async function show(url) {
  const mine = ++asked;
  const response = await fetch(url);
  if (!response.ok || mine !== asked) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const next = page.getElementById("content");
  if (mine !== asked || !next) return;
  const focused = content.contains(document.activeElement)
    ? document.activeElement.textContent : null;
  content.replaceChildren(...next.childNodes);
  if (focused !== null) {
    for (const link of content.querySelectorAll("a")) {
      if (link.textContent === focused) { link.focus(); break; }
    }
  }
}

function go(url) {
  history.replaceState(null, "", url);
  show(url);
}

form.addEventListener("input", () => {
  const parameters = new URLSearchParams();
  for (const [key, value] of new FormData(form)) {
    if (value) parameters.set(key, value);
  }
  go("/?" + parameters);
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  form.dispatchEvent(new Event("input"));
});
content.addEventListener("click", (event) => {
  const link = event.target.closest("thead a, nav a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  go(link.getAttribute("href"));
  const sort = new URL(link.href).searchParams.get("sort");
  let field = form.elements.namedItem("sort");
  if (sort && !field) {
    field = document.createElement("input");
    field.type = "hidden";
    field.name = "sort";
    form.append(field);
  }
  if (field) field.value = sort ?? "";
});

const events = new EventSource("/v1/events");
const tell = (text) => { live.hidden = false; live.textContent = text; };
events.addEventListener("ready", () => { tell("live"); show(location.href); });
for (const kind of ["change", "reset"]) {
  events.addEventListener(kind, () => show(location.href));
}
events.addEventListener("error", () => tell("not connected"));
