// Draws the comparison of checkpoints from JSON (data.py says what it holds). No dependency, no request but for that JSON.
// Text from the data becomes text nodes only; names in addresses are looked up in the study, never used as they are.
"use strict";
(() => {
const SVG = "http://www.w3.org/2000/svg";
const VERDICTS = {
  s: ["supported", "▲"], c: ["contradicted", "▼"], n: ["negligible", "■"], u: ["undecided", "◆"], x: ["not applicable", "○"],
};
const LETTERS = Object.fromEntries(Object.entries(VERDICTS).map(([letter, [word]]) => [word, letter]));
const KINDS = {
  attention: "attention", mlp: "MLP", conv: "conv", block: "block", stem: "stem", embedding: "embedding",
};
const TABS = { findings: "Findings", explore: "Explore", methods: "Methods" };

// ------------------------------------------------------------------------------------------------------ nodes, numbers

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name === "on") for (const [event, run] of Object.entries(value)) node.addEventListener(event, run);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}
const h = (tag, properties, ...children) => fill(document.createElement(tag), properties, children);
const s = (tag, properties, ...children) => fill(document.createElementNS(SVG, tag), properties, children);
const clear = (node) => { node.replaceChildren(); return node; };
const minus = (text) => text.replace(/-/g, "−");
const whole = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, ",");
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const known = (value) => value !== null && value !== undefined;

// Three digits, as FINDINGS.md and the report write them.
function three(value) {
  if (!known(value)) return "–";
  const size = Math.abs(value);
  const exponent = size > 0 && (size < 1e-4 || size >= 999.5);
  const text = exponent ? value.toExponential(2).replace(/e([+-])(\d)$/, "e$10$2") : value.toPrecision(3);
  return minus(text);
}
const thousandths = (value) => (known(value) ? minus((value / 1000).toFixed(3)) : "undefined");
const interval = (write, [value, low, high]) =>
  known(value) && known(low) ? `${write(value)} [${write(low)}, ${write(high)}]` : write(value);
const shownP = (p) => (!known(p) ? "–" : p < 0.001 ? "< 0.001" : p.toFixed(3));

// A map of one network's places (rows) with those of another; `turned` where the file has them the other way round.
class CkaMap {
  constructor(file, rows, columns, turned) { Object.assign(this, { ...file, rows, columns, turned }); }
  index(i, j) { return this.turned ? j * this.rows + i : i * this.columns + j; }
  at(i, j) {
    const k = this.index(i, j);
    const value = this.cka[k];
    return known(value) ? [value, value - this.below[k], value + this.above[k]] : [null, null, null];
  }
  // For every column the row most like it, -1 where none is defined.
  best() {
    return Array.from({ length: this.columns }, (_, j) => {
      let found = -1;
      for (let i = 0; i < this.rows; i++) {
        const value = this.at(i, j)[0];
        if (known(value) && (found < 0 || value > this.at(found, j)[0])) found = i;
      }
      return found;
    });
  }
  bestOfRow(i) {
    let found = -1;
    for (let j = 0; j < this.columns; j++) {
      const value = this.at(i, j)[0];
      if (known(value) && (found < 0 || value > this.at(i, found)[0])) found = j;
    }
    return found;
  }
}

// ------------------------------------------------------------------------------------------------------------ addresses

// What an address asks for, as far as the study has it.
function readAddress(search, study) {
  const asked = new URLSearchParams(search);
  const number = (name, otherwise) => {
    const found = study.checkpoints.findIndex((each) => each.id === asked.get(name));
    return found < 0 ? otherwise : found;
  };
  const view = asked.get("view");
  const sel = /^(aa|ab|bb)\.(\d{1,3})\.(\d{1,3})$/.exec(asked.get("sel") || "");
  const claim = study.claims.find((each) => each.id === asked.get("claim"));
  return {
    a: number("a", study.start[0]),
    b: number("b", study.start[1]),
    view: view in TABS || study.views.includes(view) ? view : "findings",
    sel: sel ? { of: sel[1], i: Number(sel[2]), j: Number(sel[3]) } : null,
    claim: claim ? claim.id : null,
  };
}

function writeAddress(state, study) {
  const parts = new URLSearchParams();
  parts.set("a", study.checkpoints[state.a].id);
  parts.set("b", study.checkpoints[state.b].id);
  parts.set("view", state.view);
  if (state.sel && state.pinned) parts.set("sel", `${state.sel.of}.${state.sel.i}.${state.sel.j}`);
  if (state.claim && state.view === "findings") parts.set("claim", state.claim);
  return `?${parts}`;
}

// --------------------------------------------------------------------------------------------------------------- the page

class Page {
  constructor(root, study, load, files) {
    this.root = root;
    this.study = study;
    this.load = load;
    this.files = new Map(Object.entries(files || {}));
    this.state = { ...readAddress(location.search, study), pinned: false };
    this.state.pinned = this.state.sel !== null;
    this.path = true;
    this.build();
    this.shown = this.show();
  }

  build() {
    const { study } = this;
    this.toast = h("p", { class: "toast", role: "status" });
    this.tabs = Object.entries(TABS).map(([name, text]) =>
      h("button", { role: "tab", id: `vs-tab-${name}`, "aria-controls": `vs-${name}`, text, on: { click: () => this.go({ view: name }) } }));
    this.panels = Object.keys(TABS).map((name) =>
      h("section", { role: "tabpanel", id: `vs-${name}`, "aria-labelledby": `vs-tab-${name}` }));
    const tabs = h("div", { role: "tablist", "aria-label": "Parts of the page", class: "tabs", on: { keydown: (e) => this.tabKey(e) } }, this.tabs);
    this.pickers = ["a", "b"].map((side) => this.picker(side));
    const swap = h("button", { class: "quiet", "aria-label": "Swap A and B", title: "Swap A and B", text: "⇄", on: { click: () => this.swap() } });
    const link = h("button", { class: "main", text: "Copy link", on: { click: () => this.copyLink() } });
    clear(this.root).append(
      h("header", { class: "top" },
        h("div", { class: "heading" }, h("h1", { text: study.title }), h("p", { class: "mute", text: this.subtitle() })),
        h("div", { class: "bar" }, tabs, h("div", { class: "pair" }, this.pickers[0], swap, this.pickers[1], link))),
      h("main", {}, this.panels), this.toast);
    this.findings = new Findings(this, this.panels[0]);
    this.explore = new Explore(this, this.panels[1]);
    this.methods = new Methods(this, this.panels[2]);
    let width = 0;
    new ResizeObserver(() => {
      if (Math.abs(this.root.clientWidth - width) > 1) { width = this.root.clientWidth; this.explore.draw(); }
    }).observe(this.root);
    window.addEventListener("popstate", () => {
      this.state = { ...readAddress(location.search, study) };
      this.state.pinned = this.state.sel !== null;
      this.show();
    });
  }

  subtitle() {
    const { checkpoints, claims, settings } = this.study;
    const images = checkpoints.length ? checkpoints[0].images : { n: 0, name: "" };
    const same = checkpoints.every((each) => each.images.sha256 === images.sha256);
    const of = same ? `${whole(images.n)} images of ${images.name}` : "several sets of images";
    return `${checkpoints.length} checkpoints · ${claims.length} published claims · ${of} · 95 % intervals, ${whole(settings.draws)} draws`;
  }

