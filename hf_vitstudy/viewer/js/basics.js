// Nodes, numbers and words that every other file uses.

const SVG = "http://www.w3.org/2000/svg";
const VERDICTS = {
  s: ["supported", "▲"], c: ["contradicted", "▼"], n: ["negligible", "■"], u: ["undecided", "◆"], x: ["not applicable", "○"],
};
const LETTERS = Object.fromEntries(Object.entries(VERDICTS).map(([letter, [word]]) => [word, letter]));
const KINDS = {
  attention: "attention", mlp: "MLP", conv: "conv", block: "block", stem: "stem", embedding: "embedding",
};
const TABS = { findings: "Findings", explore: "Explore", methods: "Methods" };

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name === "on") for (const [event, run] of Object.entries(value)) node.addEventListener(event, run);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}
const h = (tag, properties, ...children) => fill(document.createElement(tag), properties, children);
const s = (tag, properties, ...children) => fill(document.createElementNS(SVG, tag), properties, children);
const clear = (node) => { node.replaceChildren(); return node; };
const minus = (text) => text.replace(/-/g, "−");
const whole = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, ",");
const lasting = (seconds) => (seconds < 100 ? `${Number(seconds.toPrecision(2))} s` : seconds < 6000 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`);
const measuredOn = ({ device, batch_size }) => (device ? `on ${device}, batches of ${batch_size}` : null);
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const known = (value) => value !== null && value !== undefined;

// Three digits, as FINDINGS.md and the report write them.
function three(value) {
  if (!known(value)) return "–";
  const size = Math.abs(value);
  const exponent = size > 0 && (size < 1e-4 || size >= 999.5);
  const text = exponent ? value.toExponential(2).replace(/e([+-])(\d)$/, "e$10$2") : value.toPrecision(3);
  return minus(text);
}
const thousandths = (value) => (known(value) ? minus((value / 1000).toFixed(3)) : "undefined");
const interval = (write, [value, low, high]) =>
  known(value) && known(low) ? `${write(value)} [${write(low)}, ${write(high)}]` : write(value);
const shownP = (p) => (!known(p) ? "–" : p < 0.001 ? "< 0.001" : p.toFixed(3));

// What to say where a file cannot be fetched.
const unfetched = (words) => (location.protocol === "file:"
  ? "Browsers read no further files beside a page that was opened from a disk. Serve the folder: python -m http.server" : words);
