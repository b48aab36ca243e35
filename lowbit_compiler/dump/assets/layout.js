// A layered drawing of a small graph: layers by longest path, order by medians, places by least squares. No DOM here.

const GAP = { x: 20, y: 34 };
const SWEEPS = 10;

// nodes: [{id, w, h}], edges: [[id, id]] -> {at: Map id -> {x, y} (centres), paths: [{from, to, points}], width, height}
function layoutGraph(nodes, edges) {
  const boxes = new Map(nodes.map((node) => [node.id, { ...node, up: [], down: [] }]));
  const forward = acyclic(boxes, edges);
  setRanks(boxes, forward);
  const chains = edges.map(([from, to]) => chain(boxes, from, to));
  for (const points of chains) {
    for (let i = 1; i < points.length; i += 1) {
      points[i - 1].down.push(points[i]);
      points[i].up.push(points[i - 1]);
    }
  }
  const layers = [];
  for (const box of boxes.values()) (layers[box.rank] ||= []).push(box);
  orderLayers(layers);
  placeLayers(layers);
  let y = 0;
  for (const layer of layers) {
    const height = Math.max(...layer.map((box) => box.h));
    for (const box of layer) {
      box.y = y + height / 2;
      if (box.bend) box.h = height;  // an edge goes straight down between the boxes of a layer
    }
    y += height + GAP.y;
  }
  const left = Math.min(...[...boxes.values()].map((box) => box.x - box.w / 2));
  const right = Math.max(...[...boxes.values()].map((box) => box.x + box.w / 2));
  const at = new Map(nodes.map(({ id }) => [id, { x: boxes.get(id).x - left, y: boxes.get(id).y }]));
  const paths = edges.map(([from, to], i) => ({ from, to, points: chains[i].map((box) => ({ x: box.x - left, y: box.y, h: box.h })) }));
  return { at, paths, width: right - left, height: y - GAP.y };
}

// Collapsed modules may make cycles: the edges that close one are left out of the ranking.
function acyclic(boxes, edges) {
  const next = new Map([...boxes.keys()].map((id) => [id, []]));
  for (const [from, to] of edges) next.get(from).push(to);
  const state = new Map();
  const kept = [];
  const visit = (root) => {
    const stack = [[root, 0]];
    state.set(root, 1);
    while (stack.length) {
      const top = stack[stack.length - 1];
      const to = next.get(top[0])[top[1]];
      top[1] += 1;
      if (to === undefined) { state.set(top[0], 2); stack.pop(); continue; }
      if (state.get(to) === 1) continue;
      kept.push([top[0], to]);
      if (!state.has(to)) { state.set(to, 1); stack.push([to, 0]); }
    }
  };
  for (const id of boxes.keys()) if (!state.has(id)) visit(id);
  return kept;
}

function setRanks(boxes, edges) {
  const before = new Map([...boxes.keys()].map((id) => [id, []]));
  const after = new Map([...boxes.keys()].map((id) => [id, []]));
  for (const [from, to] of edges) { before.get(to).push(from); after.get(from).push(to); }
  const waiting = new Map([...before].map(([id, list]) => [id, list.length]));
  const ready = [...boxes.keys()].filter((id) => waiting.get(id) === 0);
  for (const id of boxes.keys()) boxes.get(id).rank = 0;
  for (const id of ready) {
    for (const to of after.get(id)) {
      boxes.get(to).rank = Math.max(boxes.get(to).rank, boxes.get(id).rank + 1);
      waiting.set(to, waiting.get(to) - 1);
      if (waiting.get(to) === 0) ready.push(to);
    }
  }
  for (const [id, list] of before) {  // a weight stands right above its reader
    if (!list.length && after.get(id).length) boxes.get(id).rank = Math.min(...after.get(id).map((to) => boxes.get(to).rank)) - 1;
  }
  const first = Math.min(...[...boxes.values()].map((box) => box.rank));
  for (const box of boxes.values()) box.rank -= first;
}

function chain(boxes, from, to) {
  const start = boxes.get(from);
  const end = boxes.get(to);
  const points = [start];
  const step = end.rank > start.rank ? 1 : -1;
  for (let rank = start.rank + step; rank !== end.rank && end.rank !== start.rank; rank += step) {
    const bend = { id: Symbol("bend"), w: 6, h: 0, rank, up: [], down: [], bend: true };
    boxes.set(bend.id, bend);
    points.push(bend);
  }
  points.push(end);
  return points;
}

function orderLayers(layers) {
  const number = () => layers.forEach((layer) => layer.forEach((box, i) => { box.order = i; }));
  number();
  let best = layers.map((layer) => [...layer]);
  let fewest = crossings(layers);
  for (let sweep = 0; sweep < SWEEPS && fewest > 0; sweep += 1) {
    const side = sweep % 2 ? "down" : "up";
    for (const layer of sweep % 2 ? [...layers].reverse() : layers) {
      for (const box of layer) box.key = box[side].length ? median(box[side].map((other) => other.order)) : box.order;
      layer.sort((a, b) => a.key - b.key || a.order - b.order);
      layer.forEach((box, i) => { box.order = i; });
    }
    const now = crossings(layers);
    if (now < fewest) { fewest = now; best = layers.map((layer) => [...layer]); }
  }
  best.forEach((layer, i) => { layers[i] = layer; });
  number();
}

function median(values) {
  const sorted = values.sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function crossings(layers) {
  let total = 0;
  for (const layer of layers) {
    const ends = layer.flatMap((box) => box.down.map((to) => [box.order, to.order]));
    for (let i = 0; i < ends.length; i += 1) {
      for (let j = i + 1; j < ends.length; j += 1) if ((ends[i][0] - ends[j][0]) * (ends[i][1] - ends[j][1]) < 0) total += 1;
    }
  }
  return total;
}

// Each box wants to stand at the mean of its neighbours; boxes of a layer keep their order and distance.
function placeLayers(layers) {
  for (const layer of layers) {
    let x = 0;
    for (const box of layer) { box.x = x + box.w / 2; x += box.w + GAP.x; }
  }
  for (let sweep = 0; sweep < 2 * SWEEPS; sweep += 1) {
    for (const layer of sweep % 2 ? [...layers].reverse() : layers) {
      const wanted = layer.map((box) => {
        const near = sweep < SWEEPS ? box[sweep % 2 ? "down" : "up"] : [...box.up, ...box.down];
        if (!near.length) return { x: box.x, weight: 0.1 };
        const pull = near.map((other) => (box.bend && other.bend ? 8 : 1));
        const weight = pull.reduce((a, b) => a + b);
        return { x: near.reduce((sum, other, i) => sum + other.x * pull[i], 0) / weight, weight };
      });
      spread(layer, wanted);
    }
  }
}

// Least squares with least distances, by pooling neighbours that would overlap.
function spread(layer, wanted) {
  const blocks = [];
  let offset = 0;
  layer.forEach((box, i) => {
    if (i) offset += (layer[i - 1].w + box.w) / 2 + GAP.x;
    blocks.push({ boxes: [[box, offset]], weight: wanted[i].weight, sum: (wanted[i].x - offset) * wanted[i].weight });
    while (blocks.length > 1) {
      const [before, last] = blocks.slice(-2);
      if (before.sum / before.weight <= last.sum / last.weight) break;
      blocks.splice(-2, 2, { boxes: [...before.boxes, ...last.boxes], weight: before.weight + last.weight, sum: before.sum + last.sum });
    }
  });
  for (const block of blocks) for (const [box, shift] of block.boxes) box.x = block.sum / block.weight + shift;
}