  picker(side) {
    const select = h("select", { "aria-label": `Checkpoint ${side.toUpperCase()}`, on: { change: (e) => this.go({ [side]: Number(e.target.value), sel: null, pinned: false }) } },
      this.study.checkpoints.map((each, number) => h("option", { value: number, text: each.id })));
    return h("label", { class: `pick ${side}` }, h("span", { class: "key", "aria-hidden": "true", text: side.toUpperCase() }), select);
  }

  tabKey(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = this.tabs[(this.tabs.indexOf(document.activeElement) + step + this.tabs.length) % this.tabs.length];
    next.focus();
    next.click();
    event.preventDefault();
  }

  swap() {
    const { a, b, sel } = this.state;
    const turned = sel && { of: { aa: "bb", bb: "aa", ab: "ab" }[sel.of], i: sel.of === "ab" ? sel.j : sel.i, j: sel.of === "ab" ? sel.i : sel.j };
    this.go({ a: b, b: a, sel: turned });
  }

  go(changes) {
    Object.assign(this.state, changes);
    this.shown = this.show();
    this.remember();
    return this.shown;
  }

  // The address follows what was chosen, not every move of the pointer; browsers refuse more than a few changes a second.
  remember() {
    clearTimeout(this.later);
    this.later = setTimeout(() => {
      const search = writeAddress(this.state, this.study);
      history.replaceState(null, "", search);
      if (window.parent !== window) window.parent.postMessage({ queryString: search.slice(1) }, "https://huggingface.co");
    }, 120);
  }

  async show() {
    const { state, study } = this;
    const tab = state.view in TABS ? state.view : "explore";
    Object.keys(TABS).forEach((name, k) => {
      this.tabs[k].setAttribute("aria-selected", String(name === tab));
      this.tabs[k].tabIndex = name === tab ? 0 : -1;
      this.panels[k].hidden = name !== tab;
    });
    this.pickers.forEach((label, k) => { label.querySelector("select").value = String(k ? state.b : state.a); });
    this.root.dataset.tab = tab;
    if (tab === "findings") this.findings.show();
    if (tab === "methods") this.methods.show();
    if (tab === "explore" && study.checkpoints.length) await this.explore.show();
    this.root.dataset.ready = "true";
  }

  async file(name) {
    if (!this.files.has(name)) this.files.set(name, this.load(name));
    try {
      return await this.files.get(name);
    } catch (error) {
      this.files.delete(name);
      throw error;
    }
  }

  // Both networks and the map between them.
  async pair(a, b) {
    const [low, high] = [Math.min(a, b), Math.max(a, b)];
    const comparable = a === b || this.study.comparable.some((group) => group.includes(a) && group.includes(b));
    const [first, second, cross] = await Promise.all([
      this.file(`checkpoint-${a}.json`), this.file(`checkpoint-${b}.json`),
      comparable && a !== b ? this.file(`pair-${low}-${high}.json`) : null,
    ]);
    const counts = [first, second].map((each) => each.places.name.length);
    const own = [first, second].map((each, k) => each.map && new CkaMap(each.map, counts[k], counts[k], false));
    const between = a === b ? own[0] : cross && new CkaMap(cross.map, counts[0], counts[1], a > b);
    return { a: first, b: second, maps: { aa: own[0], ab: between, bb: own[1] } };
  }

  say(text) {
    this.toast.textContent = text;
    clearTimeout(this.quiet);
    this.quiet = setTimeout(() => { this.toast.textContent = ""; }, 2500);
  }

  async copy(text, what) {
    try {
      await navigator.clipboard.writeText(text);
      this.say(`${what} copied`);
    } catch {
      const area = h("textarea", { class: "away", "aria-label": what });
      area.value = text;
      document.body.append(area);
      area.select();
      this.say(document.execCommand("copy") ? `${what} copied` : `${what} could not be copied: your browser does not allow it`);
      area.remove();
    }
  }

