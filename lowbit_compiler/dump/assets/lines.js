// Diff and text: lines in chunks, which browsers lay out when they come into sight.

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
