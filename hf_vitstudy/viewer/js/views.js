// Views below the maps: what their data are, when these are fetched, what they say.

// One view: a card, a sentence that says what it shows, and its numbers; `of` names the file that it needs.
class View {
  constructor(explore, key, title, unit, of, extra) {
    Object.assign(this, { explore, key, of });
    this.told = h("p", { class: "told", "aria-live": "polite" });
    this.card = panel(explore, key, title, unit, extra);
    this.card.body.after(this.told);  // below it, so that what is drawn stays where the pointer is
  }

  // Of one network, null where it was not measured.
  data(side) { return this.explore.below.file(this.of, side)?.[this.part || this.key] || null; }
  sides() { return ["a", "b"].filter((side) => this.data(side)); }

  draw() {
    const { card, explore } = this;
    clear(card.body);
    card.svg = null;
    this.drawn = null;
    const trouble = explore.below.trouble(this.of);
    if (trouble) {
      const again = explore.below.files[this.of] === null ? h("button", { class: "link", text: "Try again", "aria-label": `Try again: ${card.title}`, on: { click: () => explore.below.come() } }) : null;
      card.body.append(h("p", { class: "mute small none" }, trouble, " ", again));
      this.tell("");
      return;
    }
    const sides = this.sides();
    if (sides.length) this.drawn = this.paint(sides) || true;
    else this.tell("");
    const lacking = ["a", "b"].filter((side) => !sides.includes(side));
    if (lacking.length) card.body.append(h("div", { class: sides.length ? "lacking" : "lacking alone" }, lacking.map((side) => missing(explore, this.key, side))));
    card.refresh();
  }

  mark(marked) { if (this.drawn?.mark) this.drawn.mark(marked); }
  tell(...words) {
    const text = words.join(" ");
    if (this.told.textContent !== text) this.told.textContent = text;
  }

  // "A 1.23 [1.1, 1.3], B 2" of what `read` finds of each network.
  both(read) {
    return this.sides().map((side) => { const text = read(this.data(side), side); return text ? `${side.toUpperCase()} ${text}` : null; }).filter(Boolean).join(", ");
  }
  named(side) { return { checkpoint: this.explore.name(side) }; }
  rows() { return this.sides().flatMap((side) => this.list(this.data(side), side).map((row) => ({ ...this.named(side), ...row }))); }
}

const AHEAD = 400;  // px

// All of them, in sections. Their files are fetched when the reader comes near, or asks for one of them.
class Below {
  constructor(explore) {
    this.explore = explore;
    this.views = new Map();
    this.files = {};
    const curve = (key) => explore.cards.find((card) => card.key === key).node;
    const view = (made) => { this.views.set(made.key, made); return made.card.node; };
    const section = (title, look, ...cards) => h("section", { class: "part" }, h("h2", { text: title }), h("div", { class: `cards ${look}` }, cards));
    this.node = h("div", { class: "below" },
      section("At these two places", "three", view(new Fields(explore)), curve("receptive"), view(new Localisation(explore))),
      section("Without one part", "three", view(new Removal(explore, "lesions", "Lesions")), view(new Removal(explore, "skip_removal", "Skip removal")), curve("class_skip")),
      section("On disturbed images", "three", view(new Noise(explore)), view(new Corruptions(explore)), view(new Attacks(explore))),
      section("Tokens, positions and filters", "three", view(new TokenProbes(explore)), view(new Positions(explore)), view(new Filters(explore))),
      section("The loss around the weights", "two", view(new Spectrum(explore)), view(new Landscape(explore)), view(new Slice(explore)), view(new Norm(explore))));
    const near = new IntersectionObserver(() => this.look(), { rootMargin: `${AHEAD}px` });
    near.observe(this.node);
  }

  // Before the maps are drawn everything is near.
  look() {
    const { explore } = this;
    if (explore.current && !explore.root.hidden && this.node.getBoundingClientRect().top < window.innerHeight + AHEAD) this.come();
  }

  has(key) { return this.views.has(key); }
  file(of, side) { return this.files[of]?.[side] || null; }
  trouble(of) {
    const found = this.files[of];
    if (found === undefined) return "Loading …";
    return found === null ? unfetched("The measurements of this view could not be fetched.") : null;
  }

  come() {
    this.near = true;
    return this.show();
  }

  // Files of the two networks on the page; what arrives for an earlier choice is dropped.
  async show() {
    const { a, b } = this.explore.page.state;
    const asked = this.explore.chosen();
    if (!this.near || !this.explore.current || this.explore.root.hidden) return;
    if (this.loaded === asked) return;
    this.loaded = asked;
    const of = async (kind) => {
      try {
        const [first, second] = await Promise.all([a, b].map((number) => this.explore.page.file(`${kind}-${number}.json`)));
        if (this.loaded === asked) this.files[kind] = { a: first, b: second };
      } catch {
        if (this.loaded === asked) { this.files[kind] = null; this.again = true; }
      }
    };
    await Promise.all(["network", "fields", "weights"].map(of));
    if (this.loaded !== asked) return;
    if (this.again) { this.loaded = null; this.again = false; }
    if (!this.explore.current) return;
    this.draw();
    this.mark(this.explore.selected());
  }

  // The files of an earlier pair are not those of this one.
  forget() {
    this.files = {};
    this.loaded = null;
  }

  draw() { for (const view of this.views.values()) view.draw(); }
  mark(marked) { for (const view of this.views.values()) view.mark(marked); }
}