  copyLink() {
    const search = writeAddress({ ...this.state, pinned: true }, this.study);
    this.copy(location.href.split(/[?#]/)[0] + search, "Link");
  }
}

// --------------------------------------------------------------------------------------------------------------- findings

class Findings {
  constructor(page, root) {
    this.page = page;
    const { study } = page;
    this.filter = null;
    this.rows = new Map();
    this.buttons = new Map();
    const judged = study.claims.filter((claim) => claim.agreement);
    const missing = study.claims.filter((claim) => !claim.agreement);
    const groups = study.sections.map(([said, heading]) => ({ said, heading, claims: judged.filter((claim) => claim.said === said) }))
      .filter((group) => group.claims.length);
    root.append(this.summary(groups, missing.length, judged.length), this.head());
    this.groups = groups.map((group) => ({ ...group, node: this.group(group) }));
    root.append(...this.groups.map((group) => group.node), this.missing(missing));
  }

  summary(groups, missing, judged) {
    const button = ({ said, heading, claims }) => {
      const look = said.replace("all ", "");
      const node = h("button", { class: `count ${look}`, "aria-pressed": "false", style: `flex-grow:${claims.length}`, on: { click: () => this.choose(said) } },
        h("b", { text: claims.length }), h("span", { text: heading }));
      this.buttons.set(said, node);
      return node;
    };
    return h("div", { class: "summary" },
      h("p", { class: "lead", text: `${judged} published claims judged on these checkpoints, each against a margin fixed before looking; ${missing} more could not be.` }),
      h("div", { class: "counts", role: "group", "aria-label": "Show only" }, groups.map(button)));
  }

  head() {
    const scale = Forest.axis();
    return h("div", { class: "claim head", "aria-hidden": "true" }, h("span"), h("span", { class: "axis" }, scale), h("span", { text: "mean effect [95 %]" }), h("span"));
  }

  group({ heading, claims }) {
    return h("section", { class: "group" }, h("h2", { text: heading }), claims.map((claim) => this.claim(claim)));
  }

  claim(claim) {
    const { agreement } = claim;
    const letter = LETTERS[agreement.verdict];
    const look = known(agreement.estimate[1]) ? letter : "x";
    const pair = h("p", { class: "mute small here" });
    const more = h("button", { class: "link", "aria-expanded": "false", text: "Details", on: { click: () => this.open(claim.id, more.getAttribute("aria-expanded") !== "true") } });
    const evidence = claim.see && h("button", { class: "link see", text: "See evidence", on: { click: () => this.see(claim) } });
    const node = h("article", { class: "claim", id: `vs-claim-${claim.id}` },
      h("div", {}, h("h3", { text: claim.text }),
        h("p", { class: "mute small" }, badge(look, known(agreement.estimate[1]) ? null : "no interval"), ` over checkpoints · ${claim.id} · ${claim.source}`),
        h("p", { class: "mute small" }, "choices: ", counted(agreement.counts)), pair),
      Forest.row(agreement.estimate, claim.margin, look),
      h("p", { class: "effect" }, h("b", { text: interval(three, agreement.estimate) }), h("span", { class: "mute small", text: ` ${claim.unit}` }),
        h("span", { class: "mute small over", text: `over ${agreement.over}` })),
      h("div", { class: "acts" }, evidence, more));
    this.rows.set(claim.id, { node, more, pair, claim, body: null });
    return node;
  }

  missing(claims) {
    return h("details", { class: "group missing" }, h("summary", {}, h("h2", { text: `Not judged (${claims.length})` })),
      h("dl", {}, claims.map((claim) => [h("dt", { text: `${claim.text} (${claim.id})` }), h("dd", { class: "mute", text: claim.reason })])));
  }

  choose(said) {
    this.filter = this.filter === said ? null : said;
    for (const group of this.groups) group.node.hidden = this.filter !== null && group.said !== this.filter;
    for (const [name, button] of this.buttons) button.setAttribute("aria-pressed", String(name === this.filter));
  }

  show() {
    const { a, b, claim } = this.page.state;
    for (const row of this.rows.values()) {
      const found = (this.page.study.judgements[row.claim.id] || []).filter(([choice, verdict]) =>
        verdict !== "x" && (choice.length === 1 ? choice[0] === a || choice[0] === b : choice.includes(a) && choice.includes(b)));
      clear(row.pair).append(...found.slice(0, 2).map((each) =>
        h("span", { class: "one" }, `${this.names(each[0])}: `, badge(each[1]), ` ${interval(three, each.slice(2, 5))}`)));
    }
    if (claim && !this.opened) { this.opened = true; this.open(claim, true); this.rows.get(claim)?.node.scrollIntoView({ block: "start" }); }
  }

  names(choice) {
    return choice.map((number) => this.page.study.checkpoints[number].id).join(" and ");
  }

  open(id, opened) {
    const row = this.rows.get(id);
    if (!row) return;
    if (opened && !row.body) {
      row.body = this.body(row.claim);
      row.node.append(row.body);
    }
    if (row.body) row.body.hidden = !opened;
    row.more.setAttribute("aria-expanded", String(opened));
    row.more.textContent = opened ? "Close" : "Details";
    this.opened = true;
    this.page.state.claim = opened ? id : null;
    this.page.remember();
  }

  body(claim) {
    const { agreement } = claim;
    const texts = [["What is computed", claim.statistic], ["Formula", claim.formula], ["Would be refuted by", claim.falsified_by],
      ["Margin", `${claim.margin} ${claim.unit}`], ["Conditions", claim.conditions], ["Published against it", claim.against],
      ["p over checkpoints (Holm)", shownP(agreement.p)], ["Range over choices", agreement.range.map(three).join(" to ")]];
    const controls = agreement.controls.map(([name, ...rest]) => h("li", { text: `${name}: ${interval(three, rest.slice(0, 3))}` }));
    return h("div", { class: "more" },
      h("dl", {}, texts.filter(([, text]) => text).map(([head, text]) => [h("dt", { text: head }), h("dd", { text })]),
        controls.length ? [h("dt", { text: "Beside it" }), h("dd", {}, h("ul", {}, controls))] : []),
      this.choices(claim));
  }

  choices(claim) {
    const rows = (this.page.study.judgements[claim.id] || []).filter((each) => known(each[2])).sort((x, y) => y[2] - x[2]);
    const line = (each) => h("tr", {}, h("td", {}, badge(each[1])), h("td", { class: "number", text: interval(three, each.slice(2, 5)) }),
      h("td", { text: this.names(each[0]) }),
      h("td", {}, claim.see ? h("button", { class: "link", text: "open", "aria-label": `Open ${this.names(each[0])}`, on: { click: () => this.see(claim, each) } }) : null));
    const table = h("table", {}, h("thead", {}, h("tr", {}, ["verdict", `effect [95 % over images]`, "checkpoints", ""].map((text) => h("th", { scope: "col", text })))),
      h("tbody", {}, rows.map(line)));
    return h("div", { class: "choices" }, h("h4", { text: `${rows.length} ${rows.length === 1 ? "choice" : "choices"} of checkpoints` }),
      Forest.strip(rows, claim.margin, (each) => this.names(each[0])), h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "All choices" }, table));
  }

  // The chosen pair if the claim was judged on it, else the choice whose effect is nearest the mean.
  see(claim, chosen) {
    const { a, b } = this.page.state;
    const rows = (this.page.study.judgements[claim.id] || []).filter((each) => known(each[2]));
    const middle = claim.agreement.estimate[0];
    const here = rows.find(([choice]) => (choice.length > 1 ? choice[0] === a && choice[1] === b : choice[0] === a));
    const typical = rows.slice().sort((x, y) => Math.abs(x[2] - middle) - Math.abs(y[2] - middle))[0];
    const [choice] = chosen || here || typical;
    const other = choice.length > 1 ? choice[1] : choice[0] === b ? a : b;
    const [view, of, row, column] = claim.see;
    this.page.go({ a: choice[0], b: other, view, sel: { of, depths: [row, column] }, pinned: true });
    window.scrollTo({ top: 0 });
  }
}

// 36 supported, 7 contradicted, each with its sign.
function counted(counts) {
  const there = Object.entries(counts).filter(([, count]) => count);
  return there.map(([word, count], k) => [h("span", { class: `count-of ${word}` }, h("span", { "aria-hidden": "true", text: `${VERDICTS[LETTERS[word]][1]} ` }), `${count} ${word}`), k < there.length - 1 ? ", " : ""]);
}

function badge(letter, word) {
  const [name, sign] = VERDICTS[letter];
  return h("span", { class: `badge ${name.replace(" ", "-")}` }, h("span", { "aria-hidden": "true", text: `${sign} ` }), word || name);
}

// Effects in margins, linear within one and logarithmic outside; the band is too small to matter.
const Forest = {
  width: 260,
  reach: 60,
  x(effect, margin) {
    const m = effect / margin;
    const bent = (v) => (v <= 1 ? v : 1 + Math.log(v));
    const at = Math.sign(m) * Math.min(bent(Math.abs(m)), bent(this.reach)) / bent(this.reach);
    return this.width / 2 + at * (this.width / 2 - 8);
  },
  frame(height) {
    const [low, zero, high] = [-1, 0, 1].map((v) => this.x(v, 1));
    return s("svg", { class: "forest", viewBox: `0 0 ${this.width} ${height}`, "aria-hidden": "true" },
      s("rect", { class: "margin", x: low, y: 0, width: high - low, height }), s("line", { class: "zero", x1: zero, x2: zero, y1: 0, y2: height }));
  },
  axis() {
    const svg = s("svg", { class: "forest", viewBox: `0 0 ${this.width} 32` });
    svg.append(s("text", { x: this.x(-2, 1), y: 10, "text-anchor": "end", text: "← the opposite" }), s("text", { x: this.x(2, 1), y: 10, text: "as claimed →" }),
      s("text", { x: this.width / 2, y: 10, "text-anchor": "middle", text: "margins" }));
    for (const m of [-30, -5, -1, 0, 1, 5, 30]) svg.append(s("text", { class: "tick", x: this.x(m, 1), y: 26, "text-anchor": "middle", text: minus(String(m)) }));
    return svg;
  },
  row([value, low, high], margin, letter) {
    const svg = this.frame(34);
    svg.classList.add(VERDICTS[letter][0].replace(" ", "-"));
    if (known(low)) svg.append(s("line", { class: "whisker", x1: this.x(low, margin), x2: this.x(high, margin), y1: 17, y2: 17 }));
    svg.append(mark(letter, this.x(value, margin), 17, 5.5));
    return h("div", { class: "axis" }, svg);
  },
  strip(rows, margin, name) {
    const svg = this.frame(70);
    rows.forEach((each, k) => {
      const dot = mark(each[1], this.x(each[2], margin), 8 + ((k * 37) % 54), 3.4);
      dot.append(s("title", { text: `${name(each)}: ${interval(three, each.slice(2, 5))}` }));
      svg.append(s("g", { class: VERDICTS[each[1]][0].replace(" ", "-") }, dot));
    });
    svg.classList.add("strip");
    return svg;
  },
};

function mark(letter, x, y, r) {
  const shapes = {
    s: `M${x - r},${y + r * 0.8}L${x},${y - r}L${x + r},${y + r * 0.8}Z`, c: `M${x - r},${y - r * 0.8}L${x},${y + r}L${x + r},${y - r * 0.8}Z`,
    n: `M${x - r * 0.8},${y - r * 0.8}h${r * 1.6}v${r * 1.6}h${-r * 1.6}Z`, u: `M${x},${y - r}L${x + r},${y}L${x},${y + r}L${x - r},${y}Z`,
    x: `M${x - r * 0.8},${y}a${r * 0.8},${r * 0.8} 0 1,0 ${r * 1.6},0a${r * 0.8},${r * 0.8} 0 1,0 ${-r * 1.6},0Z`,
  };
  return s("path", { class: "mark", d: shapes[letter] });
}

// ---------------------------------------------------------------------------------------------------------------- explore

class Explore {
  constructor(page, root) {
    this.page = page;
    this.root = root;
    this.status = h("p", { class: "mute status", role: "status" });
    this.readout = h("p", { class: "readout", "aria-live": "polite" });
    this.table = h("table", { class: "here" });
    this.pin = h("button", { class: "quiet pin", on: { click: () => this.togglePin() } });
    const toggle = h("input", { type: "checkbox", checked: true, on: { change: (e) => { page.path = e.target.checked; this.draw(); } } });
    this.cka = panel(this, "cka", "Which places are alike", "linear CKA, unbiased", h("label", { class: "small toggle" }, toggle, " best match"));
    this.cards = [...page.study.curves.map((curve) => panel(this, curve.key, curve.title, curve.unit)), panel(this, "heads", "Attention heads", "mean distance, px")];
    this.charts = [];
    root.append(this.status, h("div", { class: "grid" },
      h("div", { class: "left" }, this.cka.node, this.cards.at(-1).node),
      h("div", { class: "side" },
        h("section", { class: "card selection", "aria-label": "At the selection" }, h("div", { class: "line" }, this.readout, this.pin), this.table),
        this.cards.slice(0, -1).map((card) => card.node))));
  }

