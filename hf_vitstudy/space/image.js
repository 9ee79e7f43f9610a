// "Your image": what two networks make of one image. Examples are stored answers; the rest is asked of the server, which
// keeps nothing. `ask` hides the difference.
(() => {
const { h, clear } = window.VitStudy.nodes;
const SIDES = ["a", "b"];
const percent = (p) => (p < 0.001 ? "< 0.1 %" : `${(100 * p).toFixed(1)} %`);
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const MOST_BYTES = 10e6;
const RETRIES = 40;
const SHADE = 0.6; // of light: weak places stay visible, the order of all stays
const NO_ANSWER = "The server did not answer. Please try again.";
const UNREADABLE = "This file cannot be read as an image. PNG, JPEG, WebP, GIF and BMP files up to 10 MB and 20 million pixels can.";

class ToldError extends Error {}

async function stored(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
  return answer.json();
}

// ---------------------------------------------------------------------------------------------------------------- answers

// Answers about an example, all of them stored; the attention of layers that are not shown at first comes when it is asked for.
class Example {
  constructor(stored, sides, more, about) { Object.assign(this, { stored, sides, more, ...about }); }
  async all() { return this.stored.first; }
  async attention(side, layer) {
    this.layers ||= stored(this.more);
    try {
      return (await this.layers).attention[side][layer];
    } catch (error) {
      this.layers = null; // to be asked again
      throw error;
    }
  }
  async sweep(side) { return this.stored.sweep[side]; }
  async field(side, block, y, x) {
    const grid = this.stored.grid;
    return this.stored.field[side][block][Math.floor(y * grid[0]) * grid[1] + Math.floor(x * grid[1])];
  }
}

// Answers about a visitor's image: the file is sent once, then the pixels as each network saw them.
class Sent {
  constructor(base, file, sides, tell, retract) { Object.assign(this, { base, file, sides, tell, retract, seen: [] }); }
  async all(layer) {
    const answer = await this.post(this.file, { want: "all", layer });
    this.seen = await Promise.all(answer.sides.map(async (each) => new Blob([bytes(each.image.split(",")[1])], { type: "image/png" })));
    return answer;
  }
  async attention(side, layer) { return (await this.post(this.seen[side], { want: "attention", side, layer })).attention; }
  async sweep(side) {
    const found = [];
    for (let piece = 0; ; piece++) {
      const { sweep } = await this.post(this.seen[side], { want: "sweep", side, piece });
      if (!sweep.length) return found;
      found.push(...sweep);
    }
  }
  async field(side, block, y, x) { return (await this.post(this.seen[side], { want: "field", side, block, y, x })).field; }

  async post(content, parts) {
    let waited = null;
    for (let turn = 0; turn < RETRIES; turn++) {
      const answer = await fetch(`${this.base}look?${new URLSearchParams(parts)}`, { method: "POST", body: content, headers: { "Content-Type": "application/octet-stream" } });
      if (answer.ok) {
        this.retract(waited);
        return answer.json();
      }
      const told = await answer.json().catch(() => ({ error: answer.status < 500 ? UNREADABLE : NO_ANSWER }));
      if (!told.again) throw new ToldError(told.error);
      waited = this.tell(told.error);
      await wait(1000 * told.again);
    }
    throw new ToldError("Still too many people are looking at images. Please try again later.");
  }
}

// ------------------------------------------------------------------------------------------------------------------ cards

// One network: the image as it saw it under a spotlight, and its answer.
class Card {
  constructor(tab, side) {
    Object.assign(this, { tab, side, key: SIDES[side], layer: null, head: -1, cache: new Map(), asked: 0 });
    this.canvas = h("canvas", {
      width: 384, height: 384, tabindex: 0, role: "application", "aria-label": "Image: arrow keys choose a place, Enter keeps it, Escape lets go",
      on: {
        pointermove: (e) => tab.hover(this.spot(e)), pointerleave: () => tab.hover(null),
        click: (e) => tab.pin(this.spot(e)), keydown: (e) => tab.key(e),
      },
    });
    this.title = h("h2");
    this.note = h("p", { class: "mute small" });
    this.controls = h("div", { class: "controls" });
    this.bars = h("ol", { class: "bars", "aria-label": "Likeliest classes" });
    this.said = h("p", { class: "small said", "aria-live": "polite" });
    this.node = h("section", { class: `card look ${this.key}` },
      h("div", { class: "line" }, h("span", { class: "key", "aria-hidden": "true", text: this.key.toUpperCase() }), this.title), this.note,
      h("div", { class: "seen" }, this.canvas), this.bars, this.controls, this.said);
  }

  spot(event) {
    const box = this.canvas.getBoundingClientRect();
    return { y: (event.clientY - box.top) / box.height, x: (event.clientX - box.left) / box.width };
  }

  // A new image, or new networks.
  take(about, answer, picture) {
    this.asked++; // what is on its way is of the image before
    Object.assign(this, { about, answer, picture, cache: new Map() });
    this.looks = about.layers.length > 0;
    const places = this.looks ? about.layers : about.blocks;
    if (answer.attention) this.cache.set(`attention ${answer.attention.layer}`, unpacked(answer.attention));
    this.layer = this.looks && answer.attention ? answer.attention.layer : Math.min(this.layer ?? Math.max(0, places.length - 2), places.length - 1);
    this.title.textContent = about.name;
    this.note.textContent = this.looks
      ? `Attention: bright is where a place looks · ${about.size.join(" × ")} px`
      : `Receptive field: bright is what a place depends on · ${about.size.join(" × ")} px`;
    this.canvas.height = Math.round(this.canvas.width * about.size[0] / about.size[1]);
    this.paint(this.picture, null);
    this.build(places);
    this.top(answer.top);
  }

  build(places) {
    const name = () => places[this.layer].name;
    const shown = h("span", { class: "mute small where", text: name() });
    const slider = h("input", {
      type: "range", min: 0, max: places.length - 1, value: this.layer, "aria-label": this.looks ? "Attention layer" : "Block",
      on: { input: (e) => { this.layer = Number(e.target.value); shown.textContent = name(); slider.setAttribute("aria-valuetext", name()); this.draw(); } },
    });
    slider.setAttribute("aria-valuetext", name());
    clear(this.controls).append(h("label", { class: "slide" }, h("span", { class: "small", text: this.looks ? "Layer" : "Block" }), shown, slider));
    if (!this.looks) return;
    const heads = Math.max(...places.map((each) => each.heads));
    this.head = Math.min(this.head, heads - 1);
    const buttons = Array.from({ length: heads + 1 }, (_, k) => h("button", {
      class: "attention-head", "aria-pressed": String(k - 1 === this.head), text: k ? k : "mean", "aria-label": k ? `Head ${k}` : "Mean of all heads",
      on: { click: () => { this.head = k - 1; buttons.forEach((each, i) => each.setAttribute("aria-pressed", String(i === k))); this.draw(); } },
    }));
    this.controls.append(h("div", { class: "heads", role: "group", "aria-label": "Attention head" }, h("span", { class: "small", text: "Head" }), buttons));
  }

  top(classes) {
    clear(this.bars).append(...classes.map(([name, p]) => h("li", {},
      h("span", { class: "bar-of", style: `width:${(100 * p).toFixed(2)}%` }), h("span", { class: "name", text: name }), h("span", { class: "number", text: percent(p) }))));
  }

  // Draws what is known at once; a map that must be asked for follows, unless something newer was wanted meanwhile.
  async draw() {
    if (!this.picture) return;
    const { tab, cache } = this;
    const turn = ++this.asked;
    const filtered = tab.stop !== null && tab.sweeps[this.side];
    if (filtered) {
      const at = filtered[tab.stop];
      this.top(at.top);
      this.paint(tab.pictures[this.side][tab.stop], null);
      this.said.textContent = "";
      return;
    }
    this.top(this.answer.top);
    const key = this.looks ? `attention ${this.layer}` : this.fieldKey();
    if (!cache.has(key)) {
      if (!this.looks) await wait(tab.session instanceof Example ? 0 : 90);
      if (turn !== this.asked) return;
      try {
        const found = await (this.looks ? tab.session.attention(this.side, this.layer) : tab.session.field(this.side, this.layer, ...this.middle()));
        cache.set(key, this.looks ? unpacked(found) : { ...found, map: bytes(found.map) });
        if (turn === this.asked) tab.retract(this.complaint);
      } catch (error) {
        if (turn === this.asked) this.complaint = tab.tell(error instanceof ToldError ? error.message : NO_ANSWER);
        return;
      }
    }
    if (turn !== this.asked) return;
    const found = cache.get(key);
    if (this.looks) this.attend(found);
    else this.depend(found);
  }

  // The chosen place, which may be one of the other network's grid, as one of its own; without a grid it takes the other's.
  get grid() { return this.about.grid || this.tab.grid; }
  place() {
    const chosen = this.tab.place();
    if (!chosen) return null;
    const inside = (k, axis) => Math.floor(((k + 0.5) / this.tab.grid[axis]) * this.grid[axis]);
    return { row: inside(chosen.row, 0), column: inside(chosen.column, 1) };
  }
  placeOrMiddle() { return this.place() || { row: this.grid[0] >> 1, column: this.grid[1] >> 1 }; }
  middle() {
    const { row, column } = this.placeOrMiddle();
    return [(row + 0.5) / this.grid[0], (column + 0.5) / this.grid[1]];
  }
  fieldKey() { return `field ${this.layer} ${this.middle()}`; }

  attend(found) {
    const place = this.place();
    const { grid, prefix } = this.about;
    const query = place ? prefix + place.row * grid[1] + place.column : prefix ? 0 : -1;
    const map = attentionOf(found, query, this.head, prefix);
    const cells = map.slice(prefix);
    const strongest = Math.max(...cells);
    this.paint(this.picture, { rows: grid[0], columns: grid[1], values: cells.map((value) => (value / (strongest || 1)) ** SHADE), smooth: false }, place);
    const at = cells.indexOf(strongest);
    const from = place ? `Row ${place.row + 1}, column ${place.column + 1}` : prefix ? "The class token" : "The mean place";
    const head = this.head < 0 ? "mean of all heads" : `head ${this.head + 1}`;
    this.said.textContent = `${from} looks most at row ${Math.floor(at / grid[1]) + 1}, column ${(at % grid[1]) + 1}: ${percent(strongest)} of its attention (${this.about.layers[this.layer].name}, ${head}).`;
  }

  depend(found) {
    const place = this.placeOrMiddle();
    this.paint(this.picture, { rows: found.rows, columns: found.map.length / found.rows, values: [...found.map].map((value) => (value / 255) ** SHADE), smooth: true }, place);
    const [half, most] = found.radius;
    this.said.textContent = half === null ? "This place depends on nothing." : `At row ${place.row + 1}, column ${place.column + 1}, ${this.about.blocks[this.layer].name} draws half of its gradient from within ${half} px, 95 % from within ${most} px.`;
  }

  // The image, darkened where `light` is low; the place that is asked about in a frame.
  paint(picture, light, place) {
    const { canvas } = this;
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = true;
    pen.imageSmoothingQuality = "high";
    pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
    if (light) {
      const shade = h("canvas", { width: light.columns, height: light.rows });
      const inside = shade.getContext("2d");
      const pixels = inside.createImageData(light.columns, light.rows);
      light.values.forEach((value, k) => { pixels.data[4 * k + 3] = Math.round(222 * (1 - value)); });
      inside.putImageData(pixels, 0, 0);
      pen.imageSmoothingEnabled = light.smooth;
      pen.drawImage(shade, 0, 0, canvas.width, canvas.height);
    }
    if (!place) return;
    const [height, width] = [canvas.height / this.grid[0], canvas.width / this.grid[1]];
    for (const [colour, line] of [["#000a", 5], ["#fff", 2]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = line;
      pen.strokeRect(place.column * width + 1, place.row * height + 1, width - 2, height - 2);
    }
  }
}

// Bytes back into numbers: relative weights (head, query, key) and each query's strongest.
function unpacked({ heads, tokens, weights, peak }) {
  const raw = bytes(peak);
  return { heads, tokens, weights: bytes(weights), peak: new Float32Array(raw.buffer) };
}

// One row of attention: of a query, or the mean over all places after the prefix; of one head, or the mean of all.
function attentionOf({ heads, tokens, weights, peak }, query, head, prefix) {
  const chosen = head < 0 ? Array.from({ length: heads }, (_, k) => k) : [Math.min(head, heads - 1)];
  const queries = query < 0 ? Array.from({ length: tokens - prefix }, (_, k) => k + prefix) : [query];
  const found = new Array(tokens).fill(0);
  for (const k of chosen) {
    for (const q of queries) {
      const scale = peak[k * tokens + q] / 255 / chosen.length / queries.length;
      const start = (k * tokens + q) * tokens;
      for (let j = 0; j < tokens; j++) found[j] += weights[start + j] * scale;
    }
  }
  return found;
}

async function decoded(address) {
  const picture = new Image();
  picture.src = address;
  await picture.decode();
  return picture;
}

// -------------------------------------------------------------------------------------------------------------------- tab

class ImageTab {
  constructor(page, panel, base, about) {
    Object.assign(this, { page, panel, base, about, stop: null, sweeps: [], pictures: [], pinned: null, over: null, grid: [7, 7] });
    this.cards = [0, 1].map((side) => new Card(this, side));
    this.row = h("div", { class: "examples", role: "group", "aria-label": "Examples" });
    this.file = h("input", { type: "file", accept: "image/png,image/jpeg,image/webp,image/gif,image/bmp", class: "away", tabindex: -1, "aria-hidden": "true", on: { change: () => { this.send(this.file.files[0]); this.file.value = ""; } } });
    this.choose = h("button", { class: "main", text: "Choose an image", on: { click: () => this.file.click() } });
    this.drop = h("div", { class: "drop" }, this.choose, h("span", { class: "mute small", text: "or drop or paste one. It is looked at and not kept." }));
    this.why = h("p", { class: "mute small why" });
    this.told = h("p", { class: "told", role: "status" });
    this.area = h("div", { class: "looks" }, this.cards.map((card) => card.node));
    this.frequencies = h("div", { class: "card frequencies" });
    let width = 0; // none while another tab is open
    new ResizeObserver(() => {
      if (this.frequencies.clientWidth && this.frequencies.clientWidth !== width) { width = this.frequencies.clientWidth; this.drawCurves?.(); }
    }).observe(this.frequencies);
    panel.classList.add("image");
    panel.append(h("div", { class: "start" }, this.row, h("div", { class: "own" }, this.drop, this.file, this.why)), this.told, this.area, this.frequencies);
    this.area.hidden = this.frequencies.hidden = true;
    panel.addEventListener("dragover", (event) => { event.preventDefault(); panel.classList.add("over"); });
    panel.addEventListener("dragleave", () => panel.classList.remove("over"));
    panel.addEventListener("drop", (event) => { event.preventDefault(); panel.classList.remove("over"); this.send(event.dataTransfer.files[0]); });
    document.addEventListener("paste", (event) => { if (!panel.hidden && event.clipboardData.files.length) this.send(event.clipboardData.files[0]); });
  }

  async show() {
    const first = !this.started;
    this.started = true;
    if (first) this.drop.hidden = true;
    await Promise.all([this.examples(), first ? this.ready() : null]);
  }

  // Once; where they do not come, this is said, and they are asked for again by the reader, or when the tab is.
  async examples() {
    if (!this.about.examples || this.index) return;
    this.index = {};
    let index;
    try {
      index = await stored(`${this.base}examples/index.json`);
    } catch {
      this.index = null;
      this.tell("The examples could not be fetched. ", h("button", { class: "link", text: "Try again", on: { click: () => { this.tell(""); this.examples(); } } }));
      return;
    }
    this.index = index;
    this.row.append(...index.items.map((each, k) => h("button", { class: "example", title: `${each.title}. ${each.credit}`, "aria-label": `Example: ${each.title}`, on: { click: () => this.example(k) } },
      h("img", { src: each.thumb, alt: "", width: 64, height: 64 }))));
    this.credit = h("span", {});
    this.row.after(h("p", { class: "mute small credits" }, this.credit, index.note));
    if (!this.turn) await this.example(index.start);
  }

  // Whether the networks look: asked again while they are being loaded, and while no answer comes.
  async ready() {
    for (;;) {
      const about = await stored(`${this.base}live`).catch(() => ({ state: "silent", reason: "The server does not answer; it is asked again." }));
      this.live = about;
      this.drop.hidden = about.state !== "ready";
      this.why.textContent = about.state === "loading" ? "The networks are being loaded; until then, look at the examples." : about.reason;
      this.panel.dataset.live = about.state;
      if (!["loading", "silent"].includes(about.state)) return;
      await wait(about.state === "loading" ? 1500 : 3000);
    }
  }

  // Says something in place of what was said; the answer takes it back, if nothing else was said since.
  tell(...words) {
    clear(this.told).append(...words.filter(Boolean));
    this.last = {};
    return this.last;
  }

  retract(said) { if (said && said === this.last) this.tell(""); }

  async example(k) {
    const turn = (this.turn = (this.turn || 0) + 1);
    let found;
    try {
      found = await stored(`${this.base}examples/${k}.json`);
    } catch {
      if (turn === this.turn) this.tell("This example could not be fetched. Please try again.");
      return;
    }
    if (turn !== this.turn) return;
    const { title, credit } = this.index.items[k];
    const about = { number: k, credit: `${title}. ${credit}. ` };
    await this.take(new Example(found, this.index.sides, `${this.base}examples/${k}-attention.json`, about), turn);
  }

  async send(file) {
    if (!file) return;
    if (this.live?.state !== "ready") { this.tell(this.why.textContent); return; }
    if (file.size > MOST_BYTES) { this.tell(UNREADABLE); return; }
    const turn = (this.turn = (this.turn || 0) + 1);
    this.tell("Looking …");
    await this.take(new Sent(this.base, file, this.live.sides, (text) => (turn === this.turn ? this.tell(text) : null), (said) => this.retract(said)), turn);
  }

  async take(session, turn) {
    const layers = session.sides.map((each) => each.layers.length);
    let answer, pictures;
    try {
      answer = await session.all(Math.max(...layers) >> 1);
      pictures = await Promise.all(answer.sides.map(({ image }) => decoded(image)));
    } catch (error) {
      if (turn === this.turn) this.tell(error instanceof ToldError ? error.message : NO_ANSWER);
      return;
    }
    if (turn !== this.turn) return;
    Object.assign(this, { session, stop: null, sweeps: [], pictures: [], pinned: null, over: null });
    this.grid = (session.sides.find((each) => each.grid) || { grid: [7, 7] }).grid;
    this.cards.forEach((card, side) => card.take(session.sides[side], answer.sides[side], pictures[side]));
    [...this.row.children].forEach((node, k) => node.setAttribute("aria-pressed", String(k === session.number)));
    if (this.credit) this.credit.textContent = session.credit || "";
    this.area.hidden = false;
    this.draw();
    this.tell("");
    this.panel.dataset.looked = String(turn);
    await this.sweep(session);
  }

  draw() { for (const card of this.cards) card.draw(); }

  // ------------------------------------------------------------------------------------------------------ the chosen place

  place() { return this.over || this.pinned; }
  cell({ y, x }) {
    const [rows, columns] = this.grid;
    return { row: Math.min(rows - 1, Math.max(0, Math.floor(y * rows))), column: Math.min(columns - 1, Math.max(0, Math.floor(x * columns))) };
  }
  hover(spot) {
    const next = spot && this.cell(spot);
    if (next?.row === this.over?.row && next?.column === this.over?.column) return;
    this.over = next;
    this.draw();
  }
  pin(spot) {
    const next = this.cell(spot);
    const same = this.pinned && this.pinned.row === next.row && this.pinned.column === next.column;
    this.pinned = same ? null : next;
    this.draw();
  }
  key(event) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (event.key === "Escape") { this.pinned = this.over = null; this.draw(); }
    if (event.key === "Enter" && this.over) this.pinned = this.over;
    if (!step) return;
    event.preventDefault();
    const { row, column } = this.place() || { row: this.grid[0] >> 1, column: this.grid[1] >> 1 };
    const bound = (value, most) => Math.min(most - 1, Math.max(0, value));
    this.over = null;
    this.pinned = { row: bound(row + step[0], this.grid[0]), column: bound(column + step[1], this.grid[1]) };
    this.draw();
  }

  // ---------------------------------------------------------------------------------------------------------- frequencies

  async sweep(session) {
    this.frequencies.hidden = false;
    this.drawCurves = null;
    clear(this.frequencies).append(h("h2", { text: "Low and high frequencies" }), h("p", { class: "mute small", text: "Being looked at …" }));
    let sweeps, pictures;
    try {
      sweeps = await Promise.all([0, 1].map((side) => session.sweep(side)));
      pictures = await Promise.all(sweeps.map((each) => Promise.all(each.map(({ image }) => decoded(image)))));
    } catch (error) {
      if (session === this.session) this.frequencies.lastChild.textContent = error instanceof ToldError ? error.message : "The server did not answer.";
      return;
    }
    if (session !== this.session) return;
    Object.assign(this, { sweeps, pictures });
    this.scale();
  }

  scale() {
    const { sweeps } = this;
    const middle = sweeps[0].findIndex(({ kind }) => kind === "none");
    const words = (k) => {
      const { kind, cutoff } = sweeps[0][k];
      return kind === "none" ? "as it is" : kind === "low" ? `frequencies below ${cutoff} π kept` : `frequencies above ${cutoff} π kept`;
    };
    const said = h("p", { class: "small said", "aria-live": "polite" });
    const chart = h("div", { class: "sweep" });
    const mark = () => [...chart.querySelectorAll("[data-stop]")].forEach((node) => node.classList.toggle("here", Number(node.dataset.stop) === (this.stop ?? middle)));
    const tell = (k) => {
      const answers = sweeps.map((each, side) => `${this.session.sides[side].name}: ${each[k].top[0][0]}, ${percent(each[k].top[0][1])}`);
      said.textContent = `The image ${k === middle ? "as it is" : `with only ${words(k)}`}. ${answers.join(" · ")}`;
    };
    const slider = h("input", {
      type: "range", min: 0, max: sweeps[0].length - 1, value: middle, "aria-label": "Frequencies kept", "aria-valuetext": words(middle),
      on: {
        input: (event) => {
          const k = Number(event.target.value);
          this.stop = k === middle ? null : k;
          slider.setAttribute("aria-valuetext", words(k));
          mark();
          tell(k);
          this.draw();
        },
      },
    });
    clear(this.frequencies).append(
      h("h2", { text: "Low and high frequencies" }),
      h("p", { class: "mute small", text: "How sure each network stays of its first answer when fine detail (left) or coarse shape (right) is taken away. Half amplitude at the cut-off, in units of the highest frequency of the network's own pixels." }),
      chart, h("label", { class: "slide wide" }, h("span", { class: "small", text: "◂ blurred" }), slider, h("span", { class: "small", text: "edges only ▸" })), said);
    this.drawCurves = () => { clear(chart).append(this.curves(middle)); mark(); };
    this.drawCurves();
    tell(middle);
  }

  // The probability of the first answer at every stop: A solid with circles, B dashed with squares.
  curves(middle) {
    const NS = "http://www.w3.org/2000/svg";
    const node = (tag, properties) => { const made = document.createElementNS(NS, tag); Object.entries(properties).forEach(([name, value]) => made.setAttribute(name, value)); return made; };
    const [width, height] = [Math.max(260, Math.floor(this.frequencies.clientWidth) - 36), 130];
    const count = this.sweeps[0].length;
    const [x, y] = [(k) => 42 + (k / (count - 1)) * (width - 50), (p) => height - 14 - p * (height - 26)];
    const names = this.sweeps.map((each) => each[middle].top[0][0]);
    const words = this.sweeps.map((each, side) => `${this.session.sides[side].name}, ${names[side]}: ${each.map(({ top }) => percent(probability(top, names[side]))).join(", ")}`);
    const svg = node("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": `Probability of the first answer from blurred to edges only. ${words.join(". ")}`, preserveAspectRatio: "none" });
    for (const p of [0, 0.5, 1]) {
      const word = node("text", { class: "tick", x: 0, y: y(p) + 3.5 });
      word.textContent = `${100 * p} %`;
      svg.append(node("line", { class: "rule", x1: 34, x2: width, y1: y(p), y2: y(p) }), word);
    }
    svg.append(node("line", { class: "zero", x1: x(middle), x2: x(middle), y1: y(1), y2: y(0) }));
    this.sweeps.forEach((each, side) => {
      const group = node("g", { class: SIDES[side] });
      const values = each.map(({ top }) => probability(top, names[side]));
      group.append(node("polyline", { class: "curve", points: values.map((p, k) => `${x(k)},${y(p)}`).join(" ") }));
      values.forEach((p, k) => group.append(side
        ? node("rect", { class: "sign", "data-stop": k, x: x(k) - 3, y: y(p) - 3, width: 6, height: 6 })
        : node("circle", { class: "sign", "data-stop": k, cx: x(k), cy: y(p), r: 3.4 })));
      svg.append(group);
    });
    const legend = h("p", { class: "small legend" }, this.sweeps.map((each, side) => h("span", { class: SIDES[side], text: `${side ? "■" : "●"} ${this.session.sides[side].name}: ${names[side]}` })));
    return h("div", {}, svg, legend);
  }
}

// Of a class among the five likeliest; where it is not there, less than the least of them, drawn as zero.
function probability(top, name) {
  const found = top.find(([each]) => each === name);
  return found ? found[1] : 0;
}

window.VitSpace = { ...window.VitSpace, ImageTab, attentionOf, unpacked };
})();
