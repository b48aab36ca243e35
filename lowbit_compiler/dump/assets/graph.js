// The selected block as a drawing: its nodes, what they read from outside, and who reads them; large blocks as boxes of modules.

const MOST_NODES = 120;
const MOST_BOXES = 40;
const MOST_READERS = 6;
const LETTER = 6.65;
const MOST_LETTERS = 30;

// What to draw of one stage: {items: [{id, kind, label, sub, node?, path?}], edges: [[id, id]], count}
function blockOf(graph, view, path) {
  const inside = membersOf(graph, view, path);
  return inside.size > MOST_NODES ? collapsed(graph, view, path, inside) : flat(view, inside);
}

// The names of a block's nodes: those of the module, and of its sites where a fused forward computes them elsewhere.
function membersOf(graph, view, path) {
  const inside = new Set();
  for (const node of view.nodes) if (node.op !== "output" && inModule(node.module, path) && (path !== "" || node.op !== "placeholder")) inside.add(node.name);
  for (const [name, sites] of view.sitesAt) if (sites.some((site) => inModule(siteModule(graph.sites[site]), path))) inside.add(name);
  return inside;
}

function flat(view, inside) {
  const items = new Map();
  const edges = [];
  for (const node of view.nodes) {
    if (!inside.has(node.name)) continue;
    for (const name of node.inputs) {
      const input = view.byName.get(name);
      if (!inside.has(name) && !items.has(name)) items.set(name, itemOf(view, input, isConstant(input) ? "constant" : "outside"));
    }
    items.set(node.name, itemOf(view, node, node.op === "placeholder" ? "constant" : "node"));
    edges.push(...new Set(node.inputs.map((name) => `${name}\n${node.name}`)));
    const outside = view.readers.get(node.name).filter((name) => !inside.has(name));
    if (outside.length && node.op !== "placeholder") {
      const id = `${node.name} \u2192`;
      const label = outside.length > 1 ? `to ${outside.length} readers` : `to ${outsideName(view.byName.get(outside[0]))}`;
      items.set(id, { id, kind: "outside", label, sub: "", node: view.byName.get(outside[0]) });
      edges.push(`${node.name}\n${id}`);
    }
  }
  return { items: [...items.values()], edges: edges.map((edge) => edge.split("\n")), count: inside.size };
}

function itemOf(view, node, kind) {
  const sites = view.sitesAt.get(node.name) || [];
  return { id: node.name, kind, label: clip(kind === "outside" ? outsideName(node) : opName(node), MOST_LETTERS), sub: clip(shortType(node.type), MOST_LETTERS), node, sites };
}

// Of a value from elsewhere its name says more than its op: Dynamo names values after the model's variables.
function outsideName(node) {
  return clip(node.op === "output" ? "output" : node.name, 22);
}

// Modules below the selected one become boxes, level by level while they are few.
function collapsed(graph, view, path, inside) {
  const groups = new Map([[path, findItem(graph, path)]]);
  for (;;) {
    const depth = Math.min(...[...groups.values()].filter((item) => item.children.size).map((item) => item.path.split(".").length));
    const open = [...groups.values()].filter((item) => item.children.size && item.path.split(".").length === depth);
    const more = open.reduce((sum, item) => sum + item.children.size - 1, 0);
    if (!open.length || (!groups.has(path) && groups.size + more > MOST_BOXES)) break;
    for (const item of open) {
      groups.delete(item.path);
      for (const child of item.children.values()) groups.set(child.path, child);
    }
  }
  const home = (module) => {
    for (let at = module; ; at = at.slice(0, Math.max(at.lastIndexOf("."), 0))) {
      if (groups.has(at) && at !== path) return at;
      if (at === "" || at === path) return null;
    }
  };
  const items = new Map();
  const where = new Map();
  for (const node of view.nodes) {
    if (!inside.has(node.name) || (node.op === "placeholder" && home(node.module) === null)) continue;
    const at = home(node.module);
    const id = at === null ? (`${path} itself`) : at;
    where.set(node.name, id);
    if (!items.has(id)) items.set(id, { id, kind: "group", label: "", sub: "", path: at === null ? path : at, members: 0, item: at === null ? null : groups.get(at) });
    items.get(id).members += 1;
  }
  for (const item of items.values()) {
    item.label = item.item ? clip(path ? item.path.slice(path.length + 1) : item.path, MOST_LETTERS) : "own nodes";
    item.sub = plural(item.members, "node") + (item.item && item.item.all.length ? `, ${item.item.rewritten}/${item.item.all.length} sites` : "");
  }
  const edges = new Set();
  for (const node of view.nodes) {
    for (const name of node.inputs) {
      const [from, to] = [where.get(name), where.get(node.name)];
      if (from && to && from !== to) edges.add(`${from}\n${to}`);
    }
  }
  return { items: [...items.values()], edges: thin(items, [...edges].map((edge) => edge.split("\n"))), count: inside.size };
}

