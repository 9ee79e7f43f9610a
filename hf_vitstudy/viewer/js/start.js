// Anything that hosts the page gives a node and the study; `files` are those at hand, all others come from below `base`, or
// from `load`, a function from the name of a file to its content.
const filesBelow = (base) => async (name) => {
  const answer = await fetch(base + name);
  if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
  return answer.json();
};
window.VitStudy = {
  mount: (root, { study, files = {}, base = "data/", load = filesBelow(base), host = {} }) => new Page(root, study, load, files, host),
  nodes: { h, clear },
};

// A page that was written to be read without a script as well holds parts that go on in this one.
function still(root) {
  const { figures, methods } = Object.fromEntries([...root.querySelectorAll("[data-part]")].map((node) => [node.dataset.part, node]));
  if (!figures) return { host: {}, after: () => {} };
  for (const each of figures.querySelectorAll("details.doubled")) each.open = false;
  const make = (page, panel) => { panel.append(figures); return { show() {} }; };
  return { host: { whole: true, tabs: { figures: { title: "Figures", make } } }, after: () => root.querySelector("#vs-methods").append(methods) };
}

const stored = document.getElementById("vitstudy-data");
if (stored) {
  const root = document.getElementById("vitstudy");
  const { host, after } = still(root);
  window.vitstudy = window.VitStudy.mount(root, { ...JSON.parse(stored.textContent), host });
  after();
}
