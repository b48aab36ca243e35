// What stands around the drawing: module tree, details, site table, diff and text. Everything is made when it is first shown.

// ---- module tree

// Rows are made when their parent is opened. choose(path) is called for the row that is selected.
function drawTree(graph, list, choose) {
  list.replaceChildren(treeRow(graph, graph.tree, 1, choose));
  list.onkeydown = (event) => treeKey(graph, list, event);
  list.onfocus = null;
  openRow(graph, list.firstElementChild, choose);
  for (const row of [...list.querySelectorAll("[role=treeitem]")].slice(1)) {
    if (row.item.children.size && list.querySelectorAll("[role=treeitem]").length < 12) openRow(graph, row, choose);
  }
  list.querySelector(".row").tabIndex = 0;
}

function treeRow(graph, item, level, choose) {
  const folds = item.children.size > 0 || item.sites.length > 1 || (item.sites.length === 1 && item.children.size > 0);
  const own = !folds && item.sites.length === 1 ? graph.sites[item.sites[0]] : null;
  const row = element("div", { class: "row", style: `--level: ${level}`, tabindex: "-1", title: item.path || item.name },
    element("span", { class: "twist", "aria-hidden": "true" }), element("span", { class: "name" }, item.name), item.kind && element("span", { class: "kind" }, item.kind),
    element("span", { class: "counts" }, ...(own ? [mark(own.decision)] : counts(item))));
  const reasons = element("div", { class: "reasons", style: `--level: ${level}` }, ...(own && own.decision === "declined" ? [reasonText(own)] : []));
  const entry = element("li", { role: "treeitem", "aria-level": level, "aria-label": treeLabel(item), "aria-expanded": folds ? "false" : null }, row, reasons);
  if (!own && item.declined) reasons.append(...reasonCounts(graph, item).map(([reason, count]) => element("span", {}, `${count} ${reason}`)));
  entry.item = item;
  row.onclick = (event) => {
    if (folds && (event.target.classList.contains("twist") || entry.getAttribute("aria-selected") === "true")) toggleRow(graph, entry, choose);
    choose(item.path);
  };
  row.ondblclick = (event) => event.preventDefault();
  entry.choose = choose;
  return entry;
}

function treeLabel(item) {
  return `${item.name}${item.kind ? ` ${item.kind}` : ""}${item.all.length ? `, ${item.rewritten} rewritten, ${item.declined} declined` : ""}`;
}

function counts(item) {
  if (!item.all.length) return [];
  return [item.rewritten ? element("b", { class: "rewritten" }, item.rewritten) : null, item.declined ? element("b", { class: "declined" }, item.declined) : null];
}

const mark = (decision) => element("i", { class: `mark ${decision}`, title: decision });

function reasonText(site) {
  return element("span", { title: site.detail }, site.reason);
}

function reasonCounts(graph, item) {
  const found = new Map();
  for (const number of item.all) {
    const site = graph.sites[number];
    if (site.decision === "declined") found.set(site.reason, (found.get(site.reason) || 0) + 1);
  }
  return [...found].sort((a, b) => b[1] - a[1]);
}

function openRow(graph, entry, choose) {
  if (entry.getAttribute("aria-expanded") !== "false") return;
  entry.setAttribute("aria-expanded", "true");
  const level = Number(entry.getAttribute("aria-level")) + 1;
  const sites = entry.item.sites.map((number) => siteRow(graph, number, level, choose));
  entry.append(element("ul", { role: "group" }, ...sites, ...[...entry.item.children.values()].map((child) => treeRow(graph, child, level, choose))));
}

