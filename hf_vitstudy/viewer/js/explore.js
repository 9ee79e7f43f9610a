// Explore: one selection, and every view that follows it.

class Explore {
  constructor(page, root) {
    this.page = page;
    this.root = root;
    this.pair = null;
    this.has = null;
    this.lensed = null;
    this.status = h("p", { class: "mute status", role: "status" });
    this.readout = h("p", { class: "readout", "aria-live": "polite" });
    this.table = h("table", { class: "here" });
    this.pin = h("button", { class: "quiet pin", on: { click: () => this.togglePin() } });
    const toggle = h("input", { type: "checkbox", checked: true, on: { change: (e) => { page.path = e.target.checked; this.draw(); } } });
    this.opened = new Set();
    this.lens = new Lens(this);
    this.cka = panel(this, "cka", "Which places are alike", "linear CKA, unbiased", h("span", { class: "choose" }, this.lens.node, h("label", { class: "small toggle" }, toggle, " best match")));
    this.cka.node.insertBefore(this.lens.line, this.cka.body);
    this.cards = [...page.study.curves.map((curve) => panel(this, curve.key, curve.title, curve.unit)), panel(this, "heads", "Attention heads", "mean distance, px")];
    this.charts = [];
    this.below = new Below(this);
    const beside = this.cards.slice(0, -1).filter((card) => !page.study.curves.find(({ key }) => key === card.key).below);
    this.views = h("div", { class: "views" },
      h("div", { class: "grid" },
        h("div", { class: "left" }, this.cka.node, this.cards.at(-1).node),
        h("div", { class: "side" },
          h("section", { class: "card selection", "aria-label": "At the selection" }, h("div", { class: "line" }, this.readout, this.pin), this.table),
          beside.map((card) => card.node))), this.below.node);
    root.append(this.status, this.views);
  }

  chosen() { return ["a", "b"].map((side) => this.page.state[side]).join(" "); }
  wanted() { return JSON.stringify([this.chosen(), this.page.state.measure, this.page.state.minus]); }

  // Whether what is held is what was chosen. It is not while files are on their way: then nothing is drawn or read off.
  get current() {
    return this.page.state.sel !== null && this.pair !== null && this.has === this.chosen() && this.lensed?.wanted === this.wanted();
  }

  async show() {
    const turn = {};
    const asked = this.chosen();
    this.turn = turn;
    const late = () => this.turn !== turn || this.chosen() !== asked;
    this.hold(!this.current);
    if (this.has !== asked && !(await this.fetch(asked, late))) return;
    if (!(await this.look(late))) return;
    this.settle();
    this.status.textContent = "";
    this.hold(false);
    this.draw();
    await this.goto(this.page.state.view);
  }

  // Views of an earlier choice stay in sight, but say nothing and can be neither pointed at nor saved.
  hold(held) {
    if (held && !this.views.inert) this.focused = this.views.contains(document.activeElement) ? document.activeElement : null;
    this.views.inert = held;
    this.views.classList.toggle("held", held);
    if (!held && this.focused && document.activeElement === document.body) this.focused.focus({ preventScroll: true });
  }

  // The numbers of both networks; false where they did not come, or for an earlier choice.
  async fetch(asked, late) {
    this.status.textContent = "Loading …";
    try {
      const found = await this.page.pair(this.page.state.a, this.page.state.b);
      if (late()) return false;
      this.pair = found;
      this.has = asked;
      this.below.forget();
      this.status.textContent = "";
    } catch {
      if (late()) return false;
      this.has = null;
      this.pair = null;
      clear(this.status).append(unfetched("These measurements could not be fetched. "), h("button", { class: "link", text: "Try again", on: { click: () => this.page.show() } }));
    }
    this.root.classList.toggle("empty", this.pair === null);
    return this.pair !== null;
  }

