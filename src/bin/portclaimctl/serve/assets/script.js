// The page works without this. With it, filters apply as they are typed, and the
// tables follow what changes, without a reload.
"use strict";

const content = document.getElementById("content");
const form = document.getElementById("filter");
const live = document.getElementById("live");
// How often what changes without an event is read: ages, and ports that rest, in ms.
const AGES = 30000;
// How long news are gathered before they are told, and how soon a stream that was
// refused is asked for again, in ms.
const NEWS = 1000;
const AGAIN = 5000;

// Makes one element like another. What is the same stays: with it the focus, what is
// selected, and where one has scrolled to.
function merge(old, next) {
  if (old.isEqualNode(next)) return;
  for (const { name } of [...old.attributes]) {
    if (!next.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of next.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const stay = new Set([...next.children].map((child) => child.id));
  const known = new Map();
  for (const child of [...old.children]) {
    if (!child.id) continue;
    if (stay.has(child.id)) known.set(child.id, child);
    else child.remove();
  }
  let at = old.firstChild;
  const drop = () => {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  };
  for (const child of [...next.childNodes]) {
    let twin = null;
    if (child.id) {
      // Of rows that have gone, the blanks behind them.
      while (at && !at.id) drop();
      twin = known.get(child.id);
    } else if (at && !at.id && at.nodeName === child.nodeName) {
      twin = at;
    }
    if (twin === null || twin === undefined) {
      old.insertBefore(child, at);
      continue;
    }
    if (twin === at) at = at.nextSibling;
    else old.insertBefore(twin, at);
    if (twin.nodeType === Node.ELEMENT_NODE) merge(twin, child);
    else if (twin.data !== child.data) twin.data = child.data;
  }
  while (at) drop();
}

let reading = null;
let isOld = false;

async function read() {
  while (isOld) {
    isOld = false;
    const begun = performance.now();
    const url = location.href;
    const response = await fetch(url);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const next = page.getElementById("content");
    if (!next || url !== location.href) continue;
    const wasInside = content.contains(document.activeElement);
    merge(content, next);
    if (wasInside && !content.contains(document.activeElement)) {
      content.focus({ preventScroll: true });
    }
    // However much changes, half of the time is left to whoever uses the page.
    if (isOld) await new Promise((done) => setTimeout(done, performance.now() - begun));
  }
}

// Reads the page that the address is of, and shows its content in place of what is
// shown. One at a time: what changes meanwhile is read once, afterwards.
function refresh() {
  isOld = true;
  // Not connected: the stream of events notices it too, and has it read anew later.
  reading ??= read().catch(() => {}).finally(() => { reading = null; });
  return reading;
}

// What is told is read out by screen readers.
function tell(text) {
  live.textContent = text;
}

// Shows what somebody has asked for, and tells how much it is.
async function go(url, isStep) {
  if (isStep) history.pushState(null, "", url);
  else history.replaceState(null, "", url);
  await refresh();
  const found = content.querySelector(".problem, .empty, nav span");
  if (found) tell(found.textContent);
}

function ask() {
  const parameters = new URLSearchParams();
  for (const [key, value] of new FormData(form)) {
    if (value) parameters.set(key, value);
  }
  const text = parameters.toString();
  go(text ? "/?" + text : "/", false);
}

// The fields, as the address has them.
function fill() {
  const parameters = new URL(location.href).searchParams;
  for (const field of form.elements) {
    if (field.name) field.value = parameters.get(field.name) ?? "";
  }
}

form.addEventListener("input", ask);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
content.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link || !link.getAttribute("href").startsWith("/")) return;
  if (event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  const isPage = link.closest("nav") !== null;
  go(link.getAttribute("href"), true).then(() => {
    if (isPage) content.scrollIntoView();
  });
  fill();
});
window.addEventListener("popstate", () => {
  fill();
  refresh();
});

// What has become of ports and instances and is not told yet, by what that is.
let news = new Map();
let timer = null;

function told() {
  timer = null;
  const count = ([what, { count, first: { address, protocol } }]) => {
    if (count > 1) return `${count} ${what}`;
    return `${address} ${protocol ? protocol + " " : ""}${what}`;
  };
  if (news.size) tell([...news].map(count).join(", "));
  news = new Map();
}

function note(what, row) {
  const told = news.get(what);
  if (told) told.count += 1; else news.set(what, { count: 1, first: row });
}

let events = null;

function follow() {
  events?.close();
  events = new EventSource("/v1/events");
  events.addEventListener("ready", () => {
    tell("Live");
    refresh();
  });
  events.addEventListener("reset", refresh);
  events.addEventListener("change", (event) => {
    const change = JSON.parse(event.data);
    for (const { added, removed, health } of [change, change.instances]) {
      for (const row of added) note("added", row);
      for (const row of removed) note("removed", row);
      for (const row of health) note(row.health ?? "no longer checked", row);
    }
    timer ??= setTimeout(told, NEWS);
    refresh();
  });
  events.addEventListener("error", () => {
    tell("Not connected");
    // The browser tries again by itself unless it was refused.
    if (events.readyState === EventSource.CLOSED) setTimeout(look, AGAIN);
  });
}

// A page that nobody looks at needs no stream: a browser has six for all its pages.
function look() {
  if (!document.hidden) {
    follow();
  } else {
    events?.close();
    events = null;
  }
}

document.addEventListener("visibilitychange", look);
setInterval(() => { if (events?.readyState === EventSource.OPEN) refresh(); }, AGES);
look();
