// Beside a view, on demand: how it was measured, the code that gives its numbers again, and what to take away.

class Beside {
  constructor(explore, card, data) {
    Object.assign(this, { explore, card, data });
    this.node = h("div", { class: "beside small", hidden: true });
    this.button = h("button", { class: "link", text: "Method", "aria-expanded": "false", "aria-label": `Method: how ${card.title} was measured`, on: { click: () => this.toggle() } });
  }

  toggle() {
    this.node.hidden = !this.node.hidden;
    this.button.setAttribute("aria-expanded", String(!this.node.hidden));
    this.explore.opened[this.node.hidden ? "delete" : "add"](this);
    this.draw();
    this.explore.draw(); // the card is wider while it is open
  }

  draw() {
    if (this.node.hidden || !this.explore.current) return;
    const { page } = this.explore;
    const { study } = page;
    const method = study.methods.find(({ view }) => view === this.card.key);
    const facts = [["Source", sourceOf(page, this.card.key)], ["Intervals", this.intervals()], ...this.measured()];
    const words = this.other() ? [h("p", { text: `${this.other().title}: ${this.other().unit}.` })]
      : [h("p", { text: method.text }), h("pre", { text: method.formula }), h("p", { class: "mute", text: method.care })];
    clear(this.node).append(...words, h("dl", {}, facts.map(([head, text]) => [h("dt", { text: head }), h("dd", { text })])),
      ...this.codes().map(([title, text]) => code(page, `${title}: ${this.card.title}`, title, text)));
  }

  // The measure that the maps show in place of CKA.
  other() {
    const shown = this.card.key === "cka" ? this.explore.lens.about() : null;
    return shown && shown.key !== "cka" ? shown : null;
  }

  intervals() {
    const { study } = this.explore.page;
    const { interval } = this.other() ? study.compared[this.other().key] : study.beside[this.card.key];
    return interval.startsWith("percentile") ? `${interval}, ${whole(study.settings.draws)} draws with seed ${study.settings.seed}` : interval;
  }

  // Of both networks: which weights, on how many of which images, when and on what.
  measured() {
    const { explore } = this;
    const { study, state } = explore.page;
    const rows = this.data();
    return ["a", "b"].map((side) => {
      const about = study.checkpoints[state[side]];
      const own = rows.filter((row) => (row.checkpoint ?? explore.name(side)) === explore.name(side));
      const n = [...new Set(own.map((row) => row.n).filter(known))].map(whole).join(" and ");
      const parts = [n ? `n = ${n}` : own.length ? null : "not shown here", `${about.images.name}, images drawn with seed ${about.images.seed}`, about.revision ? `commit ${about.revision}` : `weights sha256 ${about.weights_sha256.slice(0, 12)}`,
        about.created ? `measured ${about.created.slice(0, 10)}` : null, measuredOn(about),
        known(about.seconds) ? `all measurements together took ${lasting(about.seconds)}` : null];
      return [`${side.toUpperCase()}: ${about.id}`, parts.filter(Boolean).join("; ")];
    });
  }

  codes() {
    const { study, state } = this.explore.page;
    const [a, b] = [study.checkpoints[state.a], study.checkpoints[state.b]];
    const { module, name, analysis } = study.beside[this.card.key];
    const both = `${shell(a.key)} ${shell(b.key)}`;
    const option = this.other() ? ` ${study.compared[this.other().key].option}` : "";
    const command = ["Command line", this.card.key === "cka" ? `vitstudy compare ${both}${option} --out cells.csv` : `vitstudy measure CHECKPOINT --images IMAGES --analyses ${analysis}\nvitstudy report ${both}`];
    if (this.other() || !this.sides().length) return [command];
    const line = this.line();
    const lines = [`from hf_vitstudy import ${line.startsWith("compare") ? "compare, " : ""}load_profile`, ...(module ? [`from ${module} import ${name}`] : []), "",
      `a = load_profile(${quoted(a.key)})`, `b = load_profile(${quoted(b.key)})`, line];
    return [["Python", lines.join("\n")], command];
  }