  async show() {
    const { state } = this.page;
    const asked = `${state.a} ${state.b}`;
    this.asked = asked;
    if (this.has !== asked) {
      this.status.textContent = "Loading …";
      try {
        const found = await this.page.pair(state.a, state.b);
        if (this.asked !== asked) return;
        this.pair = found;
        this.has = asked;
        this.status.textContent = "";
      } catch {
        if (this.asked !== asked) return;
        this.has = null;
        this.pair = null;
        this.status.textContent = location.protocol === "file:"
          ? "Browsers read no further files beside a page that was opened from a disk. Serve the folder: python -m http.server"
          : "These measurements could not be fetched. Choose the checkpoints again to try once more.";
        this.root.classList.add("empty");
        return;
      }
      this.root.classList.remove("empty");
    }
    this.settle();
    this.draw();
    const wanted = this.page.state.view;
    for (const card of [this.cka, ...this.cards]) card.node.classList.toggle("asked", card.key === wanted && wanted !== "cka");
    if (this.page.study.views.includes(wanted) && wanted !== "cka" && window.innerWidth < 900) {
      this.cards.find((card) => card.key === wanted)?.node.scrollIntoView({ block: "center" });
    }
  }

  // A selection inside the maps: depths become places, what does not exist is dropped, and there is always one.
  settle() {
    const { state } = this.page;
    const sides = (of) => [this.pair[of[0]], this.pair[of[1]]].map((each) => each.places);
    if (state.sel?.depths) {
      const nearest = (places, depth) => places.depth.reduce((best, at, k) => (Math.abs(at - depth) < Math.abs(places.depth[best] - depth) ? k : best), 0);
      const [rows, columns] = sides(state.sel.of);
      state.sel = { of: state.sel.of, i: nearest(rows, state.sel.depths[0]), j: nearest(columns, state.sel.depths[1]) };
    }
    if (state.sel) {
      const [rows, columns] = sides(state.sel.of).map((places) => places.name.length);
      if (state.sel.i >= rows || state.sel.j >= columns) { state.sel = null; state.pinned = false; }
    }
    if (!state.sel) {
      const [rows, columns] = sides("ab").map((places) => places.name.length);
      state.sel = { of: "ab", i: rows >> 1, j: columns >> 1 };
      state.pinned = false;
    }
  }

  select(sel) {
    const now = this.page.state.sel;
    if (now && now.of === sel.of && now.i === sel.i && now.j === sel.j) return;
    this.page.state.sel = sel;
    this.move();
  }

  togglePin(sel) {
    const { state } = this.page;
    const same = !sel || (state.sel.of === sel.of && state.sel.i === sel.i && state.sel.j === sel.j);
    if (sel) this.select(sel);
    state.pinned = same ? !state.pinned : true;
    this.move();
    this.page.remember();
  }

  // The same selection in every map: [row, column] cells, and the places of A and of B that it speaks of.
  selected() {
    const { of, i, j } = this.page.state.sel;
    const { ab } = this.pair.maps;
    const ofA = (k) => (ab ? ab.bestOfRow(k) : -1);
    const best = ab ? this.bestRows : [];
    const ofB = (k) => (ab ? best[k] : -1);
    const there = (cells) => cells.filter((cell) => cell.every((k) => k >= 0));
    if (of === "ab") return { aa: [[i, i]], ab: [[i, j]], bb: [[j, j]], a: [i], b: [j] };
    const others = of === "aa" ? [ofA(i), ofA(j)] : [ofB(i), ofB(j)];
    const pairs = of === "aa" ? [[i, others[0]], [j, others[1]]] : [[others[0], i], [others[1], j]];
    return {
      ab: there(pairs), [of]: [[i, j]], [of === "aa" ? "bb" : "aa"]: there([others]),
      a: of === "aa" ? [i, j] : others.filter((k) => k >= 0), b: of === "bb" ? [i, j] : others.filter((k) => k >= 0),
    };
  }

  draw() {
    if (!this.pair || this.root.hidden || !this.root.clientWidth) return;
    this.bestRows = this.pair.maps.ab ? this.pair.maps.ab.best() : [];
    this.drawMaps();
    this.charts = this.cards.map((card) => drawChart(this, card));
    this.move();
  }

  // Everything that follows the selection, and nothing else: this runs at every move of the pointer.
  move() {
    if (!this.pair) return;
    const marked = this.selected();
    for (const map of this.maps) map.mark(marked[map.of] || []);
    for (const chart of this.charts) chart?.mark(marked);
    const { pinned } = this.page.state;
    this.pin.textContent = pinned ? "Unpin" : "Pin";
    this.pin.setAttribute("aria-pressed", String(pinned));
    this.root.classList.toggle("pinned", pinned);
    this.tell();
  }

  name(side) { return this.page.study.checkpoints[this.page.state[side]].id; }

