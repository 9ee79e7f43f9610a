// Puts the page into Gradio's: data from below the app's root, the tab with images, snippets of the API.
(() => {
const quoted = (text) => `'${text.replace(/'/g, "'\\''")}'`;

// The API with what is selected: the same names a visitor sees.
function snippets(root, about) {
  return ({ study, state, explore }) => {
    const ends = explore.current ? explore.ends() : [["a", null], ["b", null]];
    const words = [...ends.map(([side]) => study.checkpoints[state[side]].id), ...ends.map(([side, k]) => (k === null ? "0" : explore.pair[side].places.name[k]))];
    const where = about.repo || root;
    const literal = words.map((word) => JSON.stringify(word)).join(", ");
    const server = { mcpServers: { vitstudy: { url: `${root}gradio_api/mcp/` } } };
    return [
      ["API from Python", `import json\nfrom gradio_client import Client\n\nclient = Client(${JSON.stringify(where)})\njson.loads(client.predict(${literal}, api_name="/cka"))  # cka, low, high, n`],
      ["API from a shell", `curl -s ${quoted(`${root}gradio_api/run/cka`)} -H 'Content-Type: application/json' \\\n  -d ${quoted(JSON.stringify({ data: words }))}`],
      ["MCP", JSON.stringify(server, null, 2)],
    ];
  };
}

// The study; where it does not come, this is said, and it can be asked for again.
async function fetchStudy(root, address) {
  const { h, clear } = window.VitStudy.nodes;
  const say = (...words) => clear(root).append(h("p", { class: "waiting", role: "status" }, words));
  say("The numbers are being fetched.");
  try {
    const answer = await fetch(address);
    if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
    return await answer.json();
  } catch {
    return new Promise((found) => { say("The numbers could not be fetched. ", h("button", { class: "link", text: "Try again", on: { click: () => found(fetchStudy(root, address)) } })); });
  }
}

async function start(root, about) {
  const below = new URL("./", location.href).href;
  const base = new URL("vitstudy/", below).href;
  root.classList.add("vs");
  const study = await fetchStudy(root, `${base}data/study.json`);
  const tabs = { image: { title: "Your image", make: (page, panel) => new window.VitSpace.ImageTab(page, panel, base, about) } };
  const link = about.repo ? `https://huggingface.co/spaces/${about.repo}` : "";
  const page = window.VitStudy.mount(root, { study, base: `${base}data/`, host: { tabs, link, snippets: snippets(below, about) } });
  const { h } = window.VitStudy.nodes;
  if (about.study) root.querySelector(".heading p").append(` · ${about.study.slice(0, about.study.indexOf("@") + 9)}`);
  if (about.notice) root.prepend(h("p", { class: "notice", role: "status", text: about.notice }));
  window.vitstudy = page;
}

window.VitSpace = { ...window.VitSpace, start };
window.dispatchEvent(new Event("vitspace"));
})();
