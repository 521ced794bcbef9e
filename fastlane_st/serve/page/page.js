// The page at "/": asks /search as one types. Texts go into the page as text, never as HTML.
"use strict";

const WAIT_MS = 120; // after the last key, before the server is asked
const GIVE_UP_MS = 15000;
const RERANKED = 100;
const SHOWN = 10;
const AROUND = 160; // characters of a long text before its first marked word
const ROUTES = [1, 2, 4, "all"];

const at = (id) => document.getElementById(id);
const query = at("query"), routes = at("routes"), rerank = at("rerank"), hits = at("hits");
let timer = 0;
let asked = null; // the request that is under way
let last = null; // what is shown: the query, and the ids in their order

// What is served; a server that doesn't say is taken to have no limit.
const served = fetch("/index", { signal: AbortSignal.timeout(GIVE_UP_MS) })
  .then((response) => response.json())
  .catch(() => ({}));

async function settings() {
  const numRoutes = ROUTES[Number(routes.value)];
  const isReranked = rerank.checked && numRoutes !== "all";
  const { limits = {} } = await served;
  const most = limits.max_top_k ?? Infinity;
  return {
    top_k: Math.min(SHOWN, most),
    num_routes: numRoutes,
    rerank: isReranked ? Math.min(RERANKED, most) : null,
  };
}

function soon() {
  clearTimeout(timer);
  timer = setTimeout(search, WAIT_MS);
}

async function search() {
  clearTimeout(timer);
  if (asked) asked.abort();
  const text = query.value;
  remember(text);
  if (!text.trim()) {
    asked = null;
    clear();
    return;
  }
  const request = new AbortController();
  asked = request;
  const late = setTimeout(() => request.abort("late"), GIVE_UP_MS);
  at("status").classList.add("is-waiting");
  try {
    const body = { query: text, explain: true, ...(await settings()) };
    if (asked !== request) return;
    const begun = performance.now();
    const response = await fetch("/search", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal: request.signal,
    });
    const answer = await response.json();
    if (asked !== request) return;
    if (!response.ok) throw new Error(answer.error ? answer.error.message : `status ${response.status}`);
    show(text, answer, performance.now() - begun);
  } catch (error) {
    if (asked !== request) return; // a newer question was asked
    const isLate = request.signal.aborted;
    const why = isLate ? `no answer in ${GIVE_UP_MS / 1000} seconds` : error.message;
    problem(`The search failed: ${why}. Press Enter to try again.`);
  } finally {
    clearTimeout(late);
    if (asked === request) {
      asked = null;
      at("status").classList.remove("is-waiting");
    }
  }
}

function show(text, answer, total) {
  const [found] = answer.results;
  problem("");
  const ms = (value) => value.toFixed(value < 10 ? 1 : 0);
  at("status").textContent = found.hits.length
    ? `${found.comparisons.toLocaleString()} comparisons · encoding ${ms(answer.took.encode_ms)} ms · ` +
      `search ${ms(answer.took.search_ms)} ms · in all ${ms(total)} ms`
    : "nothing found";
  markQuery(text, found.hits);
  const before = last && last.query === text ? last.ids : null;
  const opened = new Set([...hits.querySelectorAll("li.is-open")].map((item) => item.dataset.key));
  hits.replaceChildren(...found.hits.map((hit, place) => itemOf(hit, place, before, opened)));
  last = { query: text, ids: found.hits.map((hit) => key(hit.id)) };
}

const key = (id) => JSON.stringify(id); // 1 and "1" are two ids

function itemOf(hit, place, before, opened) {
  const item = element("li");
  item.tabIndex = -1;
  item.dataset.key = key(hit.id);
  const isOpen = opened.has(item.dataset.key);
  item.classList.toggle("is-open", isOpen);
  const head = element("div", "head");
  head.append(element("span", "rank", `${place + 1}.`), element("span", "id", String(hit.id)));
  head.append(element("span", "score", hit.score.toFixed(3)), movedOf(item.dataset.key, place, before));
  item.append(head);
  if (hit.text !== null) {
    const text = element("p", "text");
    fillText(text, hit, isOpen);
    item.append(text);
    item.addEventListener("click", () => toggle(item, hit));
    item.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      toggle(item, hit);
    });
  }
  const fields = Object.entries(hit.metadata);
  if (fields.length) {
    item.append(element("p", "metadata", fields.map(([name, value]) => `${name}: ${value}`).join(" · ")));
  }
  return item;
}

function toggle(item, hit) {
  if (window.getSelection().toString()) return; // someone marks text to copy it
  const isOpen = item.classList.toggle("is-open");
  fillText(item.querySelector(".text"), hit, isOpen);
}

