// What accuracy is lost to: parts taken away, noise of one frequency, corruptions.

// Lesions and the removal of skips: what is lost without each part, along depth.
class Removal extends View {
  constructor(explore, key, title) {
    super(explore, key, title, key === "lesions" ? "accuracy lost, points; open: attention, small: one convolution" : "accuracy lost without one skip, points; open: attention", "network");
  }

  paint(sides) {
    const series = sides.flatMap((side) => {
      const found = this.data(side);
      const kinds = [...new Set(found.kind)].sort((x, y) => (x === "convolution") - (y === "convolution")).reverse();
      return kinds.map((kind) => {
        const chosen = found.kind.flatMap((each, k) => (each === kind ? [k] : []));
        const pick = (values) => chosen.map((k) => values[k]);
        const [value, low, high, depth, place, name] = [found.value, found.low, found.high, found.depth, found.place, found.name].map(pick);
        return { side, whiskers: true, open: kind === "attention", thin: kind === "convolution", value, low, high, depth, place, name, kind: [] };
      });
    });
    const chart = new Chart(this.explore, this.card, { log: false, line: 0, zero: true }, series, 190);
    return { chart, mark: (marked) => { chart.mark(marked); this.speak(marked); } };
  }

  speak(marked) {
    const said = this.sides().flatMap((side) => marked[side].map((place) => {
      const found = this.data(side);
      const parts = found.place.flatMap((at, k) => (at === place ? [`${interval(three, [found.value[k], found.low[k], found.high[k]])} points without ${this.part_(found.name[k])}`] : []));
      const name = this.explore.pair[side].places.name[place];
      return parts.length ? `${side.toUpperCase()} loses ${parts.join(", ")}` : `${side.toUpperCase()} has nothing to leave out at ${name}`;
    }));
    this.tell(said.length ? `${said.join("; ")}.` : "");
    if (this.card.node.querySelector("details").open) this.card.refresh();
  }

  part_(name) { return this.key === "lesions" ? name : `the skip of ${name}`; }
  list(found) { return found.name.map((part, k) => ({ part, kind: found.kind[k], depth: found.depth[k], value: found.value[k], low: found.low[k], high: found.high[k], accuracy_whole: found.whole[0], n: found.n })); }
}

class Noise extends View {
  constructor(explore) { super(explore, "noise", "Noise of one frequency", "accuracy lost, points; equal energy in every band", "network"); }

  paint(sides) {
    const { explore } = this;
    const points = this.data(sides[0]).x;
    const series = sides.map((side) => { const found = this.data(side); return { side, ...found, depth: found.x, kind: [] }; });
    const stations = [[0, "0"], [0.25, "0.25π"], [0.5, "frequency"], [0.75, "0.75π"], [1, "π"]];
    const words = `Accuracy lost to noise by its frequency, of ${sides.map((side) => explore.name(side)).join(" and ")}`;
    const chart = new Reader(explore, this.card, { log: false, line: 0, zero: true, headroom: explore.pair.crossing ? 0.18 : 0 }, series, { points, stations, words, height: 300, say: (k) => this.say(k) });
    if (explore.pair.crossing) chart.node.append(this.crossing(chart, explore.pair.crossing));
    this.tell(this.summary());
    return chart && { chart };
  }

  crossing(chart, [value, low, high]) {
    const y = chart.box.top + 24;
    const [middle, left, right] = [value, low, high].map((at) => chart.x(at));
    return s("g", { class: "crossing" }, s("line", { x1: middle, x2: middle, y1: y, y2: chart.box.bottom, class: "fall" }),
      s("path", { d: `M${left},${y}H${right}M${middle},${y - 5}v10` }),
      s("text", { x: Math.max(chart.box.left + 70, Math.min(chart.box.right - 70, middle)), y: y - 9, "text-anchor": "middle", text: `cross at ${three(value)}π` }));
  }

  summary() {
    const clean = `Without noise ${this.both((found) => `${three(found.whole)} %`)} right.`;
    const cross = this.explore.pair.crossing;
    return cross ? `${clean} The curves cross at a frequency of ${three(cross[0])}π [${three(cross[1])}π, ${three(cross[2])}π].` : clean;
  }

  say(k) {
    const x = this.data(this.sides()[0]).x[k];
    this.tell(`Noise at ${x}π: ${this.both((found) => (found.x[k] === x ? `loses ${interval(three, [found.value[k], found.low[k], found.high[k]])} points` : null))}.`);
  }

  list(found) { return found.x.map((x, k) => ({ frequency_pi: x, value: found.value[k], low: found.low[k], high: found.high[k], accuracy_clean: found.whole, strength: found.strength, n: found.n })); }
}

class Corruptions extends View {
  constructor(explore) { super(explore, "corruptions", "Common corruptions", "accuracy, %, mean over severities; ticks: the same images as they are", "network"); }