function siteRow(graph, number, level, choose) {
  const site = graph.sites[number];
  const row = element("div", { class: "row site", style: `--level: ${level}`, tabindex: "-1", title: site.detail || null },
    element("span", { class: "twist" }), element("span", { class: "name" }, site.op), element("span", { class: "counts" }, mark(site.decision)));
  const entry = element("li", { role: "treeitem", "aria-level": level, "aria-label": `${site.op}, ${site.decision}` }, row,
    element("div", { class: "reasons", style: `--level: ${level}` }, ...(site.decision === "declined" ? [reasonText(site)] : [])));
  entry.item = { path: siteModule(site), children: new Map(), site: number };
  row.onclick = () => choose(siteModule(site), number);
  entry.choose = choose;
  return entry;
}

function closeRow(entry) {
  if (entry.getAttribute("aria-expanded") !== "true") return;
  entry.setAttribute("aria-expanded", "false");
  entry.querySelector(":scope > ul").remove();
}

function toggleRow(graph, entry, choose) {
  if (entry.getAttribute("aria-expanded") === "true") closeRow(entry);
  else openRow(graph, entry, choose);
}

function treeKey(graph, list, event) {
  const rows = [...list.querySelectorAll(".row")];
  const at = rows.indexOf(document.activeElement);
  if (at < 0) return;
  const entry = rows[at].parentElement;
  const parent = entry.parentElement.closest("[role=treeitem]");
  const expanded = entry.getAttribute("aria-expanded");
  let to = null;
  if (event.key === "ArrowDown") to = rows[at + 1];
  else if (event.key === "ArrowUp") to = rows[at - 1];
  else if (event.key === "Home") to = rows[0];
  else if (event.key === "End") to = rows[rows.length - 1];
  else if (event.key === "ArrowRight" && expanded === "false") openRow(graph, entry, entry.choose);
  else if (event.key === "ArrowRight" && expanded === "true") to = rows[at + 1];
  else if (event.key === "ArrowLeft" && expanded === "true") closeRow(entry);
  else if (event.key === "ArrowLeft") to = parent && parent.querySelector(".row");
  else if (event.key === "Enter" || event.key === " ") rows[at].click();
  else return;
  event.preventDefault();
  event.stopPropagation();
  if (to) focusRow(list, to);
}

function focusRow(list, row) {
  for (const other of list.querySelectorAll('.row[tabindex="0"]')) other.tabIndex = -1;
  row.tabIndex = 0;
  row.focus();
}

// Opens the way to a module, and marks it.
function showInTree(graph, list, path, choose) {
  let entry = list.firstElementChild;
  for (const name of path ? path.split(".") : []) {
    openRow(graph, entry, choose);
    const next = [...entry.querySelectorAll(":scope > ul > li")].find((child) => child.item.name === name);
    if (!next) break;
    entry = next;
  }
  for (const other of list.querySelectorAll("[aria-selected]")) other.removeAttribute("aria-selected");
  for (const other of list.querySelectorAll('.row[tabindex="0"]')) other.tabIndex = -1;
  entry.setAttribute("aria-selected", "true");
  entry.querySelector(".row").tabIndex = 0;
  const [row, pane] = [entry.querySelector(".row").getBoundingClientRect(), list.parentElement.getBoundingClientRect()];
  // Not scrollIntoView: the next Tab would start from there.
  if (row.top < pane.top || row.bottom > pane.bottom) list.parentElement.scrollTop += row.top - pane.top - pane.height / 3;
}

// ---- details

function facts(rows) {
  const shown = rows.filter(([, value]) => value !== null && value !== undefined && value !== "" && !(Array.isArray(value) && !value.length));
  return element("dl", {}, ...shown.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, ...[value].flat().flatMap((part) => (typeof part === "string" ? breakable(part) : [part])))]));
}

const code = (text) => element("code", {}, breakable(text));