// What every layer reads (a mask, tables of cosines) says so in words, and is joined to its first reader alone.
function thin(items, edges) {
  const readers = new Map();
  for (const [from] of edges) readers.set(from, (readers.get(from) || 0) + 1);
  const joined = new Set();
  return edges.filter(([from]) => {
    if (readers.get(from) <= MOST_READERS) return true;
    if (joined.has(from)) return false;
    joined.add(from);
    items.get(from).sub += `, ${readers.get(from)} readers`;
    return true;
  });
}

function clip(text, most) {
  return text.length > most ? `${text.slice(0, most - 1)}\u2026` : text;
}

// ---- drawing

// pick(item) is called for a click or Enter; other is the view on the other side, to mark what is not there.
function drawBlock(graph, block, other, side, pick) {
  for (const item of block.items) {
    item.prologue = item.sites && item.sites.length && side === "after" && item.node.arguments.includes("prologue=") ? graph.sites[item.sites[0]].prologue : "";
    const lines = [item.label, item.sub, item.prologue && `with ${item.prologue}`].filter(Boolean);
    item.lines = lines.map((line) => clip(line, MOST_LETTERS));
    item.w = Math.max(...item.lines.map((line) => line.length)) * LETTER + (item.sites && item.sites.length ? 34 : 22);
    item.h = 12 + 14 * item.lines.length;
  }
  const { at, paths, width, height } = layoutGraph(block.items, block.edges);
  const margin = 14;
  const root = svg("svg", {
    viewBox: `${-margin} ${-margin} ${width + 2 * margin} ${height + 2 * margin}`, "data-width": width + 2 * margin, "data-height": height + 2 * margin,
    role: "group", "aria-label": `${plural(block.count, "node")}, ${side}`,
  });
  const lines = svg("g", { class: "edges" });
  for (const path of paths) lines.append(svg("path", { d: curve(path.points), "data-from": path.from, "data-to": path.to }));
  root.append(lines);
  for (const item of block.items) root.append(drawItem(graph, item, at.get(item.id), other, side, pick));
  return root;
}

function drawItem(graph, item, { x, y }, other, side, pick) {
  const node = item.kind === "node" || item.kind === "constant" ? item.node : null;
  const made = node && node.made_by && side === "after" ? graph.colors.get(node.made_by) : undefined;
  const gone = node && side === "before" && !other.byName.has(node.name);
  const site = node && item.sites.length ? graph.sites[item.sites[0]] : null;
  const group = svg("g", {
    class: ["item", item.kind, gone && "gone", made !== undefined && "made"].filter(Boolean).join(" "),
    style: made !== undefined ? `--hue: ${made}` : null, transform: `translate(${x - item.w / 2} ${y - item.h / 2})`,
    tabindex: "0", role: "button", "data-id": item.id, "data-name": item.node ? item.node.name : null,
    "aria-label": [item.label, item.sub, node && node.made_by && `made by ${node.made_by}`, gone && "removed", site && site.decision].filter(Boolean).join(", "),
    onclick: () => pick(item), onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pick(item); } },
  });
  group.append(svg("rect", { width: item.w, height: item.h, rx: item.kind === "node" || item.kind === "group" ? 5 : item.h / 2 }));
  if (site) group.append(svg("circle", { class: `mark ${site.decision}`, cx: item.w - 12, cy: 13, r: 3.5 }));
  item.lines.forEach((line, i) => {
    const place = site ? { x: 11 } : { x: item.w / 2, "text-anchor": "middle" };
    group.append(svg("text", { ...place, y: 17 + 14 * i, class: i ? "sub" : "label" }, line));
  });
  return group;
}

function curve(points) {
  const start = points[0];
  let path = `M${start.x} ${start.y + start.h / 2}`;
  for (let i = 1; i < points.length; i += 1) {
    const from = { x: points[i - 1].x, y: points[i - 1].y + points[i - 1].h / 2 };
    const to = { x: points[i].x, y: points[i].y - points[i].h / 2 };
    const bend = (to.y - from.y) / 2;
    if (i > 1) path += ` L${from.x} ${from.y}`;
    path += ` C${from.x} ${from.y + bend} ${to.x} ${to.y - bend} ${to.x} ${to.y}`;
  }
  return path;
}

function legendOf(graph, before, after, inBefore, inAfter) {
  const makers = [...graph.colors.keys()].filter((name) => inAfter.items.some((item) => item.node && item.kind !== "outside" && item.node.made_by === name));
  const rows = makers.map((name) => element("li", {}, element("i", { class: "swatch made", style: `--hue: ${graph.colors.get(name)}` }), `made by ${name}`));
  const shows = (kind) => [...inBefore.items, ...inAfter.items].some((item) => item.kind === kind);
  if (inBefore.items.some((item) => item.node && item.kind !== "outside" && !after.byName.has(item.node.name))) rows.push(element("li", {}, element("i", { class: "swatch gone" }), "removed"));
  if (shows("outside")) rows.push(element("li", {}, element("i", { class: "swatch outside" }), "outside the block"));
  const decisions = new Set([...inBefore.items, ...inAfter.items].flatMap((item) => (item.sites || []).map((site) => graph.sites[site].decision)));
  for (const decision of DECISIONS) if (decisions.has(decision)) rows.push(element("li", {}, element("i", { class: `mark ${decision}` }), `site ${decision}`));
  return rows;
}
