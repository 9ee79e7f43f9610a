// How sharp and how convex the loss is around the weights.

const POWERS = "⁰¹²³⁴⁵⁶⁷⁸⁹";
const power = (k) => (k === 0 ? "1" : k === -1 ? "0.1" : `10${k < 0 ? "⁻" : ""}${String(Math.abs(k)).replace(/\d/g, (digit) => POWERS[digit])}`);

// Eigenvalues at both ends, their means, and the density of all, over one axis even in asinh.
class Spectrum extends View {
  constructor(explore) { super(explore, "hessian", "Curvature of the loss", "eigenvalues of the Hessian, nat / parameter²; asinh scale", "network"); }

  paint(sides) {
    const { card } = this;
    const found = sides.map((side) => this.data(side));
    this.width = Math.max(240, Math.floor(card.body.clientWidth));
    const ends = found.flatMap((each) => [...each.top, ...each.bottom].flat()).filter(known);
    const bins = found.filter((each) => each.density).flatMap(({ density }) => [density.first - 0.5, density.first + density.share.length - 0.5].map((k) => Math.sinh(k * density.width)));
    const [low, high] = [Math.min(...ends, ...bins), Math.max(...ends, ...bins)].map(Math.asinh);
    const [left, right, top, middle] = [40, this.width - 12, 8, 172];
    this.box = { left, right, top, middle, bottom: middle + 14 + 64 * sides.length };
    this.x = (value) => left + ((Math.asinh(value) - low) / (high - low)) * (right - left);
    this.y = (share) => top - (Math.log10(share) / 7) * (middle - top);
    this.ends = [Math.sinh(low), Math.sinh(high)];
    const height = this.box.bottom + 24;
    this.cursor = s("line", { class: "reading", y1: top, y2: this.box.bottom });
    card.svg = s("svg", { class: "chart", width: this.width, height, viewBox: `0 0 ${this.width} ${height}`, "aria-label": "Density of the Hessian's spectrum: arrow keys read the values" },
      this.axes(), sides.map((side) => this.steps(side)), sides.map((side, k) => this.eigenvalues(side, middle + 20 + 64 * k)), this.cursor);
    const [first, last, width] = this.reach(sides);
    const place = (event) => Math.round((low + ((event.clientX - card.svg.getBoundingClientRect().left - left) / (right - left)) * (high - low)) / width);
    if (width) readable(card.svg, { nearest: (event) => Math.max(0, Math.min(last - first, place(event) - first)), last: last - first, read: (k) => this.read(first + k) });
    card.body.append(card.svg);
    this.tell(this.summary());
  }

  reach(sides) {
    const all = sides.map((side) => this.data(side).density).filter(Boolean);
    return [Math.min(...all.map(({ first }) => first)), Math.max(...all.map(({ first, share }) => first + share.length - 1)), all[0]?.width];
  }

  axes() {
    const { left, right, top, middle, bottom } = this.box;
    const values = [0, ...Array.from({ length: 9 }, (_, k) => 10 ** k).flatMap((ten) => [ten, -ten])].filter((value) => value >= this.ends[0] && value <= this.ends[1]);
    const shown = [];
    for (const value of values) if (shown.every((other) => Math.abs(this.x(other) - this.x(value)) > 27)) shown.push(value);
    const text = (value) => (Math.abs(value) < 1e4 ? minus(String(value)) : `${value < 0 ? "−" : ""}${power(Math.round(Math.log10(Math.abs(value))))}`);
    return s("g", {},
      [0, -2, -4, -6].map((k) => [s("line", { class: "rule", x1: left, x2: right, y1: this.y(10 ** k), y2: this.y(10 ** k) }), s("text", { class: "tick", x: left - 5, y: this.y(10 ** k) + 3.5, "text-anchor": "end", text: power(k) })]),
      shown.map((value) => [s("line", { class: "rule", x1: this.x(value), x2: this.x(value), y1: top, y2: bottom }), s("text", { class: "tick", x: this.x(value), y: bottom + 15, "text-anchor": "middle", text: text(value) })]),
      s("line", { class: "zero", x1: this.x(0), x2: this.x(0), y1: top, y2: bottom }), s("line", { class: "axisline", x1: left, x2: right, y1: middle, y2: middle }),
      s("text", { class: "tick", x: left + 4, y: top + 10, text: "share of all directions" }));
  }

