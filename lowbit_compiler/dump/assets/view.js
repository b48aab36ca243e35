// What is selected and shown, and what changes it: slider, tree, drawing and tabs.

const state = { graph: 0, stage: 0, module: "", node: null, site: null, tab: "graph", base: "capture", only: false, scale: 1, sort: { by: "", direction: 1 } };
const graphs = [];
let graph;

const beforeNumber = () => (state.base === "capture" ? 0 : Math.max(state.stage - 1, 0));
const views = () => ({ before: stageView(graph, beforeNumber()), after: stageView(graph, state.stage) });

// ---- changes

function update(change) {
  const old = { ...state };
  Object.assign(state, change);
  if (state.graph !== old.graph || !graph) openRecord();
  const moved = state.stage !== old.stage || state.graph !== old.graph || state.base !== old.base;
  const elsewhere = moved || state.module !== old.module || state.tab !== old.tab || state.only !== old.only || !byId("after").firstChild;
  if (moved || !byId("happened").textContent) showStage();
  if (elsewhere) showCenter();
  if (state.module !== old.module || state.graph !== old.graph || !document.querySelector("#tree [aria-selected]")) showInTree(graph, byId("tree"), state.module, chooseModule);
  showSelection();
  showDetails();
  remember();
}

function openRecord() {
  graph = graphs[state.graph] ||= openGraph(GRAPHS[state.graph]);
  const ticks = graph.stages.map((stage, number) => {
    const changed = stage.edits.reduce((sum, [, , c, d]) => sum + d - c, 0);
    const hue = graph.colors.get(stage.name);
    return element("li", {}, element("button", {
      type: "button", tabindex: "-1", class: stage.edits.length || number === 0 ? "busy" : "", style: `--height: ${Math.ceil(Math.log2(1 + changed) * 2.4)}px;${hue === undefined ? "" : `--hue: ${hue}`}`,
      title: stage.note, onclick: () => update({ stage: number }),
    }, element("i"), stage.name));
  });
  byId("ticks").replaceChildren(...ticks);
  byId("ticks").style.setProperty("--stages", graph.stages.length);
  byId("stage").max = graph.stages.length - 1;
  byId("stage").style.setProperty("--stages", graph.stages.length);
  byId("summary").textContent = [graph.summary, graph.compile_id && GRAPHS.length === 1 ? `graph ${graph.compile_id}` : ""].filter(Boolean).join(" \u00b7 ");
  drawTree(graph, byId("tree"), chooseModule);
  byId("happened").textContent = "";
}

// The smallest block with at least two sites says most at first sight.
function firstBlock() {
  let best = null;
  (function visit(item) {
    if (item.all.length > 1 && item.all.length <= 8 && (!best || item.all.length < best.all.length || (item.all.length === best.all.length && item.rewritten > best.rewritten))) best = item;
    item.children.forEach(visit);
  })(graph.tree);
  return best ? best.path : "";
}

function chooseModule(path, site = null) {
  update({ module: path, site, node: site === null ? null : views().after.siteNode[site] });
}

function chooseNode(name) {
  update({ node: name, site: null });
}

function chooseSite(number) {
  const site = graph.sites[number];
  update({ site: number, node: views().after.siteNode[number] ?? null, module: inModule(siteModule(site), state.module) ? state.module : parentOf(siteModule(site)), tab: "graph" });
}

function parentOf(path) {
  const item = findItem(graph, path);
  return item.parent && !item.children.size ? item.parent.path : item.path;
}

// ---- what is shown

function showStage() {
  const stage = graph.stages[state.stage];
  byId("stage").value = state.stage;
  byId("stage").setAttribute("aria-valuetext", `${state.stage} of ${graph.stages.length - 1}, ${stage.name}: ${stage.note}`);
  byId("ticks").querySelectorAll("button").forEach((tick, number) => {
    tick.classList.toggle("now", number === state.stage);
    tick.classList.toggle("base", number === beforeNumber());
  });
  byId("happened").replaceChildren(element("b", {}, stage.name), ` ${stage.note}`, element("span", { class: "quiet" }, ` \u00b7 ${plural(stage.nodes.length, "node")}`));
}

function showCenter() {
  for (const name of ["graph", "diff", "sites", "text"]) {
    const tab = byId(`tab-${name}`);
    tab.setAttribute("aria-selected", String(name === state.tab));
    tab.tabIndex = name === state.tab ? 0 : -1;
    byId(`panel-${name}`).hidden = name !== state.tab;
  }
  showPath();
  const scope = state.only ? state.module : "";
  byId("scope").hidden = state.tab === "graph";
  if (state.tab === "graph") showGraphs();
  if (state.tab === "sites") drawSites(graph, byId("panel-sites"), state.sort, scope, chooseSite);
  if (state.tab === "diff") drawLines(graph, byId("panel-diff"), diffRows(graph, state.stage, scope), scope ? "This stage changed nothing in this block." : "This stage changed nothing.", chooseNode);
  if (state.tab === "text") drawLines(graph, byId("panel-text"), views().after.nodes.filter((node) => inModule(node.module, scope)).map((node) => ({ node })), "No nodes.", chooseNode);
}

function showPath() {
  const parts = state.module ? state.module.split(".") : [];
  const links = [element("button", { type: "button", class: "link", onclick: () => update({ module: "", node: null, site: null }) }, graph.tree.name)];
  parts.forEach((part, i) => links.push(" \u203a ", element("button", { type: "button", class: "link", onclick: () => update({ module: parts.slice(0, i + 1).join("."), node: null, site: null }) }, part)));
  byId("path").replaceChildren(...links);
}