  tell() {
    const { of, i, j } = this.page.state.sel;
    const map = this.pair.maps[of];
    const [first, second] = [[of[0], i], [of[1], j]];
    const word = ([side, k]) => `${this.pair[side].places.name[k]} of ${side.toUpperCase()}`;
    const words = map
      ? [h("b", { text: interval(thousandths, map.at(i, j)) }), h("span", { text: ` CKA of ${word(first)} and ${word(second)}, n = ${whole(map.n)} images` })]
      : [`${this.name("a")} and ${this.name("b")} were measured on different images or in other batches, so no place of one can be compared with one of the other.`];
    clear(this.readout).append(...words);
    const columns = [first, second];
    const head = h("tr", {}, h("td"), columns.map((each) => h("th", { scope: "col", class: each[0], text: `${each[0].toUpperCase()} ${this.pair[each[0]].places.name[each[1]]}` })));
    const rows = [[["Place", ""], columns.map(([side, k]) => this.about(side, k))],
      ...this.page.study.curves.map((curve) => [[curve.title, curve.unit], columns.map(([side, k]) => this.number(side, curve.key, k))]),
      [["Attention heads", "px"], columns.map(([side, k]) => this.heads(side, k))]];
    clear(this.table).append(h("thead", {}, head), h("tbody", {}, rows.map(([title, cells]) =>
      h("tr", {}, h("th", { scope: "row" }, title[0], h("span", { class: "mute", text: ` ${title[1]}` })), cells.map((text) => h("td", { text }))))));
  }

  about(side, k) {
    const { kind, depth, stage } = this.pair[side].places;
    const staged = stage.some((each) => each !== stage[0]) ? `, stage ${stage[k]}` : "";
    return `${KINDS[kind[k]] || kind[k]}, depth ${depth[k].toFixed(2)}${staged}`;
  }

  number(side, key, k) {
    const curve = this.pair[side].curves[key];
    const at = curve ? curve.place.indexOf(k) : -1;
    return at < 0 ? "–" : interval(three, [curve.value[at], curve.low[at], curve.high[at]]);
  }

  heads(side, k) {
    const { heads } = this.pair[side];
    const at = heads ? heads.place.indexOf(k) : -1;
    return at < 0 ? "–" : heads.px[at].filter(known).map(three).join(", ");
  }

  // The selection with one of its places changed, from a chart.
  choose(side, k) {
    const { of, i, j } = this.page.state.sel;
    const marked = this.selected();
    const sel = of === "ab" ? { of, i, j } : { of: "ab", i: marked.a[0] ?? 0, j: marked.b[0] ?? 0 };
    sel[side === "a" ? "i" : "j"] = k;
    return sel;
  }

  // -------------------------------------------------------------------------------------------------- maps

  drawMaps() {
    const counts = ["a", "b"].map((side) => this.pair[side].places.name.length);
    const width = Math.max(240, Math.floor(this.cka.body.clientWidth));
    const beside = joined(width, counts);
    const places = beside.cell >= 8 ? beside : stacked(width, counts);
    const svg = s("svg", { class: "maps", width, height: places.height, viewBox: `0 0 ${width} ${places.height}`, role: "group", "aria-label": "Maps of similarity" });
    this.maps = places.maps.filter(({ of }) => this.pair.maps[of]).map((place) => new MapView(this, place, places.cell, svg));
    svg.append(...this.maps.map((map) => map.node), colourBar(this.page.study.magma, places.bar));
    clear(this.cka.body).append(svg);
    this.cka.svg = svg;
  }

  rows(key) {
    if (key === "cka") return this.mapRows();
    return ["a", "b"].flatMap((side) => {
      const named = { checkpoint: this.name(side) };
      if (key === "heads") {
        const { heads } = this.pair[side];
        return heads ? heads.px.flatMap((row, k) => row.map((px, head) => ({ ...named, layer: heads.name[k], head, distance_px: px, uniform_px: heads.uniform[k], n: heads.n }))) : [];
      }
      const curve = this.pair[side].curves[key];
      const depth = (k) => this.pair[side].places.depth[curve.place[k]] ?? null;
      return curve ? curve.value.map((value, k) => ({ ...named, place: curve.name[k], depth: depth(k), value, low: curve.low[k], high: curve.high[k], n: curve.n })) : [];
    });
  }

  mapRows() {
    return ["aa", "ab", "bb"].filter((of) => this.pair.maps[of]).flatMap((of) => {
      const map = this.pair.maps[of];
      const [rows, columns] = [...of].map((side) => this.pair[side].places.name);
      const cell = (i, j) => {
        const [cka, low, high] = map.at(i, j).map((value) => (known(value) ? value / 1000 : null));
        return { map: of, rows: this.name(of[0]), columns: this.name(of[1]), row: rows[i], column: columns[j], cka, low, high, n: map.n };
      };
      return rows.flatMap((_, i) => columns.map((_, j) => cell(i, j)));
    });
  }
}

// Rows of A go through A-A and A-B, columns of B through A-B and B-B: one block of a symmetric matrix, in cells of one size.
function joined(width, [a, b]) {
  const [left, top, bottom, gap] = [38, 8, 34, 16];
  const cell = Math.max(4, Math.floor(Math.min((width - left - gap - 4) / (a + b), 600 / (a + b), 26)));
  const [x, y] = [left + a * cell + gap, top + a * cell + gap];
  const below = Math.max(b * cell, 64);
  return {
    cell, height: y + below + bottom,
    maps: [
      { of: "aa", x: left, y: top, rows: a, columns: a, below: false, beside: true },
      { of: "ab", x, y: top, rows: a, columns: b, below: false, beside: false },
      { of: "bb", x, y, rows: b, columns: b, below: true, beside: true },
    ],
    bar: { x: left, y: y + 12, width: Math.max(40, Math.min(220, a * cell - 60)) },
  };
}

function stacked(width, [a, b]) {
  const [left, top, gap] = [38, 8, 46];
  const cell = Math.max(4, Math.floor(Math.min((width - left - 6) / Math.max(a, b), 16)));
  const maps = [{ of: "ab", rows: a, columns: b }, { of: "aa", rows: a, columns: a }, { of: "bb", rows: b, columns: b }];
  let y = top;
  for (const map of maps) {
    Object.assign(map, { x: left, y, below: true, beside: true });
    y += map.rows * cell + gap;
  }
  return { cell, height: y + 54, maps, bar: { x: left, y: y + 2, width: Math.min(220, width - left - 20) } };
}

function colourBar(magma, { x, y, width }) {
  const ends = [0, 0.5, 1];
  return s("g", { transform: `translate(${x} ${y})` },
    s("text", { class: "label", y: 4, text: "linear CKA" }),
    s("image", { href: strip(magma), y: 12, width, height: 10, preserveAspectRatio: "none" }),
    ends.map((at) => s("text", { class: "tick", x: at * width, y: 36, "text-anchor": ["start", "middle", "end"][at * 2], text: String(at) })));
}

function painted(width, height, colour) {
  const canvas = h("canvas", { width, height });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let k = 0; k < width * height; k++) image.data.set(colour(k % width, Math.floor(k / width)), 4 * k);
  context.putImageData(image, 0, 0);
  return canvas.toDataURL("image/png");
}
const rgb = (magma, k) => [0, 2, 4].map((at) => parseInt(magma.slice(6 * k + at, 6 * k + at + 2), 16)).concat(255);
const strip = (magma) => painted(256, 1, (x) => rgb(magma, x));
// As matplotlib maps 0 to 1 onto 256 colours; undefined is transparent.
const colourOf = (magma, value) => (known(value) ? rgb(magma, Math.max(0, Math.min(255, Math.floor((value * 256) / 1000)))) : [0, 0, 0, 0]);

