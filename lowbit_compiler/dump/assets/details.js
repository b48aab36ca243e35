// The details of what is selected: a module, a node or a site.

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
      ["sites", sites.length ? decisionsText(item) : "none"],
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
    element("span", { class: "quiet" }, ` ${site.decision === "rewritten" ? site.lowered_to.replace("lowbit::", "") : site.reason || site.decision}`));
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
