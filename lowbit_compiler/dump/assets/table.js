// The table of sites.

const COLUMNS = [
  ["module", (site) => site.module], ["op", (site) => site.op], ["shape", (site) => site.shape], ["decision", (site) => site.decision],
  ["reason or op", (site) => (site.decision === "rewritten" ? site.lowered_to.replace("lowbit::", "") : site.reason || site.decision) + (site.prologue ? `, ${site.prologue}` : "")],
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
