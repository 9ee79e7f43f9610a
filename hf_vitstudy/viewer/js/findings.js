// Findings: what was claimed and what was found.

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
    const { study } = this.page;
    const button = ({ said, heading, claims }) => {
      const look = said.replace("all ", "");
      const node = h("button", { class: `count ${look}`, "aria-pressed": "false", style: `flex-grow:${claims.length}`, on: { click: () => this.choose(said) } },
        h("b", { text: claims.length }), h("span", { text: heading }));
      this.buttons.set(said, node);
      return node;
    };
    return h("div", { class: "summary" },
      h("p", { class: "lead", text: `${judged} published claims judged on these checkpoints, each against a margin fixed before looking; ${missing} more could not be.` }),
      h("div", { class: "counts", role: "group", "aria-label": "Show only" }, groups.map(button)),
      (study.warnings || []).map((text) => h("p", { class: "care" }, h("b", { text: "Read with care. " }), text)),
      study.words?.length ? h("details", { class: "words", open: true }, h("summary", { text: "In words" }), h("ul", {}, study.words.map((text) => h("li", { text })))) : null);
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
    const { study } = this.page;
    const several = this.several(claim);
    const letter = LETTERS[agreement.verdict];
    const look = known(agreement.estimate[1]) ? letter : "x";
    const pair = h("p", { class: "mute small here" });
    const more = h("button", { class: "link", "aria-expanded": "false", text: "Details", on: { click: () => this.open(claim.id, more.getAttribute("aria-expanded") !== "true") } });
    const evidence = claim.see && h("button", { class: "link see", text: "See evidence", on: { click: () => this.see(claim) } });
    const node = h("article", { class: "claim", id: `vs-claim-${claim.id}` },
      h("div", {}, h("h3", { text: claim.text }),
        h("p", { class: "mute small" }, badge(look, known(agreement.estimate[1]) ? null : "no interval"), `${study.over === "checkpoints" ? " over checkpoints" : ""} · ${claim.id} · ${claim.source}`),
        several ? h("p", { class: "mute small" }, "choices: ", counted(agreement.counts)) : null, pair),
      Forest.row(agreement.estimate, claim.margin, look),
      h("p", { class: "effect" }, h("b", { text: interval(three, agreement.estimate) }), h("span", { class: "mute small", text: ` ${claim.unit}` }),
        h("span", { class: "mute small over", text: `over ${agreement.over}` })),
      h("div", { class: "acts" }, evidence, more));
    this.rows.set(claim.id, { node, more, pair, claim, body: null });
    return node;
  }

  several(claim) { return Object.values(claim.agreement.counts).reduce((sum, count) => sum + count, 0) > 1; }

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
    const { study } = this.page;
    for (const row of this.rows.values()) {
      const found = (this.page.study.judgements[row.claim.id] || []).filter(([choice, verdict]) =>
        verdict !== "x" && (choice.length === 1 ? choice[0] === a || choice[0] === b : choice.includes(a) && choice.includes(b)));
      if (study.over !== "checkpoints" && !this.several(row.claim)) continue; // the row says it
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
    const over = this.page.study.over === "checkpoints" ? " over checkpoints" : "";
    const texts = [["What is computed", claim.statistic], ["Formula", claim.formula], ["Would be refuted by", claim.falsified_by],
      ["Margin", `${claim.margin} ${claim.unit}`], ["Conditions", claim.conditions], ["Published against it", claim.against],
      [`p${over} (Holm)`, shownP(agreement.p)], ["Range over choices", this.several(claim) ? agreement.range.map(three).join(" to ") : ""]];
    const controls = agreement.controls.map(([name, ...rest]) => h("li", { text: `${name}: ${interval(three, rest.slice(0, 3))}` }));
    return h("div", { class: "more" },
      h("dl", {}, texts.filter(([, text]) => text).map(([head, text]) => [h("dt", { text: head }), h("dd", { text })]),
        controls.length ? [h("dt", { text: "Beside it" }), h("dd", {}, h("ul", {}, controls))] : [],
        h("dt", {}, h("button", { class: "link", text: "Copy citation", "aria-label": `Copy a citation of ${claim.id}`, on: { click: () => this.page.copy(citation(this.page, claim.source, `${claim.id}: ${claim.text}`), "Citation") } }))),
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
      rows.length < 2 ? null : Forest.strip(rows, claim.margin, (each) => this.names(each[0])), h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "All choices" }, table));
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
    window.scrollTo({ top: 0 });
    this.page.explore.gone = null;
    this.page.go({ a: choice[0], b: other, view, sel: { of, depths: [row, column] }, pinned: true, measure: "cka", minus: null });
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
