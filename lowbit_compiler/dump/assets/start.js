// Keys, theme and address, and the start of it all.

function pageKey(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "/" && !(typing && event.target.type === "text")) {
    event.preventDefault();
    byId("query").focus();
    byId("query").select();
  } else if (event.key === "Escape" && !typing) update({ node: null, site: null });
  else if ((event.key === "ArrowLeft" || event.key === "ArrowRight") && !typing && !event.target.matches(".pane, [role=tab], [role=tabpanel]")) {
    event.preventDefault();
    update({ stage: Math.min(Math.max(state.stage + (event.key === "ArrowRight" ? 1 : -1), 0), graph.stages.length - 1) });
  }
}

function tabKey(event) {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const next = tabs[(tabs.indexOf(event.target) + step + tabs.length) % tabs.length];
  update({ tab: next.id.slice(4) });
  next.focus();
}

const dark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  byId("theme").textContent = dark() ? "Light" : "Dark";
}

function remember() {
  const parts = { graph: state.graph || "", stage: graph.stages[state.stage].name, module: state.module, node: state.node || "", tab: state.tab === "graph" ? "" : state.tab, base: state.base === "capture" ? "" : state.base };
  const text = new URLSearchParams(Object.entries(parts).filter(([name, value]) => value !== "" || name === "module")).toString();
  history.replaceState(null, "", `#${text}`);
}

function recall() {
  const given = new URLSearchParams(location.hash.slice(1));
  const number = GRAPHS[given.get("graph")] ? Number(given.get("graph")) : 0;
  graph = null;
  state.graph = number;
  openRecord();
  const stage = graph.stages.findIndex((other) => other.name === given.get("stage"));
  return {
    graph: number, stage: stage < 0 ? graph.stages.length - 1 : stage, module: given.get("module") ?? firstBlock(), node: given.get("node"), site: null,
    tab: ["diff", "sites", "text"].includes(given.get("tab")) ? given.get("tab") : "graph", base: given.get("base") === "before" ? "before" : "capture",
  };
}

function start() {
  byId("graphs").hidden = GRAPHS.length < 2;
  byId("graphs").append(...GRAPHS.map((record, i) => element("option", { value: i }, `graph ${record.compile_id || i}`)));
  const change = recall();
  byId("graphs").value = change.graph;
  byId("base").value = change.base;
  byId("graphs").onchange = (event) => { graph = null; state.graph = Number(event.target.value); openRecord(); update({ stage: graph.stages.length - 1, module: firstBlock(), node: null, site: null }); showStage(); showCenter(); };
  byId("stage").oninput = (event) => update({ stage: Number(event.target.value) });
  byId("base").onchange = (event) => update({ base: event.target.value });
  byId("only").onchange = (event) => update({ only: event.target.checked });
  byId("query").oninput = showFound;
  byId("query").onfocus = () => { if (byId("query").value) showFound(); };
  byId("query").onblur = closeSearch;
  byId("query").onkeydown = searchKey;
  byId("theme").onclick = () => setTheme(dark() ? "light" : "dark");
  byId("in").onclick = () => zoomBy(1.25);
  byId("out").onclick = () => zoomBy(0.8);
  byId("fit").onclick = () => zoomTo(null);
  for (const tab of document.querySelectorAll("[role=tab]")) { tab.onclick = () => update({ tab: tab.id.slice(4) }); tab.onkeydown = tabKey; }
  for (const side of ["before", "after"]) dragging(byId(side));
  for (const side of ["before", "after"]) byId(side).addEventListener("wheel", (event) => { if (event.ctrlKey) { event.preventDefault(); zoomBy(event.deltaY < 0 ? 1.15 : 0.87); } }, { passive: false });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTheme(null));
  document.addEventListener("keydown", pageKey);
  setTheme(null);
  update(change);
  document.documentElement.dataset.ready = "true";
}

start();