  steps(side) {
    const { density } = this.data(side);
    if (!density) return null;
    const inside = (share) => Math.min(this.box.middle, this.y(Math.max(share, 1e-7)));
    const edge = (k) => this.x(Math.sinh((density.first + k - 0.5) * density.width)).toFixed(1);
    const line = density.share.map((share, k) => `${k ? "L" : "M"}${edge(k)},${inside(share).toFixed(1)}H${edge(k + 1)}`).join("");
    return s("g", { class: side }, s("path", { class: "band", d: `${line}V${this.box.middle}H${edge(0)}Z` }), s("path", { class: "curve", d: line }));
  }

  // One line of marks per mini-batch, the outermost strong; the bar is the mean of these with its interval.
  eigenvalues(side, y) {
    const found = this.data(side);
    const marks = ["top", "bottom"].flatMap((end) => found[end].flatMap((row, batch) => row.flatMap((value, rank) => (known(value)
      ? [Plot.prototype.sign({ side }, this.x(value), y + (batch / Math.max(1, found[end].length - 1)) * 34, rank ? 1.6 : 2.4, rank ? "dot pale" : "dot")] : []))));
    const bar = ([value, low, high]) => (known(low) ? s("path", { class: "average", d: `M${this.x(low).toFixed(1)},${y + 45}H${this.x(high).toFixed(1)}M${this.x(value).toFixed(1)},${y + 40}v10` }) : null);
    return s("g", { class: side }, s("text", { class: `label ${side}`, x: this.box.left - 14, y: y + 21, "text-anchor": "end", text: side.toUpperCase() }), marks, bar(found.largest), bar(found.smallest));
  }

  summary() {
    const say = (name) => this.both((found) => interval(three, found[name]));
    return `Mean largest eigenvalue ${say("largest")}; mean smallest ${say("smallest")}; negative among the largest by magnitude ${say("negative_proportion")}.`;
  }

  read(bin) {
    const { width } = this.sides().map((side) => this.data(side).density).find(Boolean);
    const [low, high] = [bin - 0.5, bin + 0.5].map((k) => Math.sinh(k * width));
    this.cursor.setAttribute("x1", this.x(Math.sinh(bin * width)));
    this.cursor.setAttribute("x2", this.x(Math.sinh(bin * width)));
    const share = ({ density }) => density ? (density.share[bin - density.first] ?? 0) : null;
    this.tell(`Curvature from ${three(low)} to ${three(high)}: ${this.both((found) => (known(share(found)) ? `${three(share(found))} of all directions` : null))}.`);
  }

  list(found) {
    const numbers = ["largest", "smallest", "asymmetry", "negative_proportion", "positive_mean"].map((what) => ({ what, batch: null, rank: null, value: found[what][0], low: found[what][1], high: found[what][2], n: found.n }));
    const each = ["top", "bottom"].flatMap((end) => found[end].flatMap((row, batch) => row.map((value, rank) => ({ what: `eigenvalue, ${end}`, batch, rank, value, low: null, high: null, n: null }))));
    const { density } = found;
    const bins = density ? density.share.map((value, k) => ({ what: `share at asinh λ = ${(density.first + k) * density.width} ± ${density.width / 2}`, batch: null, rank: null, value, low: null, high: null, n: null })) : [];
    return [...numbers, ...each, ...bins];
  }
}

const LEVELS = [0.25, 0.5, 1, 2, 4, 8, 16];

// Mean loss on the plane of two directions, one colour scale for both networks, contours in nat.
class Landscape extends View {
  constructor(explore) { super(explore, "landscape", "Loss surface", "mean loss along two directions, nat; a step of 1 is as long as the weights", "network"); }