  // The maps of the chosen measure; CKA where those cannot be had. False for an earlier choice.
  async look(late) {
    const { state } = this.page;
    if (this.lensed?.wanted === this.wanted()) return true;
    const { maps } = this.pair;
    let found = null;
    if (state.measure !== "cka" || state.minus) {
      try {
        found = await this.lens.maps(this.pair);
        if (late()) return false;
        if (!found.top) state.minus = null;
      } catch {
        if (late()) return false;
        this.page.say("These maps could not be fetched");
        Object.assign(state, { measure: "cka", minus: null });
        this.page.remember();
      }
    }
    this.lensed = { ...(found || { base: maps, shown: maps, top: null }), wanted: this.wanted() };
    return true;
  }

  // To the view that was asked for, once.
  async goto(wanted) {
    const all = [this.cka, ...this.cards, ...[...this.below.views.values()].map((view) => view.card)];
    for (const card of all) card.node.classList.toggle("asked", card.key === wanted && wanted !== "cka");
    const card = all.find(({ key }) => key === wanted);
    const deep = card && this.below.node.contains(card.node);
    if (deep) {
      const { turn } = this;
      await this.below.come();
      if (turn !== this.turn || this.page.state.view !== wanted) return;
    } else if (this.below.near) this.below.show();
    else this.below.look();
    if (!card || this.gone === `${this.has} ${wanted}` || (wanted === "cka" && !deep)) return;
    this.gone = `${this.has} ${wanted}`;
    if (deep || window.innerWidth < 900) card.node.scrollIntoView({ block: "center" });
  }