  // The line of Python with what is selected.
  line() {
    const { explore } = this;
    const { of, i, j } = explore.page.state.sel;
    const name = (side, k) => explore.pair[side].places.name[k];
    const sides = this.sides();
    const tuple = (parts) => `(${parts.join(", ")}${parts.length === 1 ? "," : ""})`;
    const filled = {
      of: quoted(of), row: quoted(name(of[0], i)), column: quoted(name(of[1], j)), profiles: tuple(sides),
      sides: tuple(sides.map((side) => `(${side}, ${quoted(this.place(side))})`)),
      heads: quoted((explore.pair.a.heads || explore.pair.b.heads)?.variable || "attention_distance"),
    };
    return explore.page.study.beside[this.card.key].line.replace(/\{(\w+)\}/g, (_, word) => filled[word]);
  }

  // Those that have it.
  sides() {
    const { explore, card } = this;
    const { curves } = explore.page.study;
    const has = (side) => (curves.some(({ key }) => key === card.key) ? explore.pair[side].curves[card.key]
      : card.key === "heads" ? explore.pair[side].heads : explore.below.has(card.key) ? explore.below.views.get(card.key).data(side) : true);
    return ["a", "b"].filter(has);
  }

  // The selected place, or of those that the view has the one nearest in depth.
  place(side) {
    const { explore, card } = this;
    const pair = explore.pair[side];
    const at = explore.selected()[side][0] ?? 0;
    const source = card.key === "heads" ? pair.heads : pair.curves[card.key];
    if (!source) return pair.places.name[at];
    const away = (k) => (k < 0 ? Infinity : Math.abs(pair.places.depth[k] - pair.places.depth[at]));
    return source.name[source.place.reduce((best, k, number) => (away(k) < away(source.place[best]) ? number : best), 0)];
  }
}

const quoted = (text) => JSON.stringify(text);
const shell = (text) => `'${text.replace(/'/g, "'\\''")}'`;

function code(page, label, title, text) {
  return h("div", { class: "coded" }, h("div", { class: "line" }, h("h3", { text: title }), h("button", { class: "link", text: "Copy", "aria-label": `Copy: ${label}`, on: { click: () => page.copy(text, "Code") } })),
    h("pre", { class: "code", tabindex: 0, role: "region", "aria-label": label, text }));
}

// Closes when something was taken, at Escape, and at a click elsewhere.
function saving(page, card, data, file) {
  const { title } = card;
  const items = [
    ["Picture, PNG", `Save ${title} as PNG`, () => savePng(page, card, file())],
    ["Picture, SVG", `Save ${title} as SVG`, () => saveSvg(page, card, file())],
    ["Data, JSON", `Copy the data of ${title} as JSON`, () => page.copy(JSON.stringify(data(), null, 1), "JSON")],
    ["Data, CSV", `Copy the data of ${title} as CSV`, () => page.copy(csv(data()), "CSV")],
    ["Citation, BibTeX", `Copy a citation of ${title}`, () => page.copy(citation(page, sourceOf(page, card.key), title), "Citation")],
  ];
  const head = h("summary", { class: "link", "aria-label": `Save ${title}`, text: "Save" });
  const node = h("details", {
    class: "menu", on: {
      keydown: (e) => { if (e.key === "Escape" && node.open) { node.open = false; head.focus(); e.stopPropagation(); } },
      focusout: (e) => { if (!node.contains(e.relatedTarget)) node.open = false; },
    },
  }, head, h("div", { class: "items" }, items.map(([text, label, run]) =>
    h("button", { text, "aria-label": label, on: { click: () => { head.focus(); node.open = false; run(); } } }))));
  return node;
}

// Papers that a view follows, of the maps those of the measure that they show.
function sourceOf(page, key) {
  const { source } = page.study.methods.find(({ view }) => view === key);
  const measure = page.explore.lens.about();
  return key === "cka" && measure.key !== "cka" ? measure.source : source;
}

// BibTeX of the papers that a text names, and of what was found here.
function citation(page, source, what) {
  const { study, state } = page;
  const names = ["a", "b"].map((side) => `${side.toUpperCase()} = ${study.checkpoints[state[side]].id}`.replace(/[@\n]/g, " ")).join(", ");
  const link = page.link();
  const cited = new Set(Object.entries(study.papers).filter(([name]) => source.includes(name)).map(([, entry]) => entry));
  return [`% ${what}, ${names}${link ? `\n% ${link}` : ""}\n`, ...cited, study.cite].join("\n");
}