  paint(sides) {
    const { card, explore } = this;
    const colours = explore.page.study.viridis;
    const [width, gap, top] = [Math.max(240, Math.floor(card.body.clientWidth)), 18, 18];
    const size = Math.min(264, Math.floor((width - gap) / 2));
    if (sides.every((side) => this.data(side).y.length < 2)) {
      card.body.append(h("p", { class: "mute small none", text: "Only a line was measured, which is drawn below." }));
      this.tell("");
      return;
    }
    const all = sides.flatMap((side) => this.data(side).loss).filter(known);
    this.scale = [Math.max(1e-3, Math.min(...all)), Math.max(...all)];
    const height = top + size + 58;
    this.boxes = [];
    const maps = ["a", "b"].filter((side) => sides.includes(side)).map((side, k) => this.map(side, { x: k * (size + gap), y: top, size, colours }));
    const [low, high] = this.scale;
    card.svg = s("svg", { class: "pictures", width, height, viewBox: `0 0 ${width} ${height}`, "aria-label": "Loss around the weights of both networks: arrow keys read the values" }, maps,
      colourBar(colours, { x: 0, y: top + size + 16, width: sides.length * size + (sides.length - 1) * gap, title: "", ends: [low, Math.sqrt(low * high), high].map((end) => `${three(end)}`) }));
    const { x, y } = this.data(sides[0]);
    const place = (event) => {
      const box = card.svg.getBoundingClientRect();
      const [across, down] = [(event.clientX - box.left) % (size + gap), event.clientY - box.top - top];
      const inside = (share, count) => Math.max(0, Math.min(count - 1, Math.floor(share * count)));
      return inside(1 - down / size, y.length) * x.length + inside(across / size, x.length);
    };
    this.keys(card.svg, place, x.length, y.length);
    card.body.append(card.svg);
    this.tell(`At the trained weights ${this.both((found) => `${three(found.loss[this.centre(found)])} nat`)}; highest ${this.both((found) => `${three(Math.max(...found.loss.filter(known)))}`)}.`);
  }

  centre({ x, y }) {
    const nearest = (steps) => steps.reduce((best, step, k) => (Math.abs(step) < Math.abs(steps[best]) ? k : best), 0);
    return nearest(y) * x.length + nearest(x);
  }

  keys(node, place, columns, rows) {
    let now = null;
    const at = (k) => { if (k !== now) { now = k; this.read(k); } };
    const inside = (k, count) => Math.max(0, Math.min(count - 1, k));
    const key = (event) => {
      const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (!step) return;
      const from = known(now) ? now : this.centre(this.data(this.sides()[0]));
      at(inside(Math.floor(from / columns) + step[1], rows) * columns + inside((from % columns) + step[0], columns));
      event.preventDefault();
    };
    fill(node, { tabindex: 0, role: "application", on: { pointermove: (event) => at(place(event)), pointerdown: (event) => at(place(event)), keydown: key } }, []);
  }

  map(side, { x: left, y: top, size, colours }) {
    const found = this.data(side);
    const [columns, rows] = [found.x.length, found.y.length];
    const [low, high] = this.scale.map(Math.log);
    const index = (loss) => Math.max(0, Math.min(255, Math.floor((256 * (Math.log(Math.max(loss, 1e-12)) - low)) / (high - low || 1))));
    const href = painted(columns, rows, (i, j) => rgb(colours, index(found.loss[(rows - 1 - j) * columns + i])));
    const [wide, tall] = [size / columns, size / rows];
    const at = (i, j) => [(i + 0.5) * wide, size - (j + 0.5) * tall];
    const box = s("rect", { class: "own", width: wide, height: tall, visibility: "hidden" });
    this.boxes.push([box, (k) => [(k % columns) * wide, size - (Math.floor(k / columns) + 1) * tall]]);
    const [cx, cy] = at(this.centre(found) % columns, Math.floor(this.centre(found) / columns));
    const name = this.explore.name(side);
    return s("g", { transform: `translate(${left} ${top})` },
      s("text", { class: `label ${side}`, y: -6, text: `${side.toUpperCase()}: ${name.length > size / 7 ? `${name.slice(0, Math.floor(size / 7))}…` : name}` }),
      s("image", { href, width: size, height: size, preserveAspectRatio: "none", "data-surface": side }),
      LEVELS.map((level) => s("path", { class: "contour", d: contour(found.loss, columns, rows, level, at) })), this.labels(found, columns, at),
      s("path", { class: "trained", d: `M${cx - 5},${cy}h10M${cx},${cy - 5}v10` }), box);
  }

