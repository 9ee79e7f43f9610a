// Methods: how it was measured, where the numbers are.

class Methods {
  constructor(page, root) {
    this.page = page;
    const { study } = page;
    const { settings } = study;
    const about = (each) => h("article", { class: "method" }, h("h3", { text: each.title }), h("p", { text: each.text }), h("pre", { text: each.formula }),
      h("p", { class: "mute small", text: `${each.source}. ${each.care}` }));
    this.snippets = h("div", {});
    this.origins = h("div", { class: "origins" });
    const verdicts = [["s", "the interval lies above the margin"], ["c", "it lies below minus the margin"], ["n", "it lies within the margin on both sides"], ["u", "none of these"]];
    root.append(
      h("section", {}, h("h2", { text: "What the numbers rest on" }),
        h("p", { text: `Every statistic is positive where its claim holds, and its margin was fixed before looking. An interval over images speaks of these networks; an effect over checkpoints averages seeds, then recipes, and its interval is over recipes. ${whole(settings.draws)} bootstrap draws with seed ${settings.seed}, ${whole(settings.permutations)} permutations; the p of one table are corrected together (Holm 1979).` }),
        h("ul", { class: "plain" }, verdicts.map(([letter, text]) => h("li", {}, badge(letter), ` ${text}`)))),
      h("section", {}, h("h2", { text: "Views" }), h("div", { class: "methods" }, study.methods.map(about))),
      h("section", {}, h("h2", { text: "The chosen checkpoints" }), this.origins),
      h("section", {}, h("h2", { text: "The same numbers elsewhere" }), this.snippets),
      h("section", {}, h("h2", { text: "Not tested here" }), h("dl", {}, Object.entries(study.untested).map(([id, text]) => [h("dt", { text: id }), h("dd", { class: "mute", text })]))));
  }

  show() {
    const { study, state } = this.page;
    const [a, b] = [state.a, state.b].map((number) => study.checkpoints[number]);
    const facts = [["Network", (c) => c.network], ["State", (c) => c.state], ["Parameters", (c) => (known(c.parameters) ? whole(c.parameters) : "–")],
      ["Shown at", (c) => (c.image_size ? `${c.image_size.join(" × ")} px` : "–")],
      ["Accuracy here", (c) => (c.accuracy ? interval(three, c.accuracy) : "–")], ["Places read", (c) => c.places],
      ["Images", (c) => `${whole(c.images.n)} of ${c.images.name}, seed ${c.images.seed}`], ["sha256 of the images", (c) => c.images.sha256],
      ["Revision", (c) => c.revision || "local folder"], ["sha256 of the weights", (c) => c.weights_sha256],
      ["Measured", (c) => [c.created?.slice(0, 10), measuredOn(c), known(c.seconds) && `in ${lasting(c.seconds)}`].filter(Boolean).join(", ") || "–"],
      ["Versions", (c) => Object.entries(c.versions).map((each) => each.join(" ")).join(", ")]];
    clear(this.origins).append(h("table", {}, h("thead", {}, h("tr", {}, h("td"), h("th", { scope: "col", class: "a", text: `A ${a.id}` }), h("th", { scope: "col", class: "b", text: `B ${b.id}` }))),
      h("tbody", {}, facts.map(([title, read]) => h("tr", {}, h("th", { scope: "row", text: title }), [a, b].map((each) => h("td", { text: read(each) })))))));
    const [low, high] = [Math.min(state.a, state.b), Math.max(state.a, state.b)];
    const { page } = this;
    const parts = [["Command line", `vitstudy compare ${shell(a.key)} ${shell(b.key)} --out cka.csv\nvitstudy report ${shell(a.key)} ${shell(b.key)}`],
      ["Python", `from hf_vitstudy import compare, judge, load_profile\n\na = load_profile(${quoted(a.key)})\nb = load_profile(${quoted(b.key)})\ncompare(a, b).cka("ab")  # intervals, row and column names\njudge(a, b)`]];
    if (!page.host.whole) parts.push(["Files of this page", `data/study.json\ndata/checkpoint-${state.a}.json\ndata/checkpoint-${state.b}.json${low === high ? "" : `\ndata/pair-${low}-${high}.json`}`]);
    parts.push(...page.host.snippets(page), ["Citation", study.cite]);
    clear(this.snippets).append(...parts.map(([title, text]) => code(page, title, title, text)),
      h("p", { class: "mute small", text: "CKA is stored in whole thousandths, row by row, with the distance of the interval's ends below and above; all else with three digits, as shown." }));
  }
}
