// SPDX-License-Identifier: Apache-2.0
// Shows what the server tells by server-sent events. Texts come from the cluster: they become text nodes, and never markup.
"use strict";

const mostServices = 150; // cards; the filter finds the others
const by = (id) => document.getElementById(id);
let view = null;
let samples = []; // of the use of pools
let selected = ""; // the key of a card
let lost = ""; // when the cluster could be read no more, "" while it can be
let known = null; // keys of Services that were shown before, null at first

function element(tag, attributes, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined) e.setAttribute(name, value);
  }
  e.append(...children);
  return e;
}

// keyed brings a list up to date: what stays keeps its element, and so the focus.
function keyed(list, items, update) {
  const old = new Map([...list.children].map((li) => [li.dataset.key, li]));
  let at = null;
  for (const item of items) {
    let li = old.get(item.key);
    if (!li) {
      li = element("li", { "data-key": item.key });
    }
    old.delete(item.key);
    update(li, item);
    const next = at ? at.nextSibling : list.firstChild;
    if (next !== li) list.insertBefore(li, next);
    at = li;
  }
  for (const li of old.values()) li.remove();
}

// card shows an item as a button. Links of the topology are found by the names of its ends.
function card(li, item) {
  let button = li.firstChild;
  if (!button) {
    button = element("button", { type: "button" });
    button.addEventListener("click", () => choose(item.key));
    li.append(button);
  }
  const on = selected !== "" && related().has(item.key);
  button.className = ["card", item.level, on ? "on" : "", item.fresh ? "new" : ""].filter(Boolean).join(" ");
  button.setAttribute("aria-pressed", String(selected === item.key));
  const parts = [element("b", {}, item.name)];
  for (const line of item.lines) parts.push(element("span", {}, line));
  if (item.state) parts.push(element("span", { class: "state" }, item.state));
  const text = parts.map((p) => p.textContent).join("\n");
  if (button.dataset.text !== text) {
    button.dataset.text = text;
    button.replaceChildren(...parts);
  }
}

// model returns the cards of each column, and the links between them as pairs of keys.
function model() {
  const links = [];
  const holders = new Map();
  for (const n of view.nodes) for (const s of n.services) holders.set(s, n.name);
  const poolsByName = new Map();
  for (const p of view.pools) {
    const known = poolsByName.get(p.name) || { key: "pool " + p.name, name: p.name, lines: [], level: "well", state: "" };
    known.lines.push(p.family + ": " + p.allocated + " taken, " + p.available + " free");
    if (p.problem) { known.level = "warn"; known.state = p.problem; }
    poolsByName.set(p.name, known);
  }
  const text = by("filter").value.trim().toLowerCase();
  const all = view.services.map((s) => {
    const name = s.namespace + "/" + s.name;
    const well = s.state === "Announced";
    return {
      key: "service " + name, name, lines: [s.addresses.join(", ") || "no address", s.by ? "by " + s.by : ""].filter(Boolean),
      state: well ? "" : s.state + (s.message ? ": " + s.message : ""), level: well ? "well" : s.state === "Waiting" ? "warn" : "wrong",
      pools: s.pools || [], holder: holders.get(name), byBGP: (s.by || "").includes("BGP"),
    };
  }).filter((s) => (!text || (s.name + " " + s.lines.join(" ")).toLowerCase().includes(text)) && (!by("wrong").checked || s.level !== "well"));
  const services = all.slice(0, mostServices);
  const ends = new Map();
  const nodes = view.nodes.map((n) => {
    const key = "node " + n.name;
    for (const lan of n.lans) {
      ends.set("lan " + lan, { key: "lan " + lan, name: lan, lines: ["LAN"], level: "", state: "" });
      links.push([key, "lan " + lan]);
    }
    for (const p of n.peers) {
      const end = ends.get("peer " + p.name) || { key: "peer " + p.name, name: p.name, lines: ["BGP peer"], level: "well", state: "", down: [] };
      if (!p.established) { end.level = "wrong"; end.down.push(n.name); end.state = "down on " + end.down.join(", "); }
      ends.set("peer " + p.name, end);
      links.push([key, "peer " + p.name]);
    }
    const state = !n.alive ? "its speaker is dead" : n.excluded ? "drained or excluded" : "";
    return { key, name: n.name, lines: [n.services.length + " on layer 2"], state, level: !n.alive ? "wrong" : n.excluded ? "warn" : "well" };
  });
  for (const s of services) {
    for (const p of s.pools) links.push(["pool " + p, s.key]);
    if (s.holder) links.push([s.key, "node " + s.holder]);
    if (s.byBGP) for (const n of view.nodes) if (n.peers.some((p) => p.established)) links.push([s.key, "node " + n.name]);
  }
  return { pools: [...poolsByName.values()], services, left: all.length - services.length, nodes, ends: [...ends.values()], links };
}