  // Where the contours meet the middle row to the right, as far as there is room.
  labels(found, columns, at) {
    const row = Math.floor(this.centre(found) / columns);
    const line = found.loss.slice(row * columns, (row + 1) * columns);
    const placed = [];
    const [centre] = at(this.centre(found) % columns, row);
    return LEVELS.flatMap((level) => {
      const k = line.findIndex((loss, i) => i >= columns >> 1 && i + 1 < columns && loss < level && line[i + 1] >= level);
      if (k < 0) return [];
      const [x, y] = at(k + (level - line[k]) / (line[k + 1] - line[k]), row);
      if (Math.abs(x - centre) < 18 || placed.some((other) => Math.abs(other - x) < 20)) return [];
      placed.push(x);
      return [s("text", { class: "level", x, y: y + 3.5, "text-anchor": "middle", text: String(level) })];
    });
  }

  read(k) {
    for (const [box, corner] of this.boxes) {
      const [x, y] = corner(k);
      fill(box, { x, y, visibility: "visible" }, []);
    }
    const { x, y } = this.data(this.sides()[0]);
    const there = (found) => found.x.length === x.length && found.x[k % x.length] === x[k % x.length] && found.y[Math.floor(k / x.length)] === y[Math.floor(k / x.length)];
    this.tell(`At (${minus(String(x[k % x.length]))}, ${minus(String(y[Math.floor(k / x.length)]))}): ${this.both((found) => (there(found) ? `${three(found.loss[k])} nat` : null))}.`);
  }

  list(found) { return found.loss.map((loss, k) => ({ x: found.x[k % found.x.length], y: found.y[Math.floor(k / found.x.length)], loss, n: found.n })); }
}

// Lines of one level through a grid of values, straight within every cell of four neighbours (marching squares).
function contour(values, columns, rows, level, at) {
  const found = [];
  for (let j = 0; j + 1 < rows; j++) {
    for (let i = 0; i + 1 < columns; i++) {
      const corners = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]];
      const height = corners.map(([x, y]) => values[y * columns + x]);
      if (height.some((value) => !known(value))) continue;
      const cuts = corners.flatMap((corner, k) => {
        const [next, from, to] = [corners[(k + 1) % 4], height[k], height[(k + 1) % 4]];
        if ((from < level) === (to < level)) return [];
        const share = (level - from) / (to - from);
        return [at(corner[0] + share * (next[0] - corner[0]), corner[1] + share * (next[1] - corner[1]))];
      });
      for (let k = 0; k + 1 < cuts.length; k += 2) found.push(`M${cuts[k].map((each) => each.toFixed(1))}L${cuts[k + 1].map((each) => each.toFixed(1))}`);
    }
  }
  return found.join("");
}

// Curves along the first direction.
class Along extends View {
  paint(sides) {
    const { x } = this.data(sides[0]);
    const share = (step) => (step - x[0]) / (x[x.length - 1] - x[0]);
    const series = sides.map((side) => ({ side, low: null, high: null, ...this.curve(this.data(side)), depth: this.data(side).x.map(share), kind: [] })).filter((each) => each.value);
    if (!series.length) return;
    const stations = [x[0], 0, x[x.length - 1]].map((step) => [share(step), step ? minus(String(step)) : "trained weights"]);
    const words = `${this.card.title} of ${sides.map((side) => this.explore.name(side)).join(" and ")}`;
    const chart = new Reader(this.explore, this.card, { log: false, line: 0 }, series, { points: x.map(share), stations, words, height: 190, say: (k) => this.say(k) });
    this.say(x.length - 1);
    return { chart };
  }

  say(k) {
    const { x } = this.data(this.sides()[0]);
    this.tell(`At a step of ${minus(String(x[k]))}: ${this.both((found) => (found.x[k] === x[k] ? this.written(found, k) : null))}.`);
  }
}

class Slice extends Along {
  constructor(explore) { super(explore, "slice", "Rise along one direction", "loss above that of the trained weights, nat", "network"); this.part = "landscape"; }
  curve(found) { return found.rise; }
  written({ rise }, k) { return `${interval(three, [rise.value[k], rise.low[k], rise.high[k]])} nat above`; }
  list(found) { return found.x.map((step, k) => ({ step, value: found.rise.value[k], low: found.rise.low[k], high: found.rise.high[k], n: found.n })); }
}

class Norm extends Along {
  constructor(explore) { super(explore, "norm", "The weights' norm along it", "change of ½ Σ w², which is no matter of data", "network"); this.part = "landscape"; }
  curve(found) { return { value: found.norm }; }
  written({ norm }, k) { return norm ? three(norm[k]) : null; }
  list(found) { return (found.norm || []).map((value, k) => ({ step: found.x[k], value })); }
}
