// The frame of a view: title, what to take away, room to draw.

function panel(explore, key, title, unit, extra) {
  const { page } = explore;
  const data = () => explore.rows(key);
  const file = () => `${explore.name("a")}-${explore.name("b")}-${key}`.replace(/[^\w.-]+/g, "_");
  const body = h("div", { class: "body" });
  const card = { key, title, unit, body, svg: null };
  const beside = new Beside(explore, card, data);
  const numbers = numbersOf(title, data);
  card.node = h("section", { class: `card ${key}`, "aria-label": title },
    h("div", { class: "line" }, h("h2", { text: title }), h("span", { class: "acts" }, beside.button, saving(page, card, data, file))),
    h("div", { class: "line mute small" }, h("span", { class: "unit", text: unit }), extra), beside.node, body, numbers.node);
  card.refresh = () => { numbers.refresh(); beside.draw(); };
  return card;
}

const MOST_ROWS = 200;

// The data of a view as a table, made when it is opened and again when what is shown changes.
function numbersOf(title, data) {
  const room = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Numbers of ${title}` });
  const node = h("details", { class: "numbers small", on: { toggle: () => refresh() } }, h("summary", { class: "mute", text: "Numbers" }), room);
  const text = (value) => (!known(value) ? "–" : typeof value === "number" ? minus(String(value)) : value);
  function refresh() {
    clear(room);
    if (!node.open) return;
    const rows = data();
    const fields = Object.keys(rows[0] || {});
    room.append(h("table", {}, h("thead", {}, h("tr", {}, fields.map((field) => h("th", { scope: "col", text: field.replace(/_/g, " ") })))),
      h("tbody", {}, rows.slice(0, MOST_ROWS).map((row) => h("tr", {}, fields.map((field) => h("td", { text: text(row[field]) })))))));
    if (rows.length > MOST_ROWS) room.append(h("p", { class: "mute", text: `${whole(rows.length - MOST_ROWS)} more rows in JSON and CSV.` }));
  }
  return { node, refresh };
}

function csv(rows) {
  const fields = Object.keys(rows[0] || {});
  const cell = (value) => { const text = known(value) ? String(value) : ""; return /[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text; };
  return [fields, ...rows.map((row) => fields.map((field) => row[field]))].map((row) => row.map(cell).join(",")).join("\n") + "\n";
}