class MapView {
  constructor(explore, place, cell, svg) {
    Object.assign(this, place, { explore, cell, svg });
    const { pair, page } = explore;
    this.map = pair.maps[this.of];
    const [rows, columns] = [...this.of].map((side) => pair[side].places);
    const [wide, high] = [this.columns * cell, this.rows * cell];
    this.roomRight = svg.width.baseVal.value - this.x - wide;
    const magma = page.study.magma;
    const picture = painted(this.columns, this.rows, (x, y) => colourOf(magma, this.map.at(this.rows - 1 - y, x)[0]));
    this.crosses = [s("path", { class: "cross dark" }), s("path", { class: "cross" })];
    this.boxes = [s("path", { class: "box dark" }), s("path", { class: "box" })];
    const words = { aa: "A with A", ab: "A with B", bb: "B with B" }[this.of];
    this.node = s("g", { transform: `translate(${this.x} ${this.y})`, class: "map" },
      s("rect", { class: "undefined", width: wide, height: high }),
      s("image", { href: picture, width: wide, height: high, preserveAspectRatio: "none", "data-map": this.of }),
      s("path", { class: "stages", d: this.stages(rows, columns) }),
      this.of === "ab" && page.path ? this.path() : [],
      this.crosses, this.boxes, this.ticks(),
      s("rect", {
        class: "catch", width: wide, height: high, tabindex: 0, role: "application", "data-of": this.of,
        "aria-label": `Similarity of ${words}: arrow keys move, Enter pins, Escape lets go`,
        on: {
          pointermove: (e) => this.hover(e), pointerdown: (e) => this.hover(e), click: (e) => explore.togglePin(this.cellAt(e)),
          keydown: (e) => this.key(e),
        },
      }));
  }

  middle(i, j) { return [(j + 0.5) * this.cell, (this.rows - i - 0.5) * this.cell]; }

  stages(rows, columns) {
    const edges = (places) => places.stage.flatMap((stage, k) => (k && stage !== places.stage[k - 1] ? [k] : []));
    return edges(columns).map((k) => `M${k * this.cell},0v${this.rows * this.cell}`).join("") +
      edges(rows).map((k) => `M0,${(this.rows - k) * this.cell}h${this.columns * this.cell}`).join("");
  }

  path() {
    const points = this.explore.bestRows.flatMap((i, j) => (i < 0 ? [] : [this.middle(i, j).join(",")]));
    return [s("polyline", { class: "under", points: points.join(" ") }), s("polyline", { class: "over", points: points.join(" ") }),
      points.map((point) => s("circle", { class: "knot", cx: point.split(",")[0], cy: point.split(",")[1], r: Math.min(2.4, this.cell / 4) }))];
  }

  ticks() {
    const step = [2, 4, 8, 16, 32].find((k) => k * this.cell >= 22) || 64;
    const every = (count) => Array.from({ length: count }, (_, k) => k).filter((k) => k % step === 0);
    const [wide, high, found] = [this.columns * this.cell, this.rows * this.cell, []];
    const label = (side, room, properties) => {
      const text = `${side.toUpperCase()}: ${this.explore.name(side)}`;
      const most = Math.max(4, Math.floor(room / 6.3));
      return s("text", { class: `label ${side}`, ...properties, text: text.length <= most ? text : `${text.slice(0, most - 1)}…` });
    };
    if (this.beside) {
      found.push(...every(this.rows).map((k) => s("text", { class: "tick", x: -5, y: this.middle(k, 0)[1] + 3.5, "text-anchor": "end", text: String(k) })));
      if (this.of !== "bb" || !this.below || high / 6.3 > this.explore.name("b").length + 3) found.push(label(this.of[0], high, { transform: `translate(-26 ${high / 2}) rotate(-90)`, "text-anchor": "middle" }));
    }
    if (this.below) {
      found.push(...every(this.columns).map((k) => s("text", { class: "tick", x: this.middle(0, k)[0], y: high + 13, "text-anchor": "middle", text: String(k) })));
      const narrow = wide < 180;
      const [left, right] = [wide + this.x, wide + this.roomRight];
      const place = !narrow ? { x: wide / 2, "text-anchor": "middle" } : right > left ? { x: 0 } : { x: wide, "text-anchor": "end" };
      found.push(label(this.of[1], narrow ? Math.max(left, right) : wide, { y: high + 28, ...place }));
    }
    return found;
  }

  cellAt(event) {
    const box = event.currentTarget.getBoundingClientRect();
    const at = (share, count) => Math.max(0, Math.min(count - 1, Math.floor(share * count)));
    return {
      of: this.of, i: at(1 - (event.clientY - box.top) / box.height, this.rows), j: at((event.clientX - box.left) / box.width, this.columns),
    };
  }

  hover(event) { if (!this.explore.page.state.pinned) this.explore.select(this.cellAt(event)); }

  key(event) {
    const step = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[event.key];
    const { explore } = this;
    const { state } = explore.page;
    if (step) {
      const now = state.sel.of === this.of ? state.sel : { i: this.marked[0]?.[0] ?? 0, j: this.marked[0]?.[1] ?? 0 };
      const inside = (k, count) => Math.max(0, Math.min(count - 1, k));
      explore.select({ of: this.of, i: inside(now.i + step[0], this.rows), j: inside(now.j + step[1], this.columns) });
      if (state.pinned) explore.page.remember();
    } else if (event.key === "Enter" || event.key === " ") explore.togglePin();
    else if (event.key === "Escape" && state.pinned) explore.togglePin();
    else return;
    event.preventDefault();
  }

  mark(cells) {
    this.marked = cells;
    const [wide, high, c] = [this.columns * this.cell, this.rows * this.cell, this.cell];
    const cross = cells.map(([i, j]) => { const [x, y] = this.middle(i, j); return `M${x},0V${high}M0,${y}H${wide}`; }).join("");
    const box = cells.map(([i, j]) => `M${j * c},${(this.rows - 1 - i) * c}h${c}v${c}h${-c}Z`).join("");
    for (const path of this.crosses) path.setAttribute("d", cross);
    for (const path of this.boxes) path.setAttribute("d", box);
  }
}

// ----------------------------------------------------------------------------------------------------------------- charts

function panel(explore, key, title, unit, extra) {
  const button = (text, label, run) => h("button", { class: "link", text, "aria-label": label, on: { click: run } });
  const { page } = explore;
  const data = () => explore.rows(key);
  const file = () => `${explore.name("a")}-${explore.name("b")}-${key}`.replace(/[^\w.-]+/g, "_");
  const body = h("div", { class: "body" });
  const node = h("section", { class: `card ${key}`, "aria-label": title },
    h("div", { class: "line" }, h("h2", { text: title }), h("span", { class: "acts" },
        button("JSON", `Copy the data of ${title} as JSON`, () => page.copy(JSON.stringify(data(), null, 1), "JSON")),
        button("CSV", `Copy the data of ${title} as CSV`, () => page.copy(csv(data()), "CSV")),
        button("PNG", `Save ${title} as PNG`, () => savePicture(page, card, file())))),
    h("div", { class: "line mute small" }, h("span", { class: "unit", text: unit }), extra), body);
  const card = { key, title, unit, node, body, svg: null };
  return card;
}

