// Curves along depth.

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
  card.svg = null;
  const chart = series.length ? new Chart(explore, card, about, series, TALL[card.key]) : null;
  const lacking = ["a", "b"].filter((side) => !series.some((each) => each.side === side));
  if (lacking.length) card.body.append(h("div", { class: chart ? "lacking" : "lacking alone" }, lacking.map((side) => missing(explore, card.key, side))));
  return chart;
}

// Why a view has nothing of one network, in one line: a reason, or what would measure it.
function missing(explore, key, side) {
  const { page, pair } = explore;
  const analysis = page.study.analyses[key];
  const reason = pair[side].absent?.[analysis.split(":")[0]] || (key === "class_skip" && pair[side].curves.skip ? "no class token in this network" : null);
  const images = page.study.checkpoints[page.state[side]].images.name;
  const sign = h("b", { class: side, text: side.toUpperCase() });
  return h("p", { class: "mute small none" }, ...(reason ? [sign, `: ${reason}.`]
    : ["Not measured in ", sign, ": ", h("code", { text: `vitstudy measure ${explore.name(side)} --images ${images} --analyses ${analysis}` })]));
}

const TALL = { receptive: 270, class_skip: 190 };  // px, of those that stand beside pictures
const FROM_ZERO = new Set(["heads", "probes", "receptive"]);

// Curves of A and B over one axis from 0 to 1; what is below says what the axis is and what follows the pointer.
class Plot {
  constructor(explore, card, about, series, height = 158) {
    Object.assign(this, { explore, card, about, series, height });
    this.width = Math.max(240, Math.floor(card.body.clientWidth));
    this.box = { left: 40, right: this.width - 10, top: 8, bottom: height - 24 };
    this.scale();
    this.rings = s("g", { class: "rings" });
    this.node = s("svg", {
      class: "chart", width: this.width, height, viewBox: `0 0 ${this.width} ${height}`, role: "img", "aria-label": this.words(), ...this.manners(),
    }, this.axes(), series.map((each) => this.curve(each)), this.rings);
    card.body.append(this.node);
    card.svg = this.node;
  }

  manners() { return {}; }
  stations() { return [[0, "0"], [0.5, "relative depth"], [1, "1"]]; }

  words() {
    const missing = ["a", "b"].filter((side) => !this.series.some((each) => each.side === side)).map((side) => `; not measured in ${side.toUpperCase()}`);
    return `${this.card.title} along depth of ${this.series.map((each) => this.explore.name(each.side)).join(" and ")}${missing.join("")}. Values at the selection stand in the table above.`;
  }

  scale() {
    const all = this.series.flatMap((each) => [...each.value, ...(each.low ? [...each.low, ...each.high] : []), ...(each.dots ? each.dots.flat() : []), ...(each.uniform || [])]).filter(known);
    if (known(this.about.line)) all.push(this.about.line);
    const usable = this.about.log ? all.filter((value) => value > 0) : all;
    let [low, high] = [Math.min(...usable), Math.max(...usable)];
    if (FROM_ZERO.has(this.card.key) || this.about.zero) low = Math.min(0, low);
    if (!(high > low)) { low -= Math.abs(low) / 10 + 0.1; high += Math.abs(high) / 10 + 0.1; }
    if (this.about.ticks) [low, high] = [this.about.ticks[0], this.about.ticks.at(-1)];
    if (this.about.headroom) high += this.about.headroom * (high - low);
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
    if (this.about.ticks) return this.about.ticks;
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
      this.stations().map(([depth, text]) => s("text", { class: "tick", x: this.x(depth), y: bottom + 16, "text-anchor": "middle", text })),
      s("line", { class: "axisline", x1: left, x2: right, y1: bottom, y2: bottom }));
  }

  curve(each) {
    if (each.whiskers) return this.parts(each);
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

  // Single values with their intervals, joined by a thin line.
  parts(each) {
    const there = each.value.map((_, k) => k).filter((k) => known(each.value[k]));
    const [x, y] = [(k) => this.x(each.depth[k]), (k) => this.y(each.value[k])];
    return s("g", { class: each.side },
      each.thin ? null : s("polyline", { class: "thread", points: there.map((k) => `${x(k).toFixed(1)},${y(k).toFixed(1)}`).join(" ") }),
      there.filter((k) => known(each.low[k])).map((k) => s("line", { class: "whisker", x1: x(k), x2: x(k), y1: this.y(each.low[k]), y2: this.y(each.high[k]) })),
      there.map((k) => this.sign(each, x(k), y(k), each.thin ? 1.9 : 3, each.open ? "sign open" : "sign")));
  }

  // A is a circle, B a square.
  sign({ side }, x, y, r, look) {
    return side === "a" ? s("circle", { class: look, cx: x.toFixed(1), cy: y.toFixed(1), r })
      : s("rect", { class: look, x: (x - r).toFixed(1), y: (y - r).toFixed(1), width: 2 * r, height: 2 * r });
  }
}

// Along the depth of the networks, where a place of one can be chosen.
class Chart extends Plot {
  manners() {
    return { on: { pointermove: (e) => this.hover(e), pointerdown: (e) => this.hover(e), click: (e) => this.click(e) } };
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
      const found = each.place.flatMap((at, k) => (at === place && known(each.value[k]) ? [k] : []));
      return found.flatMap((k, count) => {
        const x = this.x(each.depth[k]);
        const stem = s("line", { class: `stem ${each.side}`, x1: x, x2: x, y1: this.box.top, y2: this.box.bottom });
        return [count ? null : stem, s("circle", { class: `ring ${each.side}`, cx: x, cy: this.y(each.value[k]), r: 6.5, "data-place": place })];
      });
    }));
    this.rings.replaceChildren(...rings.filter(Boolean));
  }
}

// Over any other axis: the pointer or the arrow keys read the values of both networks at one of its points, and say them.
class Reader extends Plot {
  constructor(explore, card, about, series, { points, stations, height, say, words }) {
    super(explore, card, { ...about, points, stations, words }, series, height);
    this.say = say;
  }

  words() { return `${this.about.words}: arrow keys read the values`; }
  stations() { return this.about.stations; }
  manners() {
    return { tabindex: 0, role: "application", on: { pointermove: (e) => this.point(e), pointerdown: (e) => this.point(e), keydown: (e) => this.key(e) } };
  }

  point(event) {
    const at = event.clientX - this.node.getBoundingClientRect().left;
    const away = this.about.points.map((depth) => Math.abs(this.x(depth) - at));
    this.read(away.indexOf(Math.min(...away)));
  }

  key(event) {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!step) return;
    const last = this.about.points.length - 1;
    this.read(known(this.at) ? Math.max(0, Math.min(last, this.at + step)) : step > 0 ? 0 : last);
    event.preventDefault();
  }

  read(at) {
    if (this.at === at) return;
    this.at = at;
    const x = this.x(this.about.points[at]);
    this.rings.replaceChildren(s("line", { class: "reading", x1: x, x2: x, y1: this.box.top, y2: this.box.bottom }));
    this.say(at);
  }
}