function moduleDetails(graph, item, view, pick) {
  const block = membersOf(graph, view, item.path).size;
  const captured = membersOf(graph, stageView(graph, 0), item.path).size;
  const sites = item.all.map((number) => graph.sites[number]);
  const sum = (of) => sites.reduce((total, site) => total + (of(site) || 0), 0);
  const seconds = sum((site) => site.measured && site.measured.seconds);
  return [
    element("p", { class: "over" }, item.kind || "module"), element("h2", {}, breakable(item.path || item.name)),
    facts([
      ["nodes", block === captured ? `${block}` : `${captured} captured, ${block} now`],
      ["sites", sites.length ? `${item.rewritten} rewritten, ${item.declined} declined` : "none"],
      ["saved", bytesText(sum((site) => site.saved_bytes) || null)],
      ["time", seconds ? secondsText(seconds) : ""],
    ]),
    ...(item.declined ? [element("h3", {}, "Why not"), element("ul", { class: "plain" }, ...reasonCounts(graph, item).map(([reason, count]) => element("li", {}, `${count} \u00d7 ${reason}`)))] : []),
    ...(item.all.length ? [element("h3", {}, "Sites"), element("ul", { class: "plain" }, ...item.all.slice(0, 40).map((number) => siteLink(graph, number, item.path, pick)))] : []),
    ...(item.all.length > 40 ? [element("p", { class: "quiet" }, `and ${item.all.length - 40} more, in the table`)] : []),
  ];
}

function siteLink(graph, number, path, pick) {
  const site = graph.sites[number];
  const module = siteModule(site);
  const short = path && inModule(module, path) ? module.slice(path.length + 1) || site.op : module || site.op;
  return element("li", {}, mark(site.decision), " ", element("button", { type: "button", class: "link", onclick: () => pick(number) }, breakable(short)),
    element("span", { class: "quiet" }, ` ${site.decision === "rewritten" ? site.lowered_to.replace("lowbit::", "") : site.reason}`));
}

function nodeDetails(graph, view, node, go) {
  const sites = view.sitesAt.get(node.name) || [];
  const lived = graph.stages.map((_, number) => number).filter((number) => stageView(graph, number).byName.has(node.name));
  const links = (names) => names.flatMap((name, i) => [i ? ", " : "", nodeLink(view, name, go)]);
  const made = node.made_by && element("span", { class: "made chip", style: `--hue: ${graph.colors.get(node.made_by)}` }, node.made_by);
  return [
    element("p", { class: "over" }, { placeholder: isConstant(node) ? "constant" : "input", output: "output" }[node.op] || "node"),
    element("h2", {}, breakable(opName(node))),
    ...sites.flatMap((number) => siteDetails(graph, number, sites.length > 1)),
    element("h3", {}, "Node"),
    facts([
      ["name", code(`%${node.name}`)], ["op", node.op === "placeholder" ? "" : code(node.target)],
      ["parameter", node.parameter && code(node.parameter)], ["type", code(node.type)],
      ["bytes", bytesText(node.bytes)],
      ["module", node.module && element("button", { type: "button", class: "link", onclick: () => go.module(node.module) }, breakable(node.module))],
      ["made by", made || "the model"],
      ["stages", lived.length ? `${graph.stages[lived[0]].name} to ${graph.stages[lived[lived.length - 1]].name}` : ""],
      ["reads", links([...new Set(node.inputs)])], ["read by", links([...new Set(view.readers.get(node.name) || [])].slice(0, 12))],
    ]),
    ...sourceDetails(graph, node),
    ...(node.op === "placeholder" ? [] : [element("h3", {}, "Arguments"), element("pre", {}, node.arguments)]),
  ];
}

function nodeLink(view, name, go) {
  const node = view.byName.get(name);
  return element("button", { type: "button", class: "link", title: name, onclick: () => go.node(name) }, node ? clip(opName(node), 28) : name);
}

function sourceDetails(graph, node) {
  if (node.source === null) return [];
  const { file, line, code } = graph.sources[node.source];
  return [element("h3", {}, "Source"), element("p", { class: "source" }, `${file}:${line}`), ...(code ? [element("pre", { id: "code" }, code)] : [])];
}