  paint(sides) {
    const { card } = this;
    const width = Math.max(240, Math.floor(card.body.clientWidth));
    const kinds = [...new Set(sides.flatMap((side) => Object.keys(this.data(side).kinds)))];
    const level = (kind) => mean(sides.map((side) => this.data(side).kinds[kind]?.[0]).filter(known));
    this.order = [...kinds.sort((x, y) => level(x) - level(y)), "mean of all"];
    const rows = this.order.map((kind) => ({
      name: kind.replace(/_/g, " "), lines: sides.map((side) => [side, this.data(side).whole[0]]),
      ...Object.fromEntries(sides.map((side) => [side, this.one(this.data(side), kind)]).filter(([, found]) => found)),
    }));
    const drawn = new DotRows(rows, { x: 0, y: 0, width, low: 0, high: 100, label: 108, unit: "accuracy, %", step: 16.6 });
    this.line = s("rect", { class: "reading", x: 0, width, height: 16.6, visibility: "hidden" });
    card.svg = s("svg", { class: "chart", width, height: drawn.height, viewBox: `0 0 ${width} ${drawn.height}`, "aria-label": "Accuracy on corrupted images by kind: arrow keys read the values" }, this.line, drawn.node);
    const step = (event) => Math.floor((event.clientY - card.svg.getBoundingClientRect().top - 2) / 16.6);
    readable(card.svg, { nearest: (event) => Math.max(0, Math.min(rows.length - 1, step(event))), last: rows.length - 1, read: (k) => { this.line.setAttribute("y", drawn.middle(k) - 8.3); this.line.setAttribute("visibility", "visible"); this.say(this.order[k]); } });
    card.body.append(card.svg);
    this.say("mean of all");
  }

  one(found, kind) { return kind === "mean of all" ? found.mean : found.kinds[kind] || null; }
  say(kind) {
    const words = this.both((found) => { const numbers = this.one(found, kind); return numbers ? `${interval(three, numbers)} % of ${three(found.whole[0])} %` : null; });
    this.tell(`${kind === "mean of all" ? "Mean of all" : kind.replace(/_/g, " ")}: ${words} without.`);
  }
  list(found) { return [...Object.entries(found.kinds), ["mean of all", found.mean]].map(([kind, [value, low, high]]) => ({ kind, value, low, high, accuracy_clean: found.whole[0], severities: found.severities.join(" "), n: found.n })); }
}

// What attackers who know the network leave of its accuracy.
class Attacks extends View {
  constructor(explore) { super(explore, "attacks", "Adversarial attacks", "accuracy, %, by the largest change of a pixel, ε; open: one step", "network"); }

  paint(sides) {
    const { explore } = this;
    this.x = [...new Set(sides.flatMap((side) => this.data(side).x))].sort((x, y) => x - y);
    const points = this.x.map((_, k) => k / Math.max(1, this.x.length - 1));
    const series = sides.flatMap((side) => Object.entries(this.data(side).by).map(([name, found]) => {
      const depth = this.data(side).x.map((size) => points[this.x.indexOf(size)]);
      const [low, high] = name === "pgd" ? [found.low, found.high] : [null, null]; // four bands would hide each other
      return { side, value: found.value, low, high, depth, kind: depth.map(() => (name === "pgd" ? "" : "attention")) };
    }));
    const stations = this.x.map((size, k) => [points[k], k ? `${size}/255` : "none"]);
    const words = `Accuracy under attack of ${sides.map((side) => explore.name(side)).join(" and ")}`;
    const chart = new Reader(explore, this.card, { log: false, line: null, ticks: [0, 25, 50, 75, 100] }, series, { points, stations, words, height: 290, say: (k) => this.say(k) });
    this.say(this.x.length - 1);
    return { chart };
  }

  say(k) {
    const at = (found, name) => { const here = found.x.indexOf(this.x[k]); const ends = found.by[name]; return here < 0 || !ends ? null : `${interval(three, [ends.value[here], ends.low[here], ends.high[here]])} %`; };
    if (!k) { this.tell(`Without attack: ${this.both((found) => at(found, "pgd") || at(found, "fgsm"))}.`); return; }
    const [many, one] = ["pgd", "fgsm"].map((name) => this.both((found) => at(found, name)));
    this.tell(`At ε = ${this.x[k]}/255${many ? ` many steps leave ${many}` : ""}${many && one ? ";" : ""}${one ? ` one step leaves ${one}` : ""}.`);
  }

  list(found) {
    return Object.entries(found.by).flatMap(([attack, ends]) => found.x.map((size, k) => ({ attack, epsilon_255: size, value: ends.value[k], low: ends.low[k], high: ends.high[k], n: found.n })));
  }
}

// The pointer or the arrow keys read one of several things that a drawing shows.
function readable(node, { nearest, last, read }) {
  let now = null;
  const at = (k) => { if (k !== now && known(k)) { now = k; read(k); } };
  fill(node, {
    tabindex: 0, role: "application",
    on: {
      pointermove: (event) => at(nearest(event)), pointerdown: (event) => at(nearest(event)),
      keydown: (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!step) return;
        at(known(now) ? Math.max(0, Math.min(last, now + step)) : step > 0 ? 0 : last);
        event.preventDefault();
      },
    },
  }, []);
}
