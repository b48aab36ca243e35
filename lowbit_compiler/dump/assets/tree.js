// The module tree. Rows are made when their parent is opened.

// choose(path) is called for the row that is selected.
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
  return `${item.name}${item.kind ? ` ${item.kind}` : ""}${item.all.length ? `, ${decisionsText(item)}` : ""}`;
}

function counts(item) {
  if (!item.all.length) return [];
  return DECISIONS.map((decision) => (item[decision] ? element("b", { class: decision }, item[decision]) : null));
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
