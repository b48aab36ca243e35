// The search box: modules, sites and nodes that hold all words.

const search = { hits: [], at: -1 };

function find(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return [];
  const matches = (hay) => words.every((word) => hay.toLowerCase().includes(word));
  const hits = [];
  const add = (kind, list) => { for (const hit of list) { if (hits.length >= 60) return; hits.push({ kind, ...hit }); } };
  const modules = [];
  (function visit(item) {
    if (item.path && matches(`${item.path} ${item.kind}`)) modules.push({ name: item.path, note: item.kind, go: () => update({ module: item.path, node: null, site: null, tab: "graph" }) });
    item.children.forEach(visit);
  })(graph.tree);
  add("module", modules.slice(0, 15));
  const sites = graph.sites.map((site, number) => ({ site, number })).filter(({ site }) => matches(`${site.module} ${site.op} ${site.reason} ${site.kernel} ${site.lowered_to}`));
  add("site", sites.slice(0, 15).map(({ site, number }) => ({ name: site.module, note: `${site.op}, ${site.reason || site.lowered_to.replace("lowbit::", "")}`, go: () => chooseSite(number) })));
  const { before, after } = views();
  const nodes = [...new Map([...before.byName, ...after.byName]).values()].filter((node) => matches(`${node.name} ${node.target} ${node.parameter} ${node.module} ${node.made_by}`));
  add("node", nodes.slice(0, 30).map((node) => ({ name: node.name, note: node.op === "placeholder" ? node.type : node.target, go: () => openNode(node.name) })));
  return hits;
}

function showFound() {
  search.hits = find(byId("query").value);
  search.at = search.hits.length ? 0 : -1;
  const list = byId("found");
  list.hidden = !byId("query").value.trim();
  byId("query").setAttribute("aria-expanded", String(!list.hidden));
  list.replaceChildren(...search.hits.map((hit, i) => element("li", { role: "option", id: `hit-${i}`, "aria-selected": String(i === search.at), onmousedown: (event) => { event.preventDefault(); take(i); } },
    element("span", { class: "kind" }, hit.kind), element("span", { class: "name", title: hit.name }, hit.name), element("span", { class: "note" }, hit.note))));
  if (!list.hidden && !search.hits.length) list.append(element("li", { class: "empty" }, "Nothing found at this stage."));
  point();
}

function point() {
  byId("found").querySelectorAll("[role=option]").forEach((row, i) => row.setAttribute("aria-selected", String(i === search.at)));
  if (search.at >= 0) {
    byId("query").setAttribute("aria-activedescendant", `hit-${search.at}`);
    byId(`hit-${search.at}`).scrollIntoView({ block: "nearest" });
  } else byId("query").removeAttribute("aria-activedescendant");
}

function take(i) {
  const hit = search.hits[i];
  closeSearch();
  byId("query").blur();
  if (hit) hit.go();
}

function closeSearch() {
  byId("found").hidden = true;
  byId("query").setAttribute("aria-expanded", "false");
}

function searchKey(event) {
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    if (search.hits.length) search.at = (search.at + (event.key === "ArrowDown" ? 1 : -1) + search.hits.length) % search.hits.length;
    point();
  } else if (event.key === "Enter") take(search.at);
  else if (event.key === "Escape") { closeSearch(); byId("query").blur(); }
}