function showGraphs() {
  const { before, after } = views();
  const blocks = { before: blockOf(graph, before, state.module), after: blockOf(graph, after, state.module) };
  for (const [side, view, other] of [["before", before, after], ["after", after, before]]) {
    byId(`caption-${side}`).replaceChildren(element("b", {}, view.stage.name), element("span", { class: "quiet" }, ` ${plural(blocks[side].count, "node")}`));
    const pane = byId(side);
    if (!blocks[side].items.length) {
      pane.replaceChildren(element("p", { class: "empty" }, "Nothing of this block is in the graph at this stage."));
      continue;
    }
    pane.replaceChildren(drawBlock(graph, blocks[side], other, side, pickItem));
  }
  byId("legend").replaceChildren(...legendOf(graph, before, after, blocks.before, blocks.after));
  zoomTo(null);
  for (const side of ["before", "after"]) byId(side).scrollTo((byId(side).scrollWidth - byId(side).clientWidth) / 2, 0);
}

function pickItem(item) {
  if (item.kind === "group") {
    if (item.path !== state.module) update({ module: item.path, node: null, site: null });
  } else chooseNode(item.node.name);
}

// Both sides get one scale: what fits the wider drawing's width, within what can be read; null: fit.
function zoomTo(scale) {
  const drawings = ["before", "after"].map((side) => [byId(side), byId(side).querySelector("svg")]).filter(([, drawing]) => drawing);
  if (!drawings.length) return;
  const fits = drawings.map(([pane, drawing]) => Math.min((pane.clientWidth - 2) / drawing.dataset.width, (pane.clientHeight - 2) / drawing.dataset.height));
  state.scale = scale ?? Math.min(1, Math.max(0.7, Math.min(...fits)));
  for (const [, drawing] of drawings) {
    drawing.setAttribute("width", drawing.dataset.width * state.scale);
    drawing.setAttribute("height", drawing.dataset.height * state.scale);
  }
}

function zoomBy(factor) {
  zoomTo(Math.min(3, Math.max(0.15, (state.scale || 1) * factor)));
}

// The drawing follows the pointer, unless that is a click on one of its nodes.
function dragging(pane) {
  let from = null;
  pane.addEventListener("pointerdown", (event) => {
    if (event.button === 0 && event.pointerType === "mouse" && !event.target.closest(".item")) from = { x: event.clientX + pane.scrollLeft, y: event.clientY + pane.scrollTop };
  });
  pane.addEventListener("pointermove", (event) => {
    if (from && event.buttons === 1) pane.scrollTo(from.x - event.clientX, from.y - event.clientY);
    else from = null;
  });
}

function showSelection() {
  for (const marked of document.querySelectorAll(".chosen")) marked.classList.remove("chosen");
  const { before, after } = views();
  const names = { before: new Set([state.node]), after: new Set([state.node]) };
  for (const [here, there, from, to] of [["before", "after", before, after], ["after", "before", after, before]]) {
    for (const site of from.sitesAt.get(state.node) || []) if (to.siteNode[site]) names[there].add(to.siteNode[site]);
    if (state.site !== null && from.siteNode[state.site]) names[here].add(from.siteNode[state.site]);
  }
  for (const side of ["before", "after"]) {
    for (const item of byId(side).querySelectorAll(".item:not(.outside)")) if (names[side].has(item.dataset.name)) markItem(item, side);
    for (const edge of byId(side).querySelectorAll(".edges path")) edge.classList.toggle("chosen", names[side].has(edge.dataset.from) || names[side].has(edge.dataset.to));
  }
  for (const line of document.querySelectorAll(".line")) if (line.dataset.name === state.node) line.classList.add("chosen");
  const row = state.site === null ? null : document.querySelector(`tr[data-site="${state.site}"]`);
  if (row) row.classList.add("chosen");
}

function markItem(item, side) {
  item.classList.add("chosen");
  const pane = byId(side).getBoundingClientRect();
  const box = item.getBoundingClientRect();
  if (box.top < pane.top || box.bottom > pane.bottom || box.left < pane.left || box.right > pane.right) {
    byId(side).scrollBy(box.left + box.width / 2 - pane.left - pane.width / 2, box.top + box.height / 2 - pane.top - pane.height / 2);
  }
}

function showDetails() {
  const { before, after } = views();
  const go = { node: openNode, module: (path) => update({ module: path, node: null, site: null }) };
  const view = after.byName.has(state.node) ? after : before.byName.has(state.node) ? before : null;
  let parts;
  if (view) parts = nodeDetails(graph, view, view.byName.get(state.node), go);
  else if (state.site !== null) parts = [element("p", { class: "over" }, "site"), element("h2", {}, graph.sites[state.site].module), ...siteDetails(graph, state.site, false)];
  else parts = moduleDetails(graph, findItem(graph, state.module), after, chooseSite);
  byId("details").replaceChildren(...parts.filter(Boolean));
  byId("details").scrollTop = 0;
}

// A node that the drawing does not hold takes the drawing along.
function openNode(name) {
  const { before, after } = views();
  const node = after.byName.get(name) || before.byName.get(name);
  if (!node) return;
  const drawn = [...document.querySelectorAll(".item")].some((item) => item.dataset.name === name);
  update({ node: name, site: null, module: drawn || state.tab !== "graph" ? state.module : parentOf(node.module) });
}