  // A selection inside the maps: depths become places, what does not exist is dropped, and there is always one.
  settle() {
    const { state } = this.page;
    const sides = (of) => [this.pair[of[0]], this.pair[of[1]]].map((each) => each.places);
    if (state.sel?.depths) {
      const nearest = (places, depth) => places.depth.reduce((best, at, k) => (Math.abs(at - depth) < Math.abs(places.depth[best] - depth) ? k : best), 0);
      const [rows, columns] = sides(state.sel.of);
      state.sel = { of: state.sel.of, i: nearest(rows, state.sel.depths[0]), j: nearest(columns, state.sel.depths[1]) };
      this.page.remember();
    }
    if (state.sel) {
      const [rows, columns] = sides(state.sel.of).map((places) => places.name.length);
      if (!(state.sel.i < rows && state.sel.j < columns)) { state.sel = null; state.pinned = false; }
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
    const { ab } = this.lensed.base;
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
    if (!this.current || this.root.hidden || !this.root.clientWidth) return;
    const focused = this.views.contains(document.activeElement) ? document.activeElement : null;
    this.lens.show();
    this.drawMaps();
    this.charts = this.cards.map((card) => drawChart(this, card));
    this.below.draw();
    for (const card of [this.cka, ...this.cards]) card.refresh();
    this.move();
    if (focused && !focused.isConnected) this.views.querySelector(`[aria-label=${CSS.escape(focused.getAttribute("aria-label"))}]`)?.focus({ preventScroll: true });
  }

  // Everything that follows the selection, and nothing else: this runs at every move of the pointer.
  move() {
    if (!this.current) return;
    const marked = this.selected();
    for (const map of this.maps) map.mark(marked[map.of] || []);
    for (const chart of this.charts) chart?.mark(marked);
    this.below.mark(marked);
    for (const each of this.opened) each.draw();
    const { pinned } = this.page.state;
    this.pin.textContent = pinned ? "Unpin" : "Pin";
    this.pin.setAttribute("aria-pressed", String(pinned));
    this.root.classList.toggle("pinned", pinned);
    this.tell();
  }

  // The two places of the selected cell, its row's and its column's: [side, place] each.
  ends() {
    const { of, i, j } = this.page.state.sel;
    return [[of[0], i], [of[1], j]];
  }

  name(side) { return this.page.study.checkpoints[this.page.state[side]].id; }

  tell() {
    const { of, i, j } = this.page.state.sel;
    const [first, second] = this.ends();
    clear(this.readout).append(...this.words(of, i, j));
    const columns = [first, second];
    const head = h("tr", {}, h("td"), columns.map((each) => h("th", { scope: "col", class: each[0], text: `${each[0].toUpperCase()} ${this.pair[each[0]].places.name[each[1]]}` })));
    const rows = [[["Place", ""], columns.map(([side, k]) => this.about(side, k))],
      ...this.page.study.curves.map((curve) => [[curve.title, curve.unit], columns.map(([side, k]) => this.number(side, curve.key, k))]),
      [["Attention heads", "px"], columns.map(([side, k]) => this.heads(side, k))]];
    clear(this.table).append(h("thead", {}, head), h("tbody", {}, rows.map(([title, cells]) =>
      h("tr", {}, h("th", { scope: "row" }, title[0], h("span", { class: "mute", text: ` ${title[1]}` })), cells.map((text) => h("td", { text }))))));
  }

  // What the selected cell says.
  words(of, i, j) {
    const map = this.lensed.shown[of];
    const { title } = this.lens.about();
    const { a, b, minus } = this.page.state;
    const word = (side, k) => `${this.pair[side].places.name[k]} of ${side.toUpperCase()}`;
    const pair = `${word(of[0], i)} and ${word(of[1], j)}`;
    if (!map && this.page.comparable(a, b)) return [`${title} is not stored for these two networks.`];
    if (!map) return [`${this.name("a")} and ${this.name("b")} were measured on different images or in other batches, so no place of one can be compared with one of the other.`];
    const chance = known(map.chance) ? `; unrelated images give ${map.chance.toFixed(3)}` : "";
    if (!(map instanceof DifferenceMap)) return [h("b", { text: interval(thousandths, map.at(i, j)) }), h("span", { text: ` ${title} of ${pair}, n = ${whole(map.n)} images${chance}` })];
    const [x, y] = [map.map, map.other].map((each) => thousandths(each.at(i, j)[0]));
    const others = [...of].map((side) => this.page.study.checkpoints[minus[side === "a" ? 0 : 1]].id).join(" and ");
    return [h("b", { text: interval(signed, map.at(i, j)) }), h("span", { text: ` ${title}: ${x} of ${pair} minus ${y} of the same places of ${others}; the interval is no narrower than that of paired images` })];
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

  drawMaps() {
    this.bestRows = this.lensed.base.ab ? this.lensed.base.ab.best() : [];
    const counts = ["a", "b"].map((side) => this.pair[side].places.name.length);
    const width = Math.max(240, Math.floor(this.cka.body.clientWidth));
    const beside = joined(width, counts);
    const places = beside.cell >= 8 ? beside : stacked(width, counts);
    const svg = s("svg", { class: "maps", width, height: places.height, viewBox: `0 0 ${width} ${places.height}`, role: "group", "aria-label": "Maps of similarity" });
    this.maps = places.maps.filter(({ of }) => this.lensed.shown[of]).map((place) => new MapView(this, place, places.cell, svg));
    svg.append(...this.maps.map((map) => map.node), this.lens.bar(places.bar));
    clear(this.cka.body).append(svg);
    this.cka.svg = svg;
  }

  rows(key) {
    if (key === "cka") return this.mapRows();
    if (this.below.has(key)) return this.below.views.get(key).rows();
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
    const { shown, top } = this.lensed;
    const { measure, minus } = this.page.state;
    const other = (of) => (top ? Object.fromEntries(["rows_minus", "columns_minus"].map((name, k) => [name, this.page.study.checkpoints[minus[of[k] === "a" ? 0 : 1]].id])) : {});
    return SIDES.filter((of) => shown[of]).flatMap((of) => {
      const map = shown[of];
      const [rows, columns] = [...of].map((side) => this.pair[side].places.name);
      const cell = (i, j) => {
        const [value, low, high] = map.at(i, j).map((each) => (known(each) ? each / 1000 : null));
        return { map: of, rows: this.name(of[0]), columns: this.name(of[1]), ...other(of), row: rows[i], column: columns[j], [measure]: value, low, high, n: map.n };
      };
      return rows.flatMap((_, i) => columns.map((_, j) => cell(i, j)));
    });
  }
}
