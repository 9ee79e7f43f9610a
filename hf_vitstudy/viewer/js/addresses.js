// The address of the page: what it asks for, and what was chosen.

// What an address asks for, as far as the study has it.
function readAddress(search, study, tabs = TABS) {
  const asked = new URLSearchParams(search);
  const number = (name, otherwise) => {
    const found = study.checkpoints.findIndex((each) => each.id === asked.get(name));
    return found < 0 ? otherwise : found;
  };
  const view = asked.get("view");
  const sel = /^(aa|ab|bb)\.(\d{1,3})\.(\d{1,3})$/.exec(asked.get("sel") || "");
  const measure = study.measures.find(({ key }) => key === asked.get("measure"));
  const minus = ["minus_a", "minus_b"].map((name) => number(name, null));
  const claim = study.claims.find((each) => each.id === asked.get("claim"));
  return {
    a: number("a", study.start[0]),
    b: number("b", study.start[1]),
    view: Object.hasOwn(tabs, view || "") || study.views.includes(view) ? view : "findings",
    sel: sel ? { of: sel[1], i: Number(sel[2]), j: Number(sel[3]) } : null,
    claim: claim ? claim.id : null,
    measure: measure ? measure.key : "cka",
    minus: minus.includes(null) ? null : minus,
  };
}

// A selection by depth is a cell only when its maps have come; till then the address has none.
function writeAddress(state, study) {
  const parts = new URLSearchParams();
  parts.set("a", study.checkpoints[state.a].id);
  parts.set("b", study.checkpoints[state.b].id);
  parts.set("view", state.view);
  if (state.sel && state.pinned && !state.sel.depths) parts.set("sel", `${state.sel.of}.${state.sel.i}.${state.sel.j}`);
  if (state.measure !== "cka") parts.set("measure", state.measure);
  if (state.minus) state.minus.forEach((number, k) => parts.set(["minus_a", "minus_b"][k], study.checkpoints[number].id));
  if (state.claim && state.view === "findings") parts.set("claim", state.claim);
  return `?${parts}`;
}