function siteDetails(graph, number, several) {
  const site = graph.sites[number];
  const last = stageView(graph, graph.stages.length - 1);
  const node = last.byName.get(last.siteNode[number]);
  const weight = node && site.lowered_to ? constantBytes(last, node) : null;
  const measured = site.measured || {};
  const scales = (values) => values && values.map(digits(3)).join(" \u00b7 ");
  const floor = measured.floor && measured.seconds ? `${secondsText(measured.floor)}, ${percent(measured.floor / measured.seconds)} of the time` : secondsText(measured.floor);
  return [
    element("h3", {}, several ? `Site ${site.module}` : "Site"),
    element("p", { class: "decision" }, mark(site.decision), ` ${site.decision}`, site.reason && `: ${site.reason}`),
    site.detail && element("p", { class: "quiet" }, site.detail),
    facts([
      ["module", several ? "" : site.module], ["op", site.op], ["shape", site.shape],
      ["became", site.lowered_to && code(site.lowered_to)], ["kernel", site.kernel && code(site.kernel)],
      ["in front", site.prologue || (site.no_prologue && `apart: ${site.no_prologue}`)], ["merged with", site.merged_with.join(", ")],
      ["reads", weight === null ? "" : `${bytesText(weight)} of constants`], ["saved", site.saved_bytes ? bytesText(site.saved_bytes) : ""],
      ["time", secondsText(measured.seconds)], ["floor", floor],
      ["SQNR", measured.sqnr === undefined || measured.sqnr === null ? "" : `${digits(4)(measured.sqnr)} dB`], ["cosine", digits(6)(measured.cosine)],
      ["error", digits(3)(measured.error)], ["bound", digits(3)(measured.bound)],
      ["tightness", measured.tightness === undefined || measured.tightness === null ? "" : [digits(3)(measured.tightness), meter(measured.tightness)]],
      ["weight", measured.weight_tightness === undefined || measured.weight_tightness === null ? "" : [digits(3)(measured.weight_tightness), meter(measured.weight_tightness)]],
      ["effect", percent(measured.effect)], ["outliers", percent(measured.outlier_share)],
      ["activation scales", scales(measured.activation_scales)], ["weight scales", scales(measured.weight_scales)],
    ]),
  ].filter(Boolean);
}

function meter(share) {
  return element("span", { class: "meter", role: "img", "aria-label": percent(share) }, element("i", { style: `width: ${Math.min(share, 1) * 100}%` }));
}

// ---- site table

const COLUMNS = [
  ["module", (site) => site.module], ["op", (site) => site.op], ["shape", (site) => site.shape], ["decision", (site) => site.decision],
  ["reason or op", (site) => (site.decision === "rewritten" ? site.lowered_to.replace("lowbit::", "") : site.reason) + (site.prologue ? `, ${site.prologue}` : "")],
  ["kernel", (site) => site.kernel], ["saved", (site) => site.saved_bytes || null, bytesText],
  ...[["time", "seconds", secondsText], ["floor", "floor", secondsText], ["SQNR", "sqnr", digits(4)], ["cosine", "cosine", digits(6)], ["error", "error", digits(3)],
    ["bound", "bound", digits(3)], ["tightness", "tightness", digits(3)], ["effect", "effect", percent], ["outliers", "outlier_share", percent]]
    .map(([name, key, show]) => [name, (site) => (site.measured ? site.measured[key] : null), show]),
];

