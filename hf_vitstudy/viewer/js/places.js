// What a place of a network depends on, and what it stands for.

const painters = new Map();

// A picture of colour numbers in base64, painted once.
function imageOf(text, columns, rows, colours) {
  if (!painters.has(text)) {
    const numbers = atob(text);
    painters.set(text, painted(columns, rows, (x, y) => rgb(colours, numbers.charCodeAt(y * columns + x))));
  }
  return painters.get(text);
}

// Maps over the image of the two places that are selected.
class Fields extends View {
  constructor(explore) {
    super(explore, "fields", "Receptive fields", "of the two selected places; each over its own peak", "fields");
    this.part = "receptive";
  }

  paint() {
    const { explore, card } = this;
    const [width, gap, top] = [Math.max(240, Math.floor(card.body.clientWidth)), 14, 18];
    const size = Math.min(220, Math.floor((width - gap) / 2));
    const svg = s("svg", { class: "pictures", width, height: size + top + 72, viewBox: `0 0 ${width} ${size + top + 72}`, role: "img", "aria-label": "Receptive fields of the selected places; the sentence above says how wide they are" });
    this.frames = [0, 1].map((k) => {
      const frame = { label: s("text", { class: "label", y: -6 }), image: s("image", { width: size, height: size }), bar: s("path", { class: "span" }), width: s("text", { y: size + 16, x: 0 }) };
      svg.append(s("g", { transform: `translate(${k * (size + gap)} ${top})` }, frame.label, s("rect", { class: "undefined", width: size, height: size }), frame.image, frame.bar, frame.width));
      return frame;
    });
    this.size = size;
    svg.append(colourBar(explore.page.study.magma, { x: 0, y: top + size + 30, width: 2 * size + gap, title: "", ends: ["0.001 of the peak", "0.01", "0.1", "1"] }));
    card.body.append(svg);
    card.svg = svg;
    return { mark: () => this.place() };
  }

  place() {
    const { explore } = this;
    explore.ends().forEach(([side, k], at) => {
      const [frame, found] = [this.frames[at], this.data(side)];
      const text = found?.picture[k];
      frame.label.setAttribute("class", `label ${side}`);
      frame.label.textContent = `${side.toUpperCase()} ${explore.pair[side].places.name[k]}`;
      if (text) frame.image.setAttribute("href", imageOf(text, found.columns, found.rows, explore.page.study.magma));
      else frame.image.removeAttribute("href");
      this.span(frame, side, k);
    });
    this.tell(...explore.ends().map(([side, k], at) => this.sentence(side, k, at)));
    this.card.refresh();
  }

  // A bar as long as the radius, in the scale of the picture.
  span(frame, side, k) {
    const radius = this.radius(side, k);
    const sides = this.explore.page.study.checkpoints[this.explore.page.state[side]].image_size;
    const [long, y] = [radius && sides ? (radius[0] / sides[1]) * this.size : 0, this.size + 6];
    frame.bar.setAttribute("d", long ? `M0.5,${y - 3}v6M0.5,${y}h${long.toFixed(1)}M${(long + 0.5).toFixed(1)},${y - 3}v6` : "");
    frame.width.setAttribute("x", long ? Math.min(long + 6, this.size - 92) : 0);
    frame.width.setAttribute("y", this.size + (long + 98 > this.size ? 20 : 10));
    frame.width.textContent = radius ? `half within ${three(radius[0])} px` : "";
  }

  radius(side, k) {
    const curve = this.explore.pair[side].curves.receptive;
    const at = curve ? curve.place.indexOf(k) : -1;
    return at < 0 ? null : [curve.value[at], curve.low[at], curve.high[at]];
  }

  sentence(side, k, at) {
    const [radius, place] = [this.radius(side, k), `${this.explore.pair[side].places.name[k]} of ${side.toUpperCase()}`];
    if (!radius) return `${place}: not measured${at ? "." : ";"}`;
    return at ? `and within ${interval(three, radius)} px for ${place}.` : `Half of the gradient lies within ${interval(three, radius)} px of the centre for ${place},`;
  }

  rows() {
    return this.explore.ends().flatMap(([side, k]) => {
      const found = this.data(side);
      if (!found?.picture[k]) return [];
      const [numbers, place] = [atob(found.picture[k]), this.explore.pair[side].places.name[k]];
      const share = (at) => Number((10 ** (found.decades * (numbers.charCodeAt(at) / 256 - 1))).toPrecision(3));
      return Array.from({ length: found.rows * found.columns }, (_, at) => ({ ...this.named(side), place, row: Math.floor(at / found.columns), column: at % found.columns, share_of_peak: share(at) }));
    });
  }
}

// Which patch of the image tokens of the last blocks are most like.
class Localisation extends View {
  constructor(explore) { super(explore, "localisation", "Localisation", "CKA of one token with every patch", "network"); }

  maps(side) { return this.explore.below.file("fields", side)?.localisation || null; }

  // The selected place where it was measured there, else the last one.
  block(side) {
    const found = this.data(side);
    const at = found ? found.place.findIndex((place) => this.explore.selected()[side].includes(place)) : -1;
    return at < 0 && found ? found.name.length - 1 : at;
  }