function movedOf(id, place, before) {
  if (!before) return element("span", "moved");
  const old = before.indexOf(id);
  if (old < 0) return element("span", "moved up", "new");
  if (old === place) return element("span", "moved");
  const by = Math.abs(old - place);
  return old > place
    ? element("span", "moved up", `▲ ${by}`)
    : element("span", "moved down", `▼ ${by}`);
}

function fillText(target, hit, isOpen) {
  const spans = strongest(hit.explanation, "document_span");
  const [from, to] = hit.span || [0, hit.text.length];
  const first = spans.length ? spans[0].span[0] : from;
  let start = isOpen ? 0 : Math.max(from, first - AROUND);
  if (start < AROUND / 2 && !isOpen) start = 0;
  const end = isOpen ? hit.text.length : Math.max(to, first);
  const parts = pieces(hit.text, spans, start, end);
  if (start > 0) parts.unshift("… ");
  target.replaceChildren(...parts);
}

function strongest(explanation, side) {
  if (!explanation) return [];
  const most = Math.max(...explanation.words.map((word) => word.contribution), 0);
  return explanation.words
    .filter((word) => word.strong && word[side])
    .map((word) => ({ span: word[side], share: most > 0 ? word.contribution / most : 0 }))
    .sort((one, other) => one.span[0] - other.span[0] || other.share - one.share);
}

// Spans count code points, as Python's strings do; JavaScript's count UTF-16 units.
function pieces(text, spans, start, end) {
  const letters = Array.from(text);
  const parts = [];
  let place = start;
  for (const { span: [from, to], share } of spans) {
    if (from < place || to > end) continue;
    parts.push(letters.slice(place, from).join(""));
    const word = element("mark", "", letters.slice(from, to).join(""));
    word.style.setProperty("--share", (0.15 + 0.65 * share).toFixed(2));
    parts.push(word);
    place = to;
  }
  parts.push(letters.slice(place, end).join(""));
  return parts;
}

function markQuery(text, found) {
  const sums = new Map();
  for (const hit of found) {
    for (const word of hit.explanation ? hit.explanation.words : []) {
      const name = JSON.stringify(word.query_span);
      sums.set(name, (sums.get(name) || 0) + word.contribution);
    }
  }
  const most = Math.max(...sums.values(), 0);
  const spans = [...sums]
    .filter(([, sum]) => most > 0 && sum >= most / 2)
    .map(([name, sum]) => ({ span: JSON.parse(name), share: sum / most }))
    .sort((one, other) => one.span[0] - other.span[0]);
  at("query-marked").replaceChildren(...pieces(text, spans, 0, Array.from(text).length));
}

function clear() {
  problem("");
  at("status").textContent = "";
  at("status").classList.remove("is-waiting");
  at("query-marked").replaceChildren();
  hits.replaceChildren();
  last = null;
}

function problem(message) {
  at("problem").hidden = !message;
  at("problem").textContent = message;
  if (message) at("status").textContent = "";
}

function element(name, classes = "", text = "") {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  made.textContent = text;
  return made;
}

function changed() {
  at("routes-shown").textContent = ROUTES[Number(routes.value)];
  routes.setAttribute("aria-valuetext", String(ROUTES[Number(routes.value)]));
  rerank.disabled = ROUTES[Number(routes.value)] === "all";
  search();
}

function remember(text) {
  const url = text ? `?q=${encodeURIComponent(text)}` : location.pathname;
  try {
    history.replaceState(null, "", url);
  } catch {
    // too often, or too long: the address stays as it is
  }
}

function moveTo(step) {
  const items = [...hits.children];
  if (!items.length) return;
  const now = items.indexOf(document.activeElement.closest("#hits li"));
  const next = now + step;
  if (next < 0) query.focus();
  else items[Math.min(next, items.length - 1)].focus();
}

document.addEventListener("keydown", (event) => {
  const isTyping = event.target === query;
  if (event.altKey) {
    const place = ["Digit1", "Digit2", "Digit4", "Digit0"].indexOf(event.code);
    if (place >= 0) {
      routes.value = place;
      changed();
    } else if (event.code === "KeyR" && !rerank.disabled) {
      rerank.checked = !rerank.checked;
      changed();
    } else return;
  } else if (event.key === "/" && !isTyping) {
    query.focus();
    query.select();
  } else if (event.key === "ArrowDown" && event.target !== routes) {
    moveTo(1);
  } else if (event.key === "ArrowUp" && event.target !== routes && !isTyping) {
    moveTo(-1);
  } else if (event.key === "Escape" && !isTyping) {
    query.focus();
  } else return;
  event.preventDefault();
});

query.addEventListener("input", soon);
routes.addEventListener("input", changed);
rerank.addEventListener("change", changed);
at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});

served.then((index) => {
  if (index.documents !== undefined) at("about").textContent = `${index.documents.toLocaleString()} documents`;
});
query.value = new URLSearchParams(location.search).get("q") || "";
if (query.value) search();