function drawSites(graph, panel, sorted, module, pick) {
  const used = COLUMNS.filter(([, of]) => graph.sites.some((site) => of(site) !== null && of(site) !== "" && of(site) !== undefined));
  const rows = graph.sites.map((site, number) => ({ site, number })).filter(({ site }) => inModule(siteModule(site), module));
  const column = used.find(([name]) => name === sorted.by);
  if (column) rows.sort((a, b) => compare(column[1](a.site), column[1](b.site)) * sorted.direction || a.number - b.number);
  const heads = used.map(([name, , show]) => element("th", { scope: "col", class: show ? "number" : null, "aria-sort": sorted.by === name ? (sorted.direction > 0 ? "ascending" : "descending") : null },
    element("button", {
      type: "button", onclick: () => {
        Object.assign(sorted, { by: name, direction: sorted.by === name ? -sorted.direction : show ? -1 : 1 });
        drawSites(graph, panel, sorted, module, pick);
        panel.querySelector(`th:nth-child(${used.findIndex(([other]) => other === name) + 1}) button`).focus();
      },
    }, name)));
  const body = rows.map(({ site, number }) => element("tr", { "data-site": number },
    ...used.map(([name, of, show], i) => {
      const value = show ? show(of(site)) : of(site);
      const inner = i === 0 ? element("button", { type: "button", class: "link", onclick: () => pick(number) }, breakable(value)) : name === "decision" ? [mark(site.decision), ` ${value}`] : breakable(value);
      return element("td", { class: show ? "number" : name === "decision" ? "decided" : name, title: name === "reason or op" ? site.detail || null : null }, ...[inner].flat());
    })));
  panel.replaceChildren(rows.length ? element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...body)) : element("p", { class: "empty" }, "No sites."));
}

// Text that may wrap behind dots and underscores.
function breakable(text) {
  return String(text).split(/(?<=[._,])(?!\d)/).flatMap((part, i) => (i ? [element("wbr"), part] : [part]));
}

function compare(a, b) {
  if (a === null || a === undefined || a === "") return b === null || b === undefined || b === "" ? 0 : 1;
  if (b === null || b === undefined || b === "") return -1;
  return typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
}

// ---- diff and text

const CONTEXT = 3;
const CHUNK = 200;

function diffRows(graph, number, module) {
  const { edits } = graph.stages[number];
  const old = number ? stageView(graph, number - 1).nodes : [];
  const now = stageView(graph, number).nodes;
  const rows = [];
  let at = 0;
  edits.forEach(([a, b, c, d], i) => {
    const end = i + 1 < edits.length ? edits[i + 1][0] : old.length;
    if (i === 0 || a - at > CONTEXT) rows.push({ sign: "@", text: `@@ node ${a + 1} of ${old.length}, now ${c + 1} of ${now.length} @@` });
    for (const node of old.slice(Math.max(at, a - CONTEXT), a)) rows.push({ sign: " ", node });
    for (const node of old.slice(a, b)) rows.push({ sign: "-", node });
    for (const node of now.slice(c, d)) rows.push({ sign: "+", node });
    at = Math.min(b + CONTEXT, end);
    for (const node of old.slice(b, at)) rows.push({ sign: " ", node });
  });
  if (module === "") return rows;
  const within = rows.filter((row) => !row.node || inModule(row.node.module, module));
  return within.filter((row, i) => row.node || (within[i + 1] && within[i + 1].node));
}

function drawLines(graph, panel, rows, empty, pick) {
  if (!rows.length) { panel.replaceChildren(element("p", { class: "empty" }, empty)); return; }
  const chunks = [];
  for (let i = 0; i < rows.length; i += CHUNK) chunks.push(element("div", { class: "chunk", style: `--lines: ${Math.min(CHUNK, rows.length - i)}` }, ...rows.slice(i, i + CHUNK).map((row) => lineOf(graph, row, pick))));
  panel.replaceChildren(...chunks);
  panel.scrollTop = 0;
}

function lineOf(graph, { sign, node, text }, pick) {
  if (!node) return element("div", { class: "line at" }, text);
  const kind = { "+": "added", "-": "removed" }[sign] || "";
  const made = node.made_by && (sign !== "-") ? `--hue: ${graph.colors.get(node.made_by)}` : null;
  return element("div", { class: `line ${kind} ${made ? "by" : ""}`, style: made, "data-name": node.name, onclick: () => pick(node.name) }, `${sign || ""}${nodeLine(node)}`);
}
