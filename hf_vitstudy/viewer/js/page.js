// The page: its head, its parts, the state that all of them share, the files they fetch.

class Page {
  // `host`: what the surroundings add: `tabs` (name -> {title, make(page, panel)}), `link` (what Copy link begins with), and
  // `snippets` (page -> [[title, code]]).
  constructor(root, study, load, files, host = {}) {
    this.root = root;
    this.study = study;
    this.load = load;
    this.files = new Map(Object.entries(files || {}));
    this.host = { tabs: {}, link: "", snippets: () => [], ...host };
    const { methods, ...first } = TABS;
    const added = Object.fromEntries(Object.entries(this.host.tabs).map(([name, { title }]) => [name, title]));
    this.titles = { ...first, ...added, methods };
    this.state = this.asked();
    this.path = true;
    this.build();
    this.shown = this.show();
  }

  build() {
    const { study } = this;
    this.toast = h("p", { class: "toast", role: "status" });
    this.tabs = Object.entries(this.titles).map(([name, text]) =>
      h("button", { role: "tab", id: `vs-tab-${name}`, "aria-controls": `vs-${name}`, text, on: { click: () => this.go({ view: name }) } }));
    this.panels = Object.keys(this.titles).map((name) =>
      h("section", { role: "tabpanel", id: `vs-${name}`, "aria-labelledby": `vs-tab-${name}` }));
    const tabs = h("div", { role: "tablist", "aria-label": "Parts of the page", class: "tabs", on: { keydown: (e) => this.tabKey(e) } }, this.tabs);
    this.pickers = ["a", "b"].map((side) => this.picker(side));
    const swap = h("button", { class: "quiet", "aria-label": "Swap A and B", title: "Swap A and B", text: "⇄", on: { click: () => this.swap() } });
    const link = this.link() ? h("button", { class: "main", text: "Copy link", on: { click: () => this.copyLink() } }) : null;
    this.tour = new Tour(this);
    clear(this.root).append(
      h("header", { class: "top" },
        h("div", { class: "heading" }, h("h1", { text: study.title }), h("p", { class: "mute", text: this.subtitle() }), this.tour.button),
        h("div", { class: "bar" }, tabs, h("div", { class: "pair" }, this.pickers[0], swap, this.pickers[1], link))),
      h("main", {}, this.panels), this.toast);
    const panel = (name) => this.panels[Object.keys(this.titles).indexOf(name)];
    this.findings = new Findings(this, panel("findings"));
    this.explore = new Explore(this, panel("explore"));
    this.methods = new Methods(this, panel("methods"));
    this.added = Object.fromEntries(Object.entries(this.host.tabs).map(([name, { make }]) => [name, make(this, panel(name))]));
    let width = 0;
    new ResizeObserver(() => {
      if (Math.abs(this.root.clientWidth - width) > 1) { width = this.root.clientWidth; this.explore.draw(); }
    }).observe(this.root);
    window.addEventListener("popstate", () => {
      this.state = this.asked();
      this.show();
    });
  }

  asked() {
    const state = readAddress(location.search, this.study, this.titles);
    return { ...state, pinned: state.sel !== null };
  }

  subtitle() {
    const { checkpoints, claims, settings } = this.study;
    const images = checkpoints.length ? checkpoints[0].images : { n: 0, name: "" };
    const same = checkpoints.every((each) => each.images.sha256 === images.sha256);
    const of = same ? `${whole(images.n)} images of ${images.name}` : "several sets of images";
    return `${checkpoints.length} checkpoints · ${claims.length} published claims · ${of} · 95 % intervals, ${whole(settings.draws)} draws${this.study.origin ? ` · ${this.study.origin.slice(0, this.study.origin.indexOf("@") + 9)}` : ""}`;
  }

  picker(side) {
    const select = h("select", { "aria-label": `Checkpoint ${side.toUpperCase()}`, on: { change: (e) => this.go({ [side]: Number(e.target.value), sel: null, pinned: false }) } },
      this.study.checkpoints.map((each, number) => h("option", { value: number, text: each.id })));
    return h("label", { class: `pick ${side}` }, h("span", { class: "key", "aria-hidden": "true", text: side.toUpperCase() }), select);
  }

  tabKey(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = this.tabs[(this.tabs.indexOf(document.activeElement) + step + this.tabs.length) % this.tabs.length];
    next.focus();
    next.click();
    event.preventDefault();
  }