let drawn = { links: [] };

// related returns the keys of all that hangs together with the card that is chosen: to the left and to the right of it.
function related() {
  const found = new Set([selected]);
  for (const [from, to] of [[0, 1], [1, 0]]) {
    const way = new Set([selected]);
    for (let grown = true; grown;) {
      grown = false;
      for (const link of drawn.links) {
        if (way.has(link[from]) && !way.has(link[to])) { way.add(link[to]); grown = true; }
      }
    }
    way.forEach((key) => found.add(key));
  }
  return found;
}

function choose(key) {
  selected = selected === key ? "" : key;
  draw();
  if (selected.startsWith("service ")) explain(selected);
}

function draw() {
  if (!view) return;
  const m = model();
  drawn = m;
  const now = new Set(m.services.map((s) => s.key + " " + s.holder));
  for (const s of m.services) s.fresh = known !== null && !known.has(s.key + " " + s.holder);
  known = known === null ? now : new Set([...known, ...now]);
  for (const [id, items] of [["pools", m.pools], ["services", m.services], ["nodes", m.nodes], ["ends", m.ends]]) keyed(by(id), items, card);
  by("more").hidden = m.left === 0;
  by("more").textContent = "and " + m.left + " more; filter by name";
  verdict();
  const wrong = view.problems || [];
  by("problems").hidden = wrong.length === 0;
  keyed(by("problems").querySelector("ul"), wrong.map((text) => ({ key: text, text })), (li, item) => { li.textContent = item.text; });
  keyed(document.querySelector("#events ol"), view.events.map((e) => ({ key: e.time + e.text, e })), (li, item) => {
    if (li.firstChild) return;
    li.append(element("time", { datetime: item.e.time }, new Date(item.e.time).toLocaleTimeString()), item.e.text);
  });
  by("nothing").hidden = view.events.length > 0;
  lines(m.links);
  use();
}

// verdict says whether all is well. What was well when the cluster could be read last may not be now.
function verdict() {
  const wrong = view?.problems || [];
  let text = "✓ All is well", level = "well";
  if (lost) {
    [text, level] = ["– not known since " + lost, ""];
  } else if (wrong.length > 0) {
    [text, level] = ["✗ " + wrong.length + (wrong.length === 1 ? " problem" : " problems"), "wrong"];
  }
  by("verdict").textContent = text;
  by("verdict").className = level;
}

const svgNamespace = "http://www.w3.org/2000/svg";

// lines draws the links between the columns.
function lines(links) {
  const svg = document.querySelector(".columns > svg");
  const ground = svg.getBoundingClientRect();
  const places = new Map([...document.querySelectorAll(".column li")].map((li) => [li.dataset.key, li.getBoundingClientRect()]));
  const on = selected === "" ? new Set() : related();
  const paths = [];
  if (ground.width > 0) {
    for (const [from, to] of links) {
      const a = places.get(from), b = places.get(to);
      if (!a || !b) continue;
      const x1 = a.right - ground.left, y1 = a.top + a.height / 2 - ground.top, x2 = b.left - ground.left, y2 = b.top + b.height / 2 - ground.top;
      const path = document.createElementNS(svgNamespace, "path");
      path.setAttribute("d", `M${x1} ${y1} C${(x1 + x2) / 2} ${y1} ${(x1 + x2) / 2} ${y2} ${x2} ${y2}`);
      if (on.has(from) && on.has(to)) path.setAttribute("class", "on");
      paths.push(path);
    }
  }
  svg.replaceChildren(...paths);
}

