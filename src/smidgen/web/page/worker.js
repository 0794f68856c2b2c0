// The network, off the page's own thread: pictures in, answers out.

import { coreName, openNetwork } from "./smidgen.js";

const MOST_PIXELS = 16e6;

async function content(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name} cannot be fetched (${answer.status}).`);
  return new Uint8Array(await answer.arrayBuffer());
}

const network = content("network.smidgen").then((bytes) => openNetwork(fetch(coreName()), bytes));
network.catch(() => {}); // each picture is told

/** The picture as people see it, on white, in pixels; one that is very large is made smaller first. */
async function pixels(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error("This is no picture, or none that this browser can read.");
  }
  const part = Math.min(1, Math.sqrt(MOST_PIXELS / (bitmap.width * bitmap.height)));
  const width = Math.max(1, Math.round(part * bitmap.width)), height = Math.max(1, Math.round(part * bitmap.height));
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  return context.getImageData(0, 0, width, height);
}

onmessage = async ({ data: { number, file } }) => {
  try {
    const { data, width, height } = await pixels(file);
    const { answers, milliseconds, map } = (await network).recognize(data, width, height);
    const shown = map && { shape: [map.height, map.width], values: [...map.values] };
    postMessage({ number, found: { agree: true, networks: [{ answers, milliseconds, map: shown }] } });
  } catch (error) {
    postMessage({ number, error: error.message });
  }
};
