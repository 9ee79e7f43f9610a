// Show me: a walk through the strongest facts. Its steps are data of the study (tour.py); the address stays as it is.

class Tour {
  constructor(page) {
    this.page = page;
    this.steps = page.study.tour || [];
    this.button = this.steps.length ? h("button", { class: "quiet show-me", on: { click: () => this.start() } }, h("span", { "aria-hidden": "true", text: "▶ " }), "Show me") : null;
    this.going = false;
    this.escape = (event) => { if (event.key === "Escape") this.end(); };
  }

  start() {
    if (this.going) return;
    this.before = { ...this.page.state };
    this.going = true;
    this.title = h("h2", { tabindex: -1 });
    this.text = h("p", {});
    this.count = h("span", { class: "mute small number" });
    const act = (text, run, look = "quiet") => h("button", { class: look, text, on: { click: run } });
    this.back = act("Back", () => this.go(this.at - 1));
    this.next = act("Next", () => (this.at === this.steps.length - 1 ? this.end() : this.go(this.at + 1)), "main");
    const link = this.page.link() ? act("Copy link to this", () => this.page.copyLink()) : null;
    this.node = h("aside", { class: "tour", role: "dialog", "aria-label": "Tour", on: { keydown: (e) => this.key(e) } },
      h("div", { "aria-live": "polite" }, this.title, this.text), h("div", { class: "line" }, this.count, link, h("span", { class: "acts" }, act("Stay here", () => this.leave()), this.back, this.next)));
    this.page.root.append(this.node);
    this.page.root.classList.add("touring");
    document.addEventListener("keydown", this.escape);
    return this.go(0);
  }

  async go(at) {
    if (at < 0 || at >= this.steps.length) return;
    this.at = at;
    const { page } = this;
    const { title, text, state } = this.steps[at];
    this.title.textContent = title;
    this.text.textContent = text;
    this.count.textContent = `${at + 1} of ${this.steps.length}`;
    this.back.disabled = at === 0;
    this.next.textContent = at === this.steps.length - 1 ? "Done" : "Next";
    this.title.focus({ preventScroll: true });
    this.fold();
    page.explore.gone = null;
    const { claim = null, sel = null, ...rest } = state;
    await page.step({ ...rest, claim, sel: sel && { ...sel }, pinned: sel !== null, measure: "cka", minus: null });
    if (this.going && this.at === at) this.point(state);
  }

  // Dims all but what is spoken of, and brings that into sight.
  point({ view, claim }) {
    const { page } = this;
    for (const node of page.root.querySelectorAll(".told-of")) node.classList.remove("told-of");
    if (claim) { page.findings.open(claim, true); this.unfolded = claim; }
    const spoken = claim ? page.findings.rows.get(claim).node : view === "findings" ? page.root.querySelector(".summary") : page.root.querySelector(`.card.${view}`);
    for (const node of [spoken, view === "findings" ? null : page.root.querySelector(".card.selection")]) node?.classList.add("told-of");
    spoken?.scrollIntoView({ block: view === "findings" && !claim ? "center" : "nearest" });
  }

  fold() {
    if (this.unfolded) this.page.findings.open(this.unfolded, false);
    this.unfolded = null;
  }

  key(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    this.go(this.at + step);
    event.preventDefault();
  }

  // As if it had not been.
  end() {
    this.close();
    this.page.explore.gone = null;
    this.page.step(this.before);
    this.button.focus();
  }

  // The reader goes on from what the step shows; only now the address follows.
  leave() {
    if (!this.going) return;
    this.close();
    this.page.remember();
  }

  close() {
    this.fold();
    this.going = false;
    this.node.remove();
    document.removeEventListener("keydown", this.escape);
    this.page.root.classList.remove("touring");
    for (const node of this.page.root.querySelectorAll(".told-of")) node.classList.remove("told-of");
  }
}