// use draws the use of each pool over time.
function use() {
  const items = view.pools.map((p) => ({ key: p.name + " " + p.family, p }));
  keyed(document.querySelector("#use ul"), items, (li, item) => {
    const p = item.p, share = p.capacity > 0 ? (p.allocated + p.cooling) / p.capacity : 0;
    const points = samples.map((s) => ({ t: Date.parse(s.time), used: s.used[s.keys.indexOf(item.key)] })).filter((s) => s.used !== undefined);
    points.push({ t: Date.now(), used: share });
    const first = points[0].t, span = Math.max(points[points.length - 1].t - first, 1);
    const svg = document.createElementNS(svgNamespace, "svg");
    svg.setAttribute("viewBox", "0 0 100 100");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    const percent = Math.round(share * 100) + "%";
    svg.setAttribute("aria-label", `use of pool ${p.name}, ${p.family}: from ${Math.round(points[0].used * 100)}% to ${percent}`);
    const line = document.createElementNS(svgNamespace, "polyline");
    line.setAttribute("points", points.map((s) => `${(s.t - first) / span * 100},${97 - s.used * 94}`).join(" "));
    svg.append(line);
    li.replaceChildren(element("span", {}, p.name + " " + p.family), svg, element("span", { class: "number" }, `${percent}, ${p.available} free`));
  });
}

// explain asks why a Service does not answer, hop by hop.
async function explain(key) {
  const service = key.slice("service ".length);
  by("why").dataset.key = key;
  by("why-title").textContent = "Why " + service;
  by("why-answer").replaceChildren("Looking…");
  if (!by("why").open) by("why").showModal();
  let parts;
  try {
    const response = await fetch("why?service=" + encodeURIComponent(service));
    if (!response.ok) throw new Error(await response.text());
    const answer = await response.json();
    parts = (answer.chains || []).flatMap((chain) => [
      element("h3", {}, [chain.family, chain.address].filter(Boolean).join(" ")),
      element("ul", {}, ...chain.steps.map((step) => {
        const li = element("li", { class: ["Well", "Fault", "Unknown"].includes(step.mark) ? step.mark : null }, step.hop + ": " + step.text);
        if (step.remedy) li.append(element("span", { class: "remedy" }, "→ " + step.remedy));
        return li;
      })),
    ]);
  } catch (error) {
    parts = [String(error.message || error)];
  }
  by("why-answer").replaceChildren(...parts);
}

// The event comes a moment after the dialog has closed: a card that was chosen in between stays chosen.
by("why").addEventListener("close", () => {
  const key = by("why").dataset.key;
  if (selected !== key) return;
  selected = "";
  draw();
  document.querySelector(`li[data-key="${CSS.escape(key)}"] button`)?.focus();
});
by("filter").addEventListener("input", draw);
by("wrong").addEventListener("change", draw);
window.addEventListener("resize", () => view && lines(drawn.links));
window.setInterval(() => {
  if (!view || lost) return;
  samples.push({
    time: new Date().toISOString(), keys: view.pools.map((p) => p.name + " " + p.family),
    used: view.pools.map((p) => (p.capacity > 0 ? (p.allocated + p.cooling) / p.capacity : 0)),
  });
  samples = samples.slice(-360);
  use();
}, 5000);

const source = new EventSource("events");
const connection = (text, wrong) => { by("connection").textContent = text; by("connection").className = wrong ? "wrong" : ""; };
source.addEventListener("history", (e) => { samples = JSON.parse(e.data) || []; });
// lose says why nothing is known of the cluster any more. The next view takes that back.
function lose(why) {
  lost = lost || new Date().toTimeString().slice(0, 8);
  connection(why, true);
  verdict();
}
source.addEventListener("view", (e) => { view = JSON.parse(e.data); lost = ""; connection("live", false); draw(); });
source.addEventListener("failure", (e) => lose("The cluster cannot be read: " + JSON.parse(e.data)));
source.addEventListener("error", () => lose("kubectl tandem ui has ended, or does not answer"));