function csv(rows) {
  const fields = Object.keys(rows[0] || {});
  const cell = (value) => { const text = known(value) ? String(value) : ""; return /[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text; };
  return [fields, ...rows.map((row) => fields.map((field) => row[field]))].map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

// [curve as {place, depth, value, low, high}] of both sides; heads are their layers' means with the heads as dots.
function seriesOf(explore, key) {
  return ["a", "b"].flatMap((side) => {
    const { places, curves, heads } = explore.pair[side];
    const source = key === "heads" ? heads : curves[key];
    if (!source) return [];
    const depth = source.place.map((k, at) => (k < 0 ? (at + 1) / source.place.length : places.depth[k]));
    if (key !== "heads") return [{ side, ...source, depth, kind: source.place.map((k) => places.kind[k]) }];
    return [{ side, ...source, depth, kind: [], value: source.px.map((row) => mean(row.filter(known))), low: null, dots: source.px }];
  });
}

function drawChart(explore, card) {
  const about = explore.page.study.curves.find((curve) => curve.key === card.key) || { log: false, line: null };
  const series = seriesOf(explore, card.key);
  clear(card.body);
  if (!series.length) {
    card.svg = null;
    card.body.append(h("p", { class: "mute small none", text: card.key === "heads" ? "Neither network has attention whose weights were read." : "Not measured in either network." }));
    return null;
  }
  return new Chart(explore, card, about, series);
}

class Chart {
  constructor(explore, card, about, series) {
    Object.assign(this, { explore, card, about, series });
    this.width = Math.max(240, Math.floor(card.body.clientWidth));
    this.height = 158;
    this.box = { left: 40, right: this.width - 10, top: 8, bottom: this.height - 24 };
    this.scale();
    this.rings = s("g", { class: "rings" });
    this.node = s("svg", {
      class: "chart", width: this.width, height: this.height, viewBox: `0 0 ${this.width} ${this.height}`, role: "img", "aria-label": this.words(),
      on: { pointermove: (e) => this.hover(e), pointerdown: (e) => this.hover(e), click: (e) => this.click(e) },
    }, this.axes(), series.map((each) => this.curve(each)), this.rings);
    card.body.append(this.node);
    card.svg = this.node;
  }

  words() {
    const missing = ["a", "b"].filter((side) => !this.series.some((each) => each.side === side)).map((side) => `; not measured in ${side.toUpperCase()}`);
    return `${this.card.title} along depth of ${this.series.map((each) => this.explore.name(each.side)).join(" and ")}${missing.join("")}. Values at the selection stand in the table above.`;
  }

  scale() {
    const all = this.series.flatMap((each) => [...each.value, ...(each.low ? [...each.low, ...each.high] : []), ...(each.dots ? each.dots.flat() : []), ...(each.uniform || [])]).filter(known);
    if (known(this.about.line)) all.push(this.about.line);
    const usable = this.about.log ? all.filter((value) => value > 0) : all;
    let [low, high] = [Math.min(...usable), Math.max(...usable)];
    if (this.card.key === "heads" || this.card.key === "probes") low = 0;
    if (!(high > low)) { low -= Math.abs(low) / 10 + 0.1; high += Math.abs(high) / 10 + 0.1; }
    const bend = this.about.log ? Math.log : (value) => value;
    if (this.about.log) { if (low <= 0) low = high / 100; }
    const [from, to] = [bend(low), bend(high)];
    const room = (to - from) * 0.05;
    const { top, bottom } = this.box;
    this.y = (value) => bottom - ((bend(value) - from + room) / (to - from + 2 * room)) * (bottom - top);
    this.ends = [low, high];
    this.x = (depth) => this.box.left + 6 + depth * (this.box.right - this.box.left - 12);
  }

  ticks() {
    const [low, high] = this.ends;
    if (this.about.log) {
      const decades = Array.from({ length: 13 }, (_, k) => 10 ** (k - 6));
      for (const steps of [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7]]) {
        const found = decades.flatMap((ten) => steps.map((step) => step * ten)).filter((value) => value >= low && value <= high);
        if (found.length >= 3 || steps.length === 6) return found.filter((_, k) => k % Math.ceil(found.length / 5) === 0);
      }
    }
    const rough = (high - low) / 4.6;
    const ten = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((k) => k * ten).find((each) => each >= rough);
    return Array.from({ length: 8 }, (_, k) => (Math.ceil(low / step) + k) * step).filter((value) => value <= high);
  }

  axes() {
    const { left, right, bottom } = this.box;
    const number = (value) => minus(String(Number(value.toPrecision(3))));
    return s("g", {},
      this.ticks().map((value) => [s("line", { class: "rule", x1: left, x2: right, y1: this.y(value), y2: this.y(value) }),
        s("text", { class: "tick", x: left - 5, y: this.y(value) + 3.5, "text-anchor": "end", text: number(value) })]),
      known(this.about.line) ? s("line", { class: "zero", x1: left, x2: right, y1: this.y(this.about.line), y2: this.y(this.about.line) }) : null,
      [0, 0.5, 1].map((depth) => s("text", { class: "tick", x: this.x(depth), y: bottom + 16, "text-anchor": "middle", text: depth === 0.5 ? "relative depth" : String(depth) })),
      s("line", { class: "axisline", x1: left, x2: right, y1: bottom, y2: bottom }));
  }

  curve(each) {
    const at = (k, value) => `${this.x(each.depth[k]).toFixed(1)},${this.y(value).toFixed(1)}`;
    const there = each.value.map((value, k) => k).filter((k) => known(each.value[k]));
    const band = each.low && there.filter((k) => known(each.low[k]) && (!this.about.log || each.low[k] > 0));
    return s("g", { class: each.side },
      band && band.length ? s("polygon", { class: "band", points: [...band.map((k) => at(k, each.low[k])), ...band.slice().reverse().map((k) => at(k, each.high[k]))].join(" ") }) : null,
      each.uniform ? s("polyline", { class: "uniform", points: each.uniform.map((value, k) => at(k, value)).join(" ") }) : null,
      s("polyline", { class: "curve", points: there.map((k) => at(k, each.value[k])).join(" ") }),
      each.dots
        ? each.dots.flatMap((row, k) => row.filter(known).map((value) => this.sign(each, this.x(each.depth[k]), this.y(value), 2.2, "dot")))
        : there.map((k) => this.sign(each, this.x(each.depth[k]), this.y(each.value[k]), 2.6, each.kind[k] === "attention" ? "sign open" : "sign")));
  }

  // A is a circle, B a square.
  sign({ side }, x, y, r, look) {
    return side === "a" ? s("circle", { class: look, cx: x.toFixed(1), cy: y.toFixed(1), r })
      : s("rect", { class: look, x: (x - r).toFixed(1), y: (y - r).toFixed(1), width: 2 * r, height: 2 * r });
  }

  nearest(event) {
    const box = this.node.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let found = null;
    for (const each of this.series) {
      each.value.forEach((value, k) => {
        if (!known(value) || each.place[k] < 0) return;
        const away = (this.x(each.depth[k]) - x) ** 2 + ((this.y(value) - y) / 2) ** 2;
        if (!found || away < found.away) found = { away, side: each.side, place: each.place[k] };
      });
    }
    return found && this.explore.choose(found.side, found.place);
  }

  hover(event) {
    if (this.explore.page.state.pinned) return;
    const sel = this.nearest(event);
    if (sel) this.explore.select(sel);
  }

  click(event) {
    const sel = this.nearest(event);
    if (sel) this.explore.togglePin(sel);
  }

  mark(marked) {
    const rings = this.series.flatMap((each) => marked[each.side].flatMap((place) => {
      const k = each.place.indexOf(place);
      if (k < 0 || !known(each.value[k])) return [];
      const x = this.x(each.depth[k]);
      return [s("line", { class: `stem ${each.side}`, x1: x, x2: x, y1: this.box.top, y2: this.box.bottom }),
        s("circle", { class: `ring ${each.side}`, cx: x, cy: this.y(each.value[k]), r: 6.5, "data-place": place })];
    }));
    this.rings.replaceChildren(...rings);
  }
}

// --------------------------------------------------------------------------------------------------------------- pictures

const LOOK = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-opacity", "opacity", "font-size", "font-family", "font-weight", "visibility", "image-rendering"];

function savePicture(page, card, name) {
  if (!card.svg) { page.say("There is nothing to draw here"); return; }
  const [width, height, head] = [card.svg.width.baseVal.value, card.svg.height.baseVal.value, 40];
  const copy = card.svg.cloneNode(true);
  const nodes = [card.svg, ...card.svg.querySelectorAll("*")];
  [copy, ...copy.querySelectorAll("*")].forEach((node, k) => {
    const look = getComputedStyle(nodes[k]);
    for (const property of LOOK) node.style.setProperty(property, look.getPropertyValue(property));
  });
  const look = getComputedStyle(page.root);
  const { explore } = page;
  const colours = ["--paper", "--ink", "--a", "--b"].map((property) => look.getPropertyValue(property).trim());
  const text = (words, y, colour, size) => s("text", { x: 8, y, fill: colour, "font-size": size, "font-family": "system-ui, sans-serif", text: words });
  copy.setAttribute("y", head);
  const outer = s("svg", { xmlns: SVG, width, height: height + head, viewBox: `0 0 ${width} ${height + head}` },
    s("rect", { width, height: height + head, fill: colours[0] }), text(`${card.title}, ${card.unit}`, 16, colours[1], 13),
    s("text", { x: 8, y: 32, "font-size": 11, "font-family": "system-ui, sans-serif" },
      s("tspan", { fill: colours[2], text: `● A: ${explore.name("a")}   ` }), s("tspan", { fill: colours[3], text: `■ B: ${explore.name("b")}` })), copy);
  const picture = new Image();
  picture.onload = () => {
    const canvas = h("canvas", { width: 2 * width, height: 2 * (height + head) });
    canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => {
      const address = URL.createObjectURL(blob);
      h("a", { href: address, download: `${name}.png` }).click();
      setTimeout(() => URL.revokeObjectURL(address), 1000);
      page.say("Picture saved");
    }, "image/png");
  };
  picture.onerror = () => page.say("The picture could not be drawn");
  picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(outer))}`;
}

// ---------------------------------------------------------------------------------------------------------------- methods

class Methods {
  constructor(page, root) {
    this.page = page;
    const { study } = page;
    const { settings } = study;
    const about = (each) => h("article", { class: "method" }, h("h3", { text: each.title }), h("p", { text: each.text }), h("pre", { text: each.formula }),
      h("p", { class: "mute small", text: `${each.source}. ${each.care}` }));
    this.snippets = h("div", {});
    this.origins = h("div", { class: "origins" });
    const verdicts = [["s", "the interval lies above the margin"], ["c", "it lies below minus the margin"], ["n", "it lies within the margin on both sides"], ["u", "none of these"]];
    root.append(
      h("section", {}, h("h2", { text: "What the numbers rest on" }),
        h("p", { text: `Every statistic is positive where its claim holds, and its margin was fixed before looking. An interval over images speaks of these networks; an effect over checkpoints averages seeds, then recipes, and its interval is over recipes. ${whole(settings.draws)} bootstrap draws with seed ${settings.seed}, ${whole(settings.permutations)} permutations; the p of one table are corrected together (Holm 1979).` }),
        h("ul", { class: "plain" }, verdicts.map(([letter, text]) => h("li", {}, badge(letter), ` ${text}`)))),
      h("section", {}, h("h2", { text: "Views" }), h("div", { class: "methods" }, study.methods.map(about))),
      h("section", {}, h("h2", { text: "The chosen checkpoints" }), this.origins),
      h("section", {}, h("h2", { text: "The same numbers elsewhere" }), this.snippets),
      h("section", {}, h("h2", { text: "Not tested here" }), h("dl", {}, Object.entries(study.untested).map(([id, text]) => [h("dt", { text: id }), h("dd", { class: "mute", text })]))));
  }

  show() {
    const { study, state } = this.page;
    const [a, b] = [state.a, state.b].map((number) => study.checkpoints[number]);
    const facts = [["Network", (c) => c.network], ["State", (c) => c.state], ["Parameters", (c) => (known(c.parameters) ? whole(c.parameters) : "–")],
      ["Shown at", (c) => (c.image_size ? `${c.image_size.join(" × ")} px` : "–")],
      ["Accuracy here", (c) => (c.accuracy ? interval(three, c.accuracy) : "–")], ["Places read", (c) => c.places],
      ["Images", (c) => `${whole(c.images.n)} of ${c.images.name}, seed ${c.images.seed}`], ["sha256 of the images", (c) => c.images.sha256],
      ["Revision", (c) => c.revision || "local folder"], ["sha256 of the weights", (c) => c.weights_sha256],
      ["Versions", (c) => Object.entries(c.versions).map((each) => each.join(" ")).join(", ")]];
    clear(this.origins).append(h("table", {}, h("thead", {}, h("tr", {}, h("td"), h("th", { scope: "col", class: "a", text: `A ${a.id}` }), h("th", { scope: "col", class: "b", text: `B ${b.id}` }))),
      h("tbody", {}, facts.map(([title, read]) => h("tr", {}, h("th", { scope: "row", text: title }), [a, b].map((each) => h("td", { text: read(each) })))))));
    const code = (title, text) => [h("h3", { text: title }), h("pre", { class: "code", tabindex: 0, text }), h("button", { class: "link", text: "Copy", "aria-label": `Copy: ${title}`, on: { click: () => this.page.copy(text, "Code") } })];
    const [low, high] = [Math.min(state.a, state.b), Math.max(state.a, state.b)];
    const shell = (key) => `'${key.replace(/'/g, "'\\''")}'`;
    clear(this.snippets).append(
      ...code("Command line", `vitstudy compare ${shell(a.key)} ${shell(b.key)} --out cka.csv\nvitstudy report ${shell(a.key)} ${shell(b.key)}`),
      ...code("Python", `from hf_vitstudy import compare, judge, load_profile\n\na, b = load_profile(${JSON.stringify(a.key)}), load_profile(${JSON.stringify(b.key)})\ncompare(a, b).cka("ab")  # intervals, row and column names\njudge(a, b)`),
      ...code("Files of this page", `data/study.json\ndata/checkpoint-${state.a}.json\ndata/checkpoint-${state.b}.json${low === high ? "" : `\ndata/pair-${low}-${high}.json`}`),
      h("p", { class: "mute small", text: "CKA is stored in whole thousandths, row by row, with the distance of the interval's ends below and above; all else with three digits, as shown." }));
  }
}

// ------------------------------------------------------------------------------------------------------------------ start

// Anything that hosts the page gives a node, the study, a function from the name of a file to its content, and files at hand.
window.VitStudy = { mount: (root, study, load, files) => new Page(root, study, load, files) };

const stored = document.getElementById("vitstudy-data");
if (stored) {
  const { study, files } = JSON.parse(stored.textContent);
  const load = async (name) => {
    const answer = await fetch(`data/${name}`);
    if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
    return answer.json();
  };
  window.vitstudy = window.VitStudy.mount(document.getElementById("vitstudy"), study, load, files);
}
})();
