// Pictures of views, to take away: as they look now, with the names of both networks above.

const LOOK = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "stroke-linecap", "stroke-opacity", "opacity", "font-size", "font-family", "font-weight", "text-anchor", "visibility", "image-rendering", "shape-rendering", "paint-order"];

// A drawing that needs nothing around it: every look as an attribute, no part that only catches the pointer.
function standing(svg) {
  const copy = svg.cloneNode(true);
  const nodes = [svg, ...svg.querySelectorAll("*")];
  const copies = [copy, ...copy.querySelectorAll("*")];
  copies.forEach((node, k) => {
    const look = getComputedStyle(nodes[k]);
    if (look.display === "none" || node.classList.contains("catch")) { node.setAttribute("data-gone", ""); return; }
    for (const name of ["class", "style", "role", "tabindex", "data-of", "data-map", "data-place", "aria-label", "aria-hidden"]) node.removeAttribute(name);
    if (node.localName === "title") return;
    for (const property of LOOK) node.setAttribute(property, plain(node, property, look.getPropertyValue(property)));
  });
  for (const node of copy.querySelectorAll("[data-gone]")) node.remove();
  return copy;
}

// Colours as programs other than browsers read them: no alpha inside.
function plain(node, property, value) {
  const found = /^rgba\((.+), ([\d.]+)\)$/.exec(value);
  if (!found) return value;
  if (Number(found[2]) === 0) return "none";
  if (property === "fill" || property === "stroke") node.setAttribute(`${property}-opacity`, found[2]);
  return `rgb(${found[1]})`;
}

// The heading: words beside each other where they fit into the width, else one below the other.
const FONT = "system-ui, sans-serif";
const GAP = 10;
function heading(parts, size, width) {
  const pen = document.createElement("canvas").getContext("2d");
  const wide = (line) => line.reduce((sum, [text, , weight]) => {
    pen.font = `${weight || 400} ${size}px ${FONT}`;
    return sum + pen.measureText(text).width + GAP;
  }, 16);
  const lines = wide(parts) <= width ? [parts] : parts.map((part) => [part]);
  return { lines: lines.map((line) => ({ line, size })), width: Math.max(...lines.map(wide)) };
}

function picture(page, card) {
  const height = card.svg.height.baseVal.value;
  const look = getComputedStyle(page.root);
  const { explore, study } = page;
  const [paper, ink, ofA, ofB] = ["--paper", "--ink", "--a", "--b"].map((property) => look.getPropertyValue(property).trim());
  const copy = standing(card.svg);
  const room = card.svg.width.baseVal.value;
  const name = (side, sign, colour) => [`${sign} ${side.toUpperCase()}: ${explore.name(side)}`, colour];
  const heads = [heading([[card.title, ink, 600], [card.unit, ink]], 13, room), heading([name("a", "●", ofA), name("b", "■", ofB)], 11, room)];
  const lines = heads.flatMap((each) => each.lines);
  const [width, head] = [Math.ceil(Math.max(room, ...heads.map((each) => each.width))), 8 + 16 * lines.length];
  copy.setAttribute("y", head);
  return s("svg", { width, height: height + head, viewBox: `0 0 ${width} ${height + head}` },
    s("title", { text: `${card.title}: ${explore.name("a")} and ${explore.name("b")}` }), s("desc", { text: `hf_vitstudy ${study.version}. ${study.title}` }),
    s("rect", { width, height: height + head, fill: paper }),
    lines.map(({ line, size }, k) => s("text", { x: 8, y: 16 * (k + 1), "font-size": size, "font-family": FONT },
      line.map(([text, fill, weight], at) => s("tspan", { fill, "font-weight": weight || 400, dx: at ? GAP : 0, text })))), copy);
}

function download(page, blob, name) {
  const address = URL.createObjectURL(blob);
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
  page.say("Picture saved");
}

const written = (page, card) => new XMLSerializer().serializeToString(picture(page, card));

function saveSvg(page, card, name) {
  if (!card.svg) { page.say("There is nothing to draw here"); return; }
  download(page, new Blob([`<?xml version="1.0" encoding="UTF-8"?>\n${written(page, card)}\n`], { type: "image/svg+xml" }), `${name}.svg`);
}

function savePng(page, card, name) {
  if (!card.svg) { page.say("There is nothing to draw here"); return; }
  const drawing = new Image();
  drawing.onload = () => {
    const canvas = h("canvas", { width: 2 * drawing.width, height: 2 * drawing.height });
    canvas.getContext("2d").drawImage(drawing, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => download(page, blob, `${name}.png`), "image/png");
  };
  drawing.onerror = () => page.say("The picture could not be drawn");
  drawing.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(written(page, card))}`;
}
