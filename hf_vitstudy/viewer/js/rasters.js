// Many small tiles of each network side by side: probes of single tokens, position embeddings, filters.

// `raster` of a side says how its tiles are laid out and coloured; the pointer or the arrow keys read one tile after the other.
class Rasters extends View {
  stacked() { return false; }

  paint(sides) {
    const { card } = this;
    const [width, gap, top] = [Math.max(240, Math.floor(card.body.clientWidth)), 14, 18];
    const room = this.stacked() ? Math.min(width, 300) : sides.length > 1 ? Math.min(250, Math.floor((width - gap) / 2)) : Math.min(width, 300);
    let [x, y] = [0, top];
    this.parts = sides.map((side) => {
      const tiles = this.raster(side);
      const [across, down] = [tiles.columns * (tiles.wide + tiles.gap) - tiles.gap, tiles.rows * (tiles.high + tiles.gap) - tiles.gap];
      const scale = Math.min(room / across, room / down);
      const part = { side, tiles, across, down, x, y, scale, frame: s("rect", { class: "own", visibility: "hidden" }) };
      if (this.stacked()) y += down * scale + top + 6;
      else x += room + gap;
      return part;
    });
    const bottom = Math.max(...this.parts.map((part) => part.y + part.down * part.scale));
    const below = this.under(sides, bottom + 12, width);
    const height = bottom + 12 + below.height;
    card.svg = s("svg", { class: "pictures", width, height, viewBox: `0 0 ${width} ${height}`, "aria-label": `${card.title}: arrow keys read the tiles` }, this.parts.map((each) => this.network(each)), below.node);
    const last = this.parts.reduce((sum, { tiles }) => sum + tiles.count, 0) - 1;
    readable(card.svg, { nearest: (event) => this.nearest(event), last, read: (k) => this.read(k) });
    card.body.append(card.svg);
    this.tell(this.summary());
  }

  network({ side, tiles, across, down, x, y, scale, frame }) {
    const [width, height] = [across * scale, down * scale];
    const inside = (at, tile) => at % (tile + tiles.gap) < tile;
    const colour = (i, j) => {
      const k = tileAt(tiles, i, j);
      return k < tiles.count && inside(i, tiles.wide) && inside(j, tiles.high) ? tiles.colour(k, i % (tiles.wide + tiles.gap), j % (tiles.high + tiles.gap)) : [0, 0, 0, 0];
    };
    return s("g", { transform: `translate(${x} ${y})` }, s("text", { class: `label ${side}`, y: -6, text: `${side.toUpperCase()}${tiles.note}` }),
      s("image", { href: painted(across, down, colour), width, height, preserveAspectRatio: "none", "data-raster": side }), frame);
  }

  // The tile under the pointer, counted through both networks; null between and beside them.
  nearest(event) {
    const box = this.card.svg.getBoundingClientRect();
    let before = 0;
    for (const { tiles, x, y, scale, across, down } of this.parts) {
      const [i, j] = [(event.clientX - box.left - x) / scale, (event.clientY - box.top - y) / scale];
      const k = tileAt(tiles, i, j);
      if (i >= 0 && j >= 0 && i < across && j < down && k < tiles.count) return before + k;
      before += tiles.count;
    }
    return null;
  }

  read(k) {
    let left = k;
    for (const { side, tiles, scale, frame } of this.parts) {
      const here = left >= 0 && left < tiles.count;
      if (here) {
        const [row, column] = [Math.floor(left / tiles.columns), left % tiles.columns];
        const place = { x: column * (tiles.wide + tiles.gap) * scale, y: row * (tiles.high + tiles.gap) * scale, width: tiles.wide * scale, height: tiles.high * scale };
        for (const [name, value] of Object.entries(place)) frame.setAttribute(name, value.toFixed(1));
        this.tell(this.say(side, left));
      }
      frame.setAttribute("visibility", here ? "visible" : "hidden");
      left -= tiles.count;
    }
  }
}

// The number of the tile at a pixel, the gap after it included.
const tileAt = ({ columns, wide, high, gap }, x, y) => Math.floor(y / (high + gap)) * columns + Math.floor(x / (wide + gap));
const cellOf = (k, columns) => `row ${Math.floor(k / columns) + 1}, column ${(k % columns) + 1}`;

// What a linear classifier reads off every single token at the top.
class TokenProbes extends Rasters {
  constructor(explore) { super(explore, "tokens", "Probes of single tokens", "accuracy, %, of a probe of one token at the top", "network"); }

  ends() {
    const all = this.sides().map((side) => this.data(side));
    return [Math.min(...all.map((found) => found.chance ?? 0)), Math.max(...all.flatMap((found) => found.spatial[0]).filter(known))];
  }

  raster(side) {
    const found = this.data(side);
    const [low, high] = this.ends();
    const { magma } = this.explore.page.study;
    const shade = (value) => Math.max(0, Math.min(255, Math.floor((256 * (value - low)) / (high - low || 1))));
    return { columns: found.grid[1], rows: found.grid[0], wide: 1, high: 1, gap: 0, count: found.spatial[0].length, note: "", colour: (k) => (known(found.spatial[0][k]) ? rgb(magma, shade(found.spatial[0][k])) : [0, 0, 0, 0]) };
  }

