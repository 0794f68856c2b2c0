// The second view: where the bytes of the file are, and what it costs beside other sizes.

let begun = false;

/** Fills the view, the first time that it is seen. */
export async function tell(view) {
  if (begun) return;
  begun = true;
  const told = view.querySelector("#told");
  try {
    const answer = await fetch("facts.json");
    if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
    const facts = await answer.json();
    view.append(figures(facts), ...curve(facts), ...layers(facts));
    told.textContent = facts.running;
  } catch (error) {
    begun = false;
    told.textContent = `What the file is made of cannot be shown: ${error.message}.`;
  }
}

function element(name, attributes = {}, ...children) {
  const svg = ["svg", "rect", "circle", "line", "polyline", "text", "title"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const counted = (number) => number.toLocaleString("en");

function figures(facts) {
  const rows = [
    ["bytes", counted(facts.bytes)],
    ["times smaller than float32", (facts.original_bytes / facts.bytes).toFixed(1)],
    ["bits for each weight", ((8 * facts.bytes) / Math.max(1, facts.weights)).toFixed(2)],
    ["weights", counted(facts.weights)],
  ];
  return element(
    "dl",
    { class: "figures" },
    ...rows.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
  );
}

/** A table whose bars are a chart: a row for each layer, then what else the file holds. */
function layers(facts) {
  const others = Object.entries(facts.sections).filter(([name]) => name !== "payload");
  const most = Math.max(...facts.tensors.map(({ stored }) => stored), ...others.map(([, size]) => size));
  const row = (name, bytes, share, ...more) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, name),
      element("td", {}, counted(bytes)),
      element("td", {}, bar(bytes / most)),
      element("td", {}, `${(100 * share).toFixed(1)} %`),
      ...more,
    );
  const rows = facts.tensors.map((tensor) =>
    row(
      tensor.name,
      tensor.stored,
      tensor.share,
      element("td", {}, tensor.bits_per_weight.toFixed(2)),
      element("td", { class: "left" }, tensor.histogram ? histogram(tensor) : ""),
      element("td", { class: "left" }, tensor.shape.join(" × ") || "one number"),
    ),
  );
  for (const [name, size] of others) {
    rows.push(row(`(${name})`, size, size / facts.bytes, element("td"), element("td"), element("td")));
  }
  const heads = ["Layer", "Bytes", "", "Share", "Bits/weight", "Symbols", "Shape"];
  const head = heads.map((text, place) =>
    text ? element("th", { scope: "col", class: [1, 3, 4].includes(place) ? "number" : "" }, text) : element("td"),
  );
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
  const scroll = element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Bytes of each layer" }, table);
  const note = "Bytes of every layer, and how often each symbol occurs in it; what is in brackets is no layer.";
  return [element("h2", {}, "Where the bytes are"), element("p", { class: "note" }, note), scroll];
}

function bar(part) {
  const inner = element("span");
  inner.style.width = `${100 * part}%`;
  return element("span", { class: "bar", "aria-hidden": "true" }, inner);
}

function histogram({ name, histogram: { first, last, step, counts } }) {
  const most = Math.max(...counts), wide = 120 / counts.length;
  const middle = first + step * counts.indexOf(most);
  const label = `${name}: symbols ${first} to ${last}, most often ${middle}`;
  const bars = counts.map((count, place) => {
    const high = (26 * count) / most;
    return element("rect", { class: "count", x: place * wide, y: 26 - high, width: Math.max(wide - 0.5, 0.5), height: high });
  });
  return element("svg", { viewBox: "0 0 120 26", width: 120, height: 26, role: "img", "aria-label": label }, ...bars);
}

/** Divergence against bytes of all files that were tried, with this one on it. */
function curve(facts) {
  const points = (facts.curve || []).filter(({ bytes, kl }) => bytes > 0 && kl > 0).sort((a, b) => a.bytes - b.bytes);
  if (points.length < 2) return [];
  const scale = (values, low, high) => {
    const [least, most] = [Math.log(Math.min(...values)), Math.log(Math.max(...values))];
    return (value) => low + ((high - low) * (Math.log(value) - least)) / (most - least || 1);
  };
  const x = scale(points.map(({ bytes }) => bytes), 70, 590), y = scale(points.map(({ kl }) => kl), 250, 20);
  const places = points.map(({ bytes, kl }) => [x(bytes), y(kl)]);
  const front = places.filter((_, place) => points.slice(0, place).every(({ kl }) => kl > points[place].kl));
  const parts = [element("polyline", { class: "line", points: front.map((place) => place.join()).join(" ") })];
  points.forEach(({ bytes, kl, best }, place) => {
    const [cx, cy] = places[place];
    const circle = element("circle", { class: best ? "this" : "point", cx, cy, r: best ? 8 : 4 });
    circle.append(element("title", {}, `${counted(bytes)} bytes, divergence ${kl.toFixed(4)}`));
    parts.push(circle);
  });
  const ends = [points[0], points.at(-1)];
  for (const { bytes, kl } of ends) {
    parts.push(element("text", { x: x(bytes), y: 275, "text-anchor": "middle" }, `${counted(Math.round(bytes / 1000))} KB`));
    parts.push(element("text", { x: 62, y: y(kl) + 4, "text-anchor": "end" }, kl.toPrecision(2)));
  }
  const best = points.find((point) => point.best);
  const label =
    `${points.length} files from ${counted(ends[0].bytes)} to ${counted(ends[1].bytes)} bytes; their divergence from ` +
    `the original falls from ${ends[0].kl.toPrecision(2)} to ${ends[1].kl.toPrecision(2)}` +
    (best ? `; this file has ${best.kl.toPrecision(2)}` : "");
  return [
    element("h2", {}, "Size and fidelity"),
    element("p", { class: "note" }, "Bytes of every file that was tried, and its divergence from the original, both logarithmic. The large dot is this file; the line joins those that none of fewer bytes beats."),
    element("svg", { viewBox: "0 0 640 285", class: "chart", role: "img", "aria-label": label }, ...parts),
  ];
}
