// What the maps show: one of the measures of similarity, or its difference from the maps of two other networks.

// The same map of two other networks taken away. Its interval is at least as wide as that of paired draws would be, whatever
// the two maps have in common: the standard error of a difference is at most the sum of both.
class DifferenceMap {
  constructor(map, other) { Object.assign(this, { map, other, rows: map.rows, columns: map.columns, n: map.n }); }
  at(i, j) {
    const [[x, a, b], [y, c, d]] = [this.map.at(i, j), this.other.at(i, j)];
    return known(x) && known(y) ? [x - y, x - y - (x - a) - (d - y), x - y + (b - x) + (y - c)] : [null, null, null];
  }
  largest() {
    let found = 0;
    for (let i = 0; i < this.rows; i++) for (let j = 0; j < this.columns; j++) found = Math.max(found, Math.abs(this.at(i, j)[0] || 0));
    return found;
  }
}

const SIDES = ["aa", "ab", "bb"];

// Choosing them, in the card of the maps.
class Lens {
  constructor(explore) {
    this.explore = explore;
    const { study } = explore.page;
    this.measure = h("select", { class: "small", "aria-label": "Measure of similarity", on: { change: (e) => this.go({ measure: e.target.value }) } },
      study.measures.map(({ key, title }) => h("option", { value: key, text: title })));
    this.toggle = h("input", { type: "checkbox", on: { change: (e) => this.go({ minus: e.target.checked ? this.usual() : null }) } });
    this.others = ["a", "b"].map((side, k) => h("select", {
      class: "small", "aria-label": `Subtract the map of, instead of ${side.toUpperCase()}`, on: { change: (e) => this.go({ minus: this.with(k, Number(e.target.value)) }) },
    }));
    this.line = h("div", { class: "line mute small minus" }, h("span", { text: "minus the maps of " }), this.others[0], h("span", { text: " with " }), this.others[1]);
    this.node = h("span", { class: "lens" }, study.measures.length > 1 ? this.measure : null, h("label", { class: "small toggle" }, this.toggle, " difference"));
  }

  go(changes) { this.explore.page.go(changes); }
  with(k, number) { return this.explore.page.state.minus.map((each, at) => (at === k ? number : each)); }

  // Checkpoints whose places are those of a side, on images comparable with its.
  alike(side) {
    const { study, state } = this.explore.page;
    const own = state[side];
    const group = study.comparable.find((each) => each.includes(own)) || [own];
    return group.filter((number) => study.layouts[number] === study.layouts[own]);
  }

  usual() { return ["a", "b"].map((side) => this.alike(side).find((number) => number !== this.explore.page.state[side]) ?? this.explore.page.state[side]); }

  // The maps of the measure, less what is to be taken away where that can be; throws where a file cannot be fetched.
  async maps(pair) {
    const { page } = this.explore;
    const { a, b, measure, minus } = page.state;
    const base = await this.of(a, b, measure, pair.maps);
    const ok = minus && ["a", "b"].every((side, k) => this.alike(side).includes(minus[k]));
    if (!ok) return { base, shown: base, top: null };
    const other = await this.of(minus[0], minus[1], measure, measure === "cka" ? (await page.pair(minus[0], minus[1])).maps : null);
    const shown = Object.fromEntries(SIDES.map((of) => [of, base[of] && other[of] ? new DifferenceMap(base[of], other[of]) : null]));
    const largest = Math.max(50, ...SIDES.map((of) => shown[of]?.largest() || 0));
    return { base, shown, top: Math.ceil(largest / 50) * 50 };
  }

  async of(a, b, measure, cka) {
    if (measure === "cka") return cka;
    const { page } = this.explore;
    const file = (x, y) => (page.comparable(x, y) ? page.file(`measures-${Math.min(x, y)}-${Math.max(x, y)}.json`) : null);
    const [first, second] = await Promise.all([a, b].map((number) => page.file(`checkpoint-${number}.json`)));
    const counts = [first, second].map((each) => each.places.name.length);
    const found = await Promise.all([file(a, a), file(a, b), file(b, b)]);
    const map = (at, rows, columns, turned) => (found[at]?.measures[measure] ? new CkaMap(found[at].measures[measure], rows, columns, turned) : null);
    return { aa: map(0, counts[0], counts[0], false), ab: map(1, ...counts, a > b), bb: map(2, counts[1], counts[1], false) };
  }

  // The controls say what is shown.
  show() {
    const { page } = this.explore;
    const { measure, minus } = page.state;
    const { title, unit } = this.about();
    this.measure.value = measure;
    this.toggle.checked = Boolean(minus);
    this.line.hidden = !minus;
    const { cka } = this.explore;
    cka.unit = minus ? `difference of ${title}` : unit;
    cka.node.querySelector(".unit").textContent = cka.unit;
    if (!minus) return;
    ["a", "b"].forEach((side, k) => {
      clear(this.others[k]).append(...this.alike(side).map((number) => h("option", { value: number, text: page.study.checkpoints[number].id })));
      this.others[k].value = String(minus[k]);
    });
  }

  about() {
    const { study, state } = this.explore.page;
    return study.measures.find(({ key }) => key === state.measure) || study.measures[0];
  }

  // Colours of a cell's value in thousandths, as matplotlib maps them onto 256; undefined is transparent.
  paint(value) {
    const { study } = this.explore.page;
    const { top } = this.explore.lensed;
    if (!known(value)) return [0, 0, 0, 0];
    const share = top ? (value + top) / (2 * top) : value / 1000;
    return rgb(top ? study.diverging : study.magma, Math.max(0, Math.min(255, Math.floor(256 * share))));
  }

  bar(place) {
    const { study } = this.explore.page;
    const { top } = this.explore.lensed;
    const { title, key } = this.about();
    const name = key === "cka" ? "linear CKA" : title;
    return top ? colourBar(study.diverging, { ...place, title: `difference of ${title}`, ends: [-top, 0, top].map((end) => signed(end, 2)) })
      : colourBar(study.magma, { ...place, title: name, ends: ["0", "0.5", "1"] });
  }
}

// Thousandths with their sign.
const signed = (value, digits = 3) => (known(value) ? `${value > 0 ? "+" : ""}${minus((value / 1000).toFixed(digits))}` : "undefined");
