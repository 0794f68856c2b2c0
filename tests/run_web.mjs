// Runs networks as a browser does, in Node: node run_web.mjs CORE.wasm JOBS.json; or in a browser, by runJobs.
//
// A job has a file's path, and pictures: paths of their pixels in RGBA, width and height, and how many times they are
// recognised. What comes back are, for each job, an error, or for each picture its scores by index and its map, all as
// the bits of floats, and bytes of memory after its first time and its last. A fault of the core is thrown on.
import { openNetwork } from "../src/smidgen/web/page/smidgen.js";

let memory;
const instantiate = WebAssembly.instantiate;
WebAssembly.instantiate = async (...given) => {
  const made = await instantiate(...given);
  const { exports } = made.instance ?? {};
  if (exports?.place_for_file) memory = exports.memory; // Node itself instantiates modules, too
  return made;
};

const bits = (numbers) => [...new Uint32Array(Float32Array.from(numbers).buffer)];

function recognize(network, pixels, { width, height, times }) {
  let found, first;
  for (let i = 0; i < times; i++) {
    found = network.recognize(pixels, width, height, network.outputs);
    first ??= memory.buffer.byteLength;
  }
  const scores = new Array(network.outputs);
  for (const { index, score } of found.answers) scores[index] = score;
  return {
    best: found.answers[0], scores: bits(scores), map: found.map && bits(found.map.values),
    memory: [first, memory.buffer.byteLength],
  };
}

export async function runJobs(core, jobs, read) {
  const results = [], wasm = await read(core);
  for (const { file, pictures } of JSON.parse(new TextDecoder().decode(await read(jobs)))) {
    try {
      const network = await openNetwork(wasm, await read(file)), found = [];
      for (const picture of pictures)
        found.push(recognize(network, new Uint8ClampedArray(await read(picture.pixels)), picture));
      results.push({ found, labels: network.labels, size: [network.width, network.height] });
    } catch (error) {
      if (error.constructor !== Error) throw error;
      results.push({ error: error.message });
    }
  }
  return results;
}

if (typeof process !== "undefined") {
  const { readFile } = await import("node:fs/promises");
  const read = async (path) => new Uint8Array(await readFile(path));
  console.log(JSON.stringify(await runJobs(process.argv[2], process.argv[3], read)));
}
