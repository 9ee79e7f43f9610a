// Maps of places with places.

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

function colourBar(colours, { x, y, width, title, ends }) {
  return s("g", { transform: `translate(${x} ${y})` },
    s("text", { class: "label", y: 4, text: title }),
    s("image", { href: strip(colours), y: 12, width, height: 10, preserveAspectRatio: "none" }),
    ends.map((text, k) => s("text", { class: "tick", x: (k / (ends.length - 1)) * width, y: 36, "text-anchor": k === 0 ? "start" : k === ends.length - 1 ? "end" : "middle", text })));
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

class MapView {
  constructor(explore, place, cell, svg) {
    Object.assign(this, place, { explore, cell, svg });
    const { pair, page } = explore;
    this.map = explore.lensed.shown[this.of];
    const [rows, columns] = [...this.of].map((side) => pair[side].places);
    const [wide, high] = [this.columns * cell, this.rows * cell];
    this.roomRight = svg.width.baseVal.value - this.x - wide;
    const picture = painted(this.columns, this.rows, (x, y) => explore.lens.paint(this.map.at(this.rows - 1 - y, x)[0]));
    this.crosses = [s("path", { class: "cross dark" }), s("path", { class: "cross" })];
    this.boxes = [s("path", { class: "box dark" }), s("path", { class: "box" })];
    const words = { aa: "A with A", ab: "A with B", bb: "B with B" }[this.of];
    this.node = s("g", { transform: `translate(${this.x} ${this.y})`, class: explore.lensed.top ? "map diverging" : "map" },
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