  under(sides, y, width) {
    const first = (found) => found.prefix.map((end) => end[0]);
    const rows = [["class token", (found) => (found.prefix[0].length ? first(found) : null)], ["mean of places", (found) => found.mean]].map(([name, read]) => ({
      name, ...Object.fromEntries(sides.map((side) => [side, read(this.data(side))]).filter(([, numbers]) => numbers)), lines: sides.map((side) => [side, this.data(side).chance]),
    })).filter((row) => row.a || row.b);
    const [low, high] = this.ends();
    const shares = new DotRows(rows, { x: 0, y: y + 46, width, low: 0, high: 100, label: 96, unit: "accuracy, %; ticks: chance" });
    const bar = colourBar(this.explore.page.study.magma, { x: 0, y: y - 8, width, title: "", ends: [`${three(low)} %`, `${three(high)} %`] });
    return { node: s("g", {}, bar, shares.node), height: 46 + shares.height };
  }

  summary() {
    const text = (found) => { const mean = `${interval(three, found.mean)} %`; return found.prefix[0].length ? `${mean} (class token ${three(found.prefix[0][0])} %)` : mean; };
    return `Mean over the places: ${this.both(text)}.`;
  }

  say(side, k) {
    const { grid, spatial } = this.data(side);
    return `${side.toUpperCase()}, ${cellOf(k, grid[1])}: ${interval(three, spatial.map((end) => end[k]))} % right by this token alone.`;
  }

  list(found) {
    const row = (token, ends, k) => ({ token, value: ends[0][k], low: ends[1][k], high: ends[2][k], chance: found.chance, n: found.n });
    return [...found.prefix[0].map((_, k) => row(`prefix ${k}`, found.prefix, k)), ...found.spatial[0].map((_, k) => row(cellOf(k, found.grid[1]), found.spatial, k)), row("mean of places", found.mean.map((end) => [end]), 0)];
  }
}

// How alike the learnt positions of places are: one small map for each of them.
class Positions extends Rasters {
  constructor(explore) { super(explore, "positions", "Position embeddings", "cosine of a place's embedding with all; one map per place", "weights"); }

  // In hundredths, null where there is none.
  cosine(side, k, other) {
    const found = this.data(side);
    found.numbers ||= atob(found.cosine);
    const number = found.numbers.charCodeAt(k * found.grid[0] * found.grid[1] + other);
    return number > 200 ? null : number - 100;
  }

  raster(side) {
    const [rows, columns] = this.data(side).grid;
    const { diverging } = this.explore.page.study;
    const colour = (k, i, j) => { const found = this.cosine(side, k, j * columns + i); return known(found) ? rgb(diverging, Math.round(127.5 + 1.275 * found)) : [0, 0, 0, 0]; };
    return { columns, rows, wide: columns, high: rows, gap: 1, count: rows * columns, note: `, ${rows} × ${columns} places`, colour };
  }

  under(sides, y, width) { return { node: colourBar(this.explore.page.study.diverging, { x: 0, y: y - 8, width, title: "", ends: ["−1", "0", "1"] }), height: 32 }; }

  summary() {
    const parts = Object.keys(this.data(this.sides()[0]).share).join(" / ");
    const shares = this.both((found) => `${Object.values(found.share).map(three).join(" / ")} %`);
    return `Rank correlation with distance: ${this.both((found) => three(found.correlation))}. Of the variance, ${parts}: ${shares}.`;
  }

  say(side, k) {
    const [rows, columns] = this.data(side).grid;
    const others = Array.from({ length: rows * columns }, (_, other) => other).filter((other) => other !== k && known(this.cosine(side, k, other)));
    if (!others.length) return `${side.toUpperCase()}, ${cellOf(k, columns)}: no direction.`;
    const by = (sign) => others.reduce((best, other) => (sign * this.cosine(side, k, other) > sign * this.cosine(side, k, best) ? other : best));
    const text = (other) => `${cellOf(other, columns)} (${minus((this.cosine(side, k, other) / 100).toFixed(2))})`;
    return `${side.toUpperCase()}, ${cellOf(k, columns)}: most like ${text(by(1))}, least like ${text(by(-1))}.`;
  }

  list(found, side) {
    const [rows, columns] = found.grid;
    const at = (k, name) => ({ [`${name}_row`]: Math.floor(k / columns) + 1, [`${name}_column`]: (k % columns) + 1 });
    return Array.from({ length: (rows * columns) ** 2 }, (_, k) => {
      const [place, other] = [Math.floor(k / rows / columns), k % (rows * columns)];
      const cosine = this.cosine(side, place, other);
      return { ...at(place, "place"), ...at(other, "other"), cosine: known(cosine) ? cosine / 100 : null };
    });
  }
}

// What the first layer's filters are made of.
class Filters extends Rasters {
  constructor(explore) { super(explore, "filters", "Filters of the first layer", "principal components, each over its own largest value", "weights"); }

  stacked() { return true; }

  raster(side) {
    const found = this.data(side);
    found.numbers ||= atob(found.colours);
    const { count, rows, columns } = found;
    const colour = (k, i, j) => [0, 1, 2].map((channel) => found.numbers.charCodeAt(((k * rows + j) * columns + i) * 3 + channel)).concat(255);
    return { columns: ACROSS, rows: Math.ceil(count / ACROSS), wide: columns, high: rows, gap: Math.max(1, Math.floor(columns / 8)), count, note: `, ${found.layer}, ${rows} × ${columns} px`, colour };
  }

  under() { return { node: [], height: 0 }; }
  summary() { return `The first five components make up ${this.both((found) => `${three(found.share.slice(0, 5).reduce((sum, share) => sum + share, 0))} %`)} of the variance.`; }
  say(side, k) {
    const found = this.data(side);
    return `${side.toUpperCase()}, component ${k + 1}: ${three(found.share[k])} % of the variance, correlation of neighbouring pixels ${three(found.smooth[k])}.`;
  }
  list(found) { return found.share.map((share, k) => ({ component: k + 1, layer: found.layer, share_of_variance: share, neighbour_correlation: found.smooth[k] })); }
}

const ACROSS = 7;  // tiles in a row, as in the paper
