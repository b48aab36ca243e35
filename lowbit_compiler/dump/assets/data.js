"use strict";
// The records, and what is computed from them once. Text of the model reaches the page only as text nodes, never as markup.

const GRAPHS = JSON.parse(document.getElementById("data").textContent);
const DTYPES = {
  bfloat16: "bf16", float16: "f16", float32: "f32", float64: "f64", int8: "s8", uint8: "u8", int16: "i16", int32: "i32", int64: "i64",
};

function openGraph(record) {
  const graph = { ...record, views: [], tree: null, colors: new Map() };
  record.nodes.forEach((node, id) => { node.id = id; });
  const makers = record.stages.map((stage) => stage.name).filter((name) => record.nodes.some((node) => node.made_by === name));
  makers.forEach((name, i) => graph.colors.set(name, Math.round(20 + (360 / makers.length) * i)));
  graph.tree = moduleTree(graph);
  return graph;
}

// ---- stages

// The nodes of one stage, by name and by reader, and which sites are at which node.
function stageView(graph, number) {
  if (graph.views[number]) return graph.views[number];
  const stage = graph.stages[number];
  const nodes = stage.nodes.map((id) => graph.nodes[id]);
  const byName = new Map(nodes.map((node) => [node.name, node]));
  const readers = new Map(nodes.map((node) => [node.name, []]));
  for (const node of nodes) for (const input of node.inputs) readers.get(input)?.push(node.name);
  const known = stage.sites.length ? stage : graph.stages.find((other) => other.sites.length);
  const siteNode = (known ? known.sites : []).map((id) => (id === null ? null : graph.nodes[id].name));
  const sitesAt = new Map();
  siteNode.forEach((name, site) => {
    if (name === null || !byName.has(name) || !graph.sites[site]) return;
    if (!sitesAt.has(name)) sitesAt.set(name, []);
    sitesAt.get(name).push(site);
  });
  graph.views[number] = { number, stage, nodes, byName, readers, sitesAt, siteNode };
  return graph.views[number];
}

function inModule(path, module) {
  return module === "" || path === module || path.startsWith(`${module}.`);
}

const isConstant = (node) => node.op === "placeholder" && (node.parameter !== "" || node.made_by !== "");

// Bytes of the constants that a site's node reads: the packed weight and its bias.
function constantBytes(view, node) {
  const given = node.inputs.map((name) => view.byName.get(name)).filter((input) => input && isConstant(input));
  return given.length && given.every((input) => input.bytes !== null) ? given.reduce((sum, input) => sum + input.bytes, 0) : null;
}

// ---- modules

function moduleTree(graph) {
  const root = treeItem("", graph.modules[""] ? "" : "model", graph.modules[""] || "");
  root.name = graph.modules[""] || "whole graph";
  root.kind = "";
  const at = (path) => {
    let item = root;
    if (path === "") return item;
    const parts = path.split(".");
    parts.forEach((name, depth) => {
      if (!item.children.has(name)) {
        const full = parts.slice(0, depth + 1).join(".");
        item.children.set(name, treeItem(full, name, graph.modules[full] || ""));
      }
      item = item.children.get(name);
    });
    return item;
  };
  for (const path of Object.keys(graph.modules)) at(path);
  graph.sites.forEach((site, number) => at(siteModule(site)).sites.push(number));
  (function count(item) {
    item.children.forEach((child) => { child.parent = item; count(child); });
    item.all = [...item.sites, ...[...item.children.values()].flatMap((child) => child.all)];
    for (const decision of DECISIONS) item[decision] = item.all.filter((number) => graph.sites[number].decision === decision).length;
  })(root);
  return root;
}

const DECISIONS = ["rewritten", "emulated", "declined"];

function decisionsText(item) {
  return `${item.rewritten} rewritten, ${item.emulated ? `${item.emulated} emulated, ` : ""}${item.declined} declined`;
}

function treeItem(path, name, kind) {
  return { path, name, kind, children: new Map(), sites: [], all: [], rewritten: 0, emulated: 0, declined: 0, parent: null };
}

function siteModule(site) {
  return site.module === "(function)" ? "" : site.module;
}

function findItem(graph, path) {
  let item = graph.tree;
  for (const name of path ? path.split(".") : []) {
    if (!item.children.has(name)) return item;
    item = item.children.get(name);
  }
  return item;
}

// ---- words

function opName(node) {
  if (node.op === "placeholder") return node.parameter ? node.parameter.split(".").slice(-2).join(".") : node.name;
  if (node.op === "output") return "output";
  const parts = node.target.split(".");
  if (parts[0] === "aten" || parts[0] === "lowbit" || parts[0] === "prims") return parts[1];
  const name = parts[parts.length - 1];
  const index = name === "getitem" ? /, (\d+)$/.exec(node.arguments) : null;
  return index ? `getitem ${index[1]}` : name;
}

function shortType(type) {
  return type.replace(/(\w+)\[([^\]]*)\]/g, (_, dtype, sizes) => `${DTYPES[dtype] || dtype} ${sizes.split(", ").join("\u00d7") || "scalar"}`)
    .replace(/^\(|\)$/g, "");
}

function nodeLine(node) {
  if (node.op === "output") return `return ${node.arguments}`;
  const call = node.op === "placeholder" ? "input" : `${node.target}(${node.arguments})`;
  const note = [node.parameter || node.module, node.made_by && `made by ${node.made_by}`].filter(Boolean).join(", ");
  return `%${node.name} : ${node.type} = ${call}${note ? `    # ${note}` : ""}`;
}

function bytesText(bytes) {
  if (bytes === null || bytes === undefined) return "";
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) if (Math.abs(bytes) >= size) return `${(bytes / size).toPrecision(3)} ${unit}`;
  return `${bytes} B`;
}

function secondsText(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds >= 1) return `${seconds.toPrecision(3)} s`;
  return seconds >= 1e-3 ? `${(seconds * 1e3).toPrecision(3)} ms` : `${(seconds * 1e6).toPrecision(3)} \u00b5s`;
}

const digits = (count) => (value) => (value === null || value === undefined ? "" : Number(value).toPrecision(count));
const percent = (value) => (value === null || value === undefined ? "" : `${(value * 100).toPrecision(3)} %`);
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

// ---- elements

function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

const byId = (id) => document.getElementById(id);