  paint(sides) {
    const { card, explore } = this;
    this.shown = ["a", "b"].map((side) => this.block(side)).join(" ");
    const [width, left, top, gap] = [Math.max(240, Math.floor(card.body.clientWidth)), 18, 14, 8];
    const size = Math.floor(Math.min(84, (width - left - 2 * gap) / 3));
    const mapped = sides.filter((side) => this.maps(side));
    const cells = mapped.flatMap((side) => this.maps(side).cka[this.block(side)]);
    const peak = Math.max(1, ...cells.flat().filter(known));
    let y = top;
    const parts = mapped.length ? [Object.keys(this.maps(mapped[0]).token).map((name, k) => s("text", { x: left + k * (size + gap), y: 9, text: name }))] : [];
    for (const side of mapped) {
      parts.push(s("text", { class: `label ${side}`, transform: `translate(11 ${y + size / 2}) rotate(-90)`, "text-anchor": "middle", text: side.toUpperCase() }));
      parts.push(...Object.values(this.maps(side).token).map((token, k) => this.map(side, k, token, { x: left + k * (size + gap), y, size, peak })));
      y += size + gap;
    }
    if (mapped.length) parts.push(s("text", { x: left, y: y + 6, text: `black 0, brightest ${(peak / 1000).toFixed(2)}; square: its own patch` }));
    const shares = new DotRows(this.shares(sides), { x: 0, y: y + (mapped.length ? 22 : 0), width, low: 0, high: 100, label: 66, unit: "% of tokens at their own patch" });
    const height = y + (mapped.length ? 22 : 0) + shares.height;
    card.svg = s("svg", { class: "pictures", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Localisation; the sentence above says the shares" }, parts, shares.node);
    card.body.append(card.svg);
    const said = this.both((found, side) => `${this.written(found, this.block(side), 0)} at ${found.name[this.block(side)]} (chance ${three(found.chance[0])} %)`);
    this.tell(`Tokens most like their own patch: ${said}.`);
    return { mark: () => { if (this.shown !== ["a", "b"].map((side) => this.block(side)).join(" ")) this.draw(); } };
  }

  written(found, block, region) { const [value, low, high] = found.share[block][region]; return known(low) ? `${three(value)} % [${three(low)}, ${three(high)}]` : `${three(value)} %`; }

  map(side, k, token, { x, y, size, peak }) {
    const { grid, cka } = this.maps(side);
    const [rows, columns] = grid;
    const cells = cka[this.block(side)][k];
    const colours = this.explore.page.study.magma;
    const href = painted(columns, rows, (i, j) => (known(cells[j * columns + i]) ? rgb(colours, Math.max(0, Math.min(255, Math.floor((256 * cells[j * columns + i]) / peak)))) : [0, 0, 0, 0]));
    const [wide, high] = [size / columns, size / rows];
    return s("g", { transform: `translate(${x} ${y})` }, s("rect", { class: "undefined", width: size, height: size }),
      s("image", { href, width: size, height: size, preserveAspectRatio: "none", "data-token": `${side} ${k}` }),
      s("rect", { class: "own", x: (token % columns) * wide, y: Math.floor(token / columns) * high, width: wide, height: high }));
  }

  shares(sides) {
    const regions = this.data(sides[0]).region;
    return regions.map((name, k) => ({ name, ...Object.fromEntries(sides.map((side) => [side, this.data(side).share[this.block(side)][k]])), lines: sides.map((side) => [side, this.data(side).chance[k]]) }));
  }

  list(found) {
    return found.name.flatMap((place, block) => found.region.map((region, k) => {
      const [value, low, high] = found.share[block][k];
      return { place, region, value, low, high, chance: found.chance[k], n: found.n };
    }));
  }
}

// Rows of values of A (circles) and B (squares) with their intervals over one axis; `lines` are references, such as chance.
class DotRows {
  constructor(rows, { x, y, width, low, high, label, unit, step = 17 }) {
    Object.assign(this, { rows, y, step });
    const [left, right] = [label, width - 12];
    this.at = (value) => left + ((value - low) / (high - low)) * (right - left);
    this.height = rows.length * step + 34;
    const bottom = rows.length * step + 4;
    const ticks = [0, 0.25, 0.5, 0.75, 1].map((share) => low + share * (high - low));
    this.node = s("g", { class: "chart dotrows", transform: `translate(${x} ${y})` },
      ticks.map((value) => [s("line", { class: "rule", x1: this.at(value), x2: this.at(value), y1: 0, y2: bottom }), s("text", { class: "tick", x: this.at(value), y: bottom + 13, "text-anchor": "middle", text: minus(String(Number(value.toPrecision(3)))) })]),
      s("text", { class: "tick", x: (left + right) / 2, y: bottom + 27, "text-anchor": "middle", text: unit }),
      rows.map((row, k) => this.row(row, k)));
  }

  middle(k) { return k * this.step + this.step / 2 + 2; }

  row(row, k) {
    const y = this.middle(k);
    const here = (side) => y + (side === "a" ? -3.2 : 3.2);
    const dot = (side) => {
      const [value, low, high] = row[side];
      return s("g", { class: side }, known(low) ? s("line", { class: "whisker", x1: this.at(low), x2: this.at(high), y1: here(side), y2: here(side) }) : null,
        Plot.prototype.sign({ side }, this.at(value), here(side), 2.8, "sign"));
    };
    return s("g", {}, s("text", { class: "name", x: 0, y: y + 3.5, text: row.name }),
      (row.lines || []).filter(([, value]) => known(value)).map(([side, value]) => s("line", { class: `reference ${side}`, x1: this.at(value), x2: this.at(value), y1: here(side) - 3, y2: here(side) + 3 })),
      ["a", "b"].filter((side) => row[side] && known(row[side][0])).map(dot));
  }
}
