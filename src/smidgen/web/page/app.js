// The page: pictures come in, answers go out. Who recognises them is remote.js (a server) or local.js (this browser).

const site = JSON.parse(document.getElementById("site").textContent);
const recognizer = import(site.server ? "./remote.js" : "./local.js");
const $ = (id) => document.getElementById(id);
const results = $("results");
const MOST_SHOWN = 50;
let last = Promise.resolve(); // pictures are recognised one after the other, in the order in which they came

/** A copy of what is in a template. */
function made(template) {
  return $(template).content.firstElementChild.cloneNode(true);
}

/** Bytes as people read them, such as 399,511. */
function counted(number) {
  return number.toLocaleString("en");
}

/** Takes pictures in: a card for each, at once; the answers follow. Those that come together keep their order. */
function take(files) {
  const cards = [...files].reverse().map((file) => begin(file.name || "pasted picture")).reverse();
  [...files].forEach((file, place) => {
    last = last.then(() => answer(file, cards[place]));
  });
}

/** A card on top of the others. */
function begin(name) {
  const card = made("result");
  card.querySelector("h3").textContent = name;
  results.prepend(card);
  for (const old of [...results.children].slice(MOST_SHOWN)) {
    old.remove();
    for (const image of old.querySelectorAll("img")) URL.revokeObjectURL(image.src);
  }
  return card;
}

async function answer(file, card) {
  try {
    const { recognize } = await recognizer;
    show(card, await recognize(file), file);
  } catch (error) {
    refuse(card, error.message);
  }
}

function refuse(card, reason) {
  const verdict = card.querySelector(".verdict");
  verdict.classList.add("error");
  verdict.textContent = reason;
  $("status").textContent = `${card.querySelector("h3").textContent}: ${reason}`;
}

function show(card, found, file) {
  const address = URL.createObjectURL(file);
  const firsts = found.networks.map((network) => network.answers[0].name);
  const verdict = card.querySelector(".verdict");
  if (firsts.length > 1) {
    const [one, other] = site.networks.map(({ title }, place) => `${title} says ${firsts[place]}`);
    verdict.textContent = found.agree ? `Both say ${firsts[0]}.` : `They differ: ${one}, ${other}.`;
    verdict.classList.toggle("differ", !found.agree);
  } else {
    verdict.textContent = `${firsts[0]}, ${percent(found.networks[0].answers[0].score)}`;
  }
  found.networks.forEach((network, index) => {
    card.querySelector(".networks").append(column(site.networks[index], network, address));
  });
  $("options").hidden &&= !found.networks.some((network) => network.map);
  $("status").textContent = `${card.querySelector("h3").textContent}: ${verdict.textContent}`;
}

function percent(score) {
  return `${(100 * score).toFixed(1)} %`;
}

/** What one network says. */
function column(network, found, address) {
  const part = made("network");
  part.querySelector("h4").textContent = network.title;
  part.querySelector(".cost").textContent = [
    `${counted(network.bytes)} bytes`, `${Math.max(found.milliseconds, 0.1).toFixed(1)} ms`, network.engine,
  ].join(" · ");
  const image = part.querySelector("img");
  image.src = address;
  image.alt = "the picture";
  image.onerror = () => part.querySelector(".picture").replaceWith("This browser cannot show the picture.");
  if (found.map) {
    paint(part.querySelector("canvas"), found.map, network.title);
  }
  for (const { name, score } of found.answers) {
    const line = made("answer");
    line.querySelector(".class").textContent = name;
    line.querySelector(".score").textContent = percent(score);
    line.querySelector(".bar span").style.width = `${100 * score}%`;
    part.querySelector(".answers").append(line);
  }
  return part;
}

/** Darkens the places that say little for the answer; the browser smooths them. */
function paint(canvas, { shape: [height, width], values }, title) {
  const least = Math.min(...values), range = Math.max(...values) - least || 1;
  const context = canvas.getContext("2d");
  canvas.width = width;
  canvas.height = height;
  const pixels = context.createImageData(width, height);
  values.forEach((value, place) => {
    pixels.data[4 * place + 3] = 140 * (1 - (value - least) / range);
  });
  context.putImageData(pixels, 0, 0);
  canvas.setAttribute("aria-label", `${title} looked mostly at the ${direction(values, height, width)}`);
  canvas.hidden = !$("maps").checked;
  canvas.classList.add("map");
}

/** Where most of a map is, in words. */
function direction(values, height, width) {
  let all = 0, down = 0, right = 0;
  values.forEach((value, place) => {
    const weight = Math.max(0, value) ** 2;
    all += weight;
    down += weight * (Math.floor(place / width) + 0.5) / height;
    right += weight * ((place % width) + 0.5) / width;
  });
  const word = (part, before, after) => (part < 0.42 ? before : part > 0.58 ? after : "");
  const words = all ? [word(down / all, "top", "bottom"), word(right / all, "left", "right")].filter(Boolean) : [];
  return words.join(" ") || "middle";
}

function listen() {
  const drop = $("drop");
  for (const input of [$("choose"), $("photo")]) {
    input.addEventListener("change", () => {
      take(input.files);
      input.value = ""; // the same picture may be chosen again
    });
  }
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => take(event.clipboardData.files));
  $("maps").addEventListener("change", () => {
    for (const map of document.querySelectorAll(".map")) map.hidden = !$("maps").checked;
  });
}

/** Two views, of which one is seen; arrow keys go from one tab to the other. */
function tabs() {
  const all = [...document.querySelectorAll("[role=tab]")];
  const choose = (tab) => {
    for (const other of all) {
      other.setAttribute("aria-selected", String(other === tab));
      other.tabIndex = other === tab ? 0 : -1;
      $(other.getAttribute("aria-controls")).hidden = other !== tab;
    }
    if (tab.id === "file-tab") {
      const failed = () => ($("told").textContent = "What the file is made of cannot be fetched: its host is out of reach.");
      import("./file.js").then(({ tell }) => tell($("file")), failed);
    }
  };
  all.forEach((tab, place) => {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = all[(place + step + all.length) % all.length];
      choose(next);
      next.focus();
    });
  });
}

function samples() {
  for (const name of site.samples) {
    const button = document.createElement("button");
    const image = document.createElement("img");
    image.src = `samples/${name}.small.jpg`;
    image.alt = name;
    image.width = image.height = 88;
    button.append(image);
    button.addEventListener("click", async () => {
      try {
        const answer = await fetch(`samples/${name}.jpg`);
        if (!answer.ok) throw new Error();
        const bytes = await answer.blob();
        take([new File([bytes], name, { type: bytes.type })]);
      } catch {
        refuse(begin(name), "This sample cannot be fetched: its host is out of reach.");
      }
    });
    const item = document.createElement("li");
    item.append(button);
    $("samples").querySelector("ul").append(item);
  }
  $("samples").hidden = !site.samples.length;
}

$("summary").textContent = site.networks
  .map(({ title, bytes }) => `${title}: ${counted(bytes)} bytes`)
  .join(" beside ");
$("privacy").textContent = site.server
  ? "Pictures go to the server that you have started, and nowhere else; it keeps none."
  : "Pictures stay in this browser: the network runs here.";
$("unready").remove();
listen();
tabs();
samples();