  swap() {
    const { a, b, sel, minus } = this.state;
    const turn = (pair) => (pair && sel.of === "ab" ? [...pair].reverse() : pair);
    const of = sel && { aa: "bb", bb: "aa", ab: "ab" }[sel.of];
    const [i, j] = sel ? turn([sel.i, sel.j]) : [];
    this.go({ a: b, b: a, sel: sel && { of, ...(sel.depths ? { depths: turn(sel.depths) } : { i, j }) }, minus: minus && [minus[1], minus[0]] });
  }

  go(changes) {
    this.tour.leave();
    this.step(changes);
    this.remember();
    return this.shown;
  }

  // The same without a trace in the address.
  step(changes) {
    Object.assign(this.state, changes);
    this.shown = this.show();
    return this.shown;
  }

  // The address follows what was chosen, not every move of the pointer; browsers refuse more than a few changes a second.
  remember() {
    clearTimeout(this.later);
    if (this.tour.going || location.protocol === "about:") return; // a frame of a notebook has no address
    this.later = setTimeout(() => {
      const search = writeAddress(this.state, this.study);
      history.replaceState(null, "", search);
      if (window.parent !== window) window.parent.postMessage({ queryString: search.slice(1) }, "https://huggingface.co");
    }, 120);
  }

  async show() {
    const { state, study } = this;
    const tab = state.view in this.titles ? state.view : "explore";
    Object.keys(this.titles).forEach((name, k) => {
      this.tabs[k].setAttribute("aria-selected", String(name === tab));
      this.tabs[k].tabIndex = name === tab ? 0 : -1;
      this.panels[k].hidden = name !== tab;
    });
    this.pickers.forEach((label, k) => { label.querySelector("select").value = String(k ? state.b : state.a); });
    this.root.dataset.tab = tab;
    if (tab === "findings") this.findings.show();
    if (tab === "methods") this.methods.show();
    if (tab in this.added) this.added[tab].show();
    if (tab === "explore" && study.checkpoints.length) await this.explore.show();
    this.root.dataset.ready = "true";
  }

  async file(name) {
    if (!this.files.has(name)) this.files.set(name, this.load(name));
    try {
      return await this.files.get(name);
    } catch (error) {
      this.files.delete(name);
      throw error;
    }
  }

  // Whether places of two checkpoints can be compared.
  comparable(a, b) { return a === b || this.study.comparable.some((group) => group.includes(a) && group.includes(b)); }

  // Both networks and the map between them.
  async pair(a, b) {
    const [low, high] = [Math.min(a, b), Math.max(a, b)];
    const comparable = this.comparable(a, b);
    const [first, second, cross] = await Promise.all([
      this.file(`checkpoint-${a}.json`), this.file(`checkpoint-${b}.json`),
      comparable && a !== b ? this.file(`pair-${low}-${high}.json`) : null,
    ]);
    const counts = [first, second].map((each) => each.places.name.length);
    const own = [first, second].map((each, k) => each.map && new CkaMap(each.map, counts[k], counts[k], false));
    const between = a === b ? own[0] : cross && new CkaMap(cross.map, counts[0], counts[1], a > b);
    return { a: first, b: second, maps: { aa: own[0], ab: between, bb: own[1] }, crossing: cross?.crossing || null };
  }

  say(text) {
    this.toast.textContent = text;
    clearTimeout(this.quiet);
    this.quiet = setTimeout(() => { this.toast.textContent = ""; }, 2500);
  }

  async copy(text, what) {
    try {
      await navigator.clipboard.writeText(text);
      this.say(`${what} copied`);
    } catch {
      const area = h("textarea", { class: "away", "aria-label": what });
      const focused = document.activeElement;
      area.value = text;
      document.body.append(area);
      area.select();
      this.say(document.execCommand("copy") ? `${what} copied` : `${what} could not be copied: your browser does not allow it`);
      area.remove();
      focused?.focus({ preventScroll: true });
    }
  }

  // Of exactly what is seen; none where the page has no address, as in a frame of a notebook.
  link() {
    const base = this.host.link || (location.protocol === "about:" ? "" : location.href.split(/[?#]/)[0]);
    return base && base + writeAddress({ ...this.state, pinned: true }, this.study);
  }

  copyLink() { this.copy(this.link(), "Link"); }
}
