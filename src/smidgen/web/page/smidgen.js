// A network of a .smidgen file, run in WebAssembly; needs nothing but the core for browsers, of which there are two.
//
//     const network = await openNetwork(fetch(coreName()), bytes);
//     const { answers } = network.recognize(imageData.data, imageData.width, imageData.height);

const NO_MEMORY = "This device has not enough memory for it.";
const REASONS = new Map([
  [-2, `The file: ${NO_MEMORY}`],
  [-3, "The file has no program that takes pictures, without which it cannot run in a browser."],
  [-10, "This is no smidgen file: it does not begin as one."],
  [-11, "The file has a version that this page does not know."],
  [-12, "The file is truncated or extended: its length is not what its header says."],
  [-13, "The file is damaged: the checksum does not match."],
  [-16, "The file claims more data than a file of its size can hold."],
]);
const INVALID = "The file is invalid: it contradicts itself.";

// i32x4.relaxed_dot_i8x16_i7x16_add_s of 127 and 255, which it is not meant for, tells how it is computed: in one
// instruction, for which 255 is that (x86) or -1 (ARM), or in several, whose sums of two products stop at 32767.
const PROBE = Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 127, 3, 2, 1, 0, 7, 5, 1, 1, 102, 0, 0, 10, 23, 1, 21, 0,
  65, 255, 0, 253, 15, 65, 127, 253, 15, 65, 0, 253, 17, 253, 147, 2, 253, 27, 0, 11,
);
const IN_ONE_INSTRUCTION = [4 * 127 * 255, 4 * 127 * -1];

/**
 * The core that is the fastest in this browser. They give the same answers, bit for bit. The second takes half the time
 * where the processor multiplies and sums bytes in one instruction, but longer where several have to stand in for that.
 *
 * @returns {"smidgen.wasm" | "smidgen-relaxed.wasm"}
 */
export function coreName() {
  if (!WebAssembly.validate(PROBE)) return "smidgen.wasm";
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(PROBE));
  return IN_ONE_INSTRUCTION.includes(exports.f()) ? "smidgen-relaxed.wasm" : "smidgen.wasm";
}

/**
 * Makes a network ready to run: decodes its weights.
 *
 * @param {BufferSource | Response | Promise<Response>} wasm one of both cores
 * @param {Uint8Array} bytes a whole .smidgen file
 * @returns {Promise<Network>}
 * @throws {Error} one line that says why not
 */
export async function openNetwork(wasm, bytes) {
  const { exports: core } = await instantiate(await wasm);
  const place = core.place_for_file(bytes.length);
  if (!place) throw new Error(REASONS.get(-2));
  new Uint8Array(core.memory.buffer).set(bytes, place);
  const status = core.open(place, bytes.length);
  if (status) throw new Error(REASONS.get(status) ?? INVALID);
  return new Network(core);
}

async function instantiate(wasm) {
  const fetched = typeof Response === "function" && wasm instanceof Response;
  if (fetched && !wasm.ok) throw new Error(`${wasm.url} cannot be fetched (${wasm.status}).`);
  try {
    if (fetched && wasm.headers.get("content-type") === "application/wasm")
      return (await WebAssembly.instantiateStreaming(wasm)).instance;
    return (await WebAssembly.instantiate(fetched ? await wasm.arrayBuffer() : wasm)).instance;
  } catch (error) {
    throw new Error(`This browser cannot run the network: ${error.message}`);
  }
}

/** The classes of a labels section: a line "id<TAB>name" for each. */
function parseLabels(bytes) {
  let lines;
  try {
    lines = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes).split("\n");
  } catch {
    throw new Error(INVALID);
  }
  if (lines.pop() !== "" || lines.some((line) => line.split("\t").length !== 2)) throw new Error(INVALID);
  return lines.map((line) => {
    const [id, name] = line.split("\t");
    return { id, name };
  });
}

/** @typedef {{index: number, id: string, name: string, score: number}} Answer score: a probability, 0..1 */

/** A network that is ready to run; made by openNetwork. */
class Network {
  #core;
  #probabilities;
  #map;

  constructor(core) {
    const [height, width, outputs, rows, columns, probabilities, place, size] = new Uint32Array(
      core.memory.buffer, core.facts(), 8,
    );
    this.#core = core;
    this.#probabilities = probabilities === 1;
    this.#map = { width: columns, height: rows };
    /** Pixels that the network sees, and the classes that it tells apart. */
    this.width = width;
    this.height = height;
    this.outputs = outputs;
    /** @type {{id: string, name: string}[]} one for each output */
    this.labels = parseLabels(new Uint8Array(core.memory.buffer, place, size));
    /** Whether it can say where it looked. */
    this.hasMap = rows > 0;
    if (this.labels.length && this.labels.length !== outputs)
      throw new Error(`The file has ${this.labels.length} labels, but its network gives ${outputs} scores.`);
    for (let i = this.labels.length; i < outputs; i++) this.labels.push({ id: `class ${i}`, name: `class ${i}` });
  }

  /**
   * What is in a picture.
   *
   * @param {Uint8ClampedArray} pixels upright, 4 bytes a pixel in RGBA, as ImageData has them; laid on white
   * @param {number} width
   * @param {number} height sides of 1..16384 pixels
   * @param {number} [top] how many answers
   * @returns {{answers: Answer[], milliseconds: number, prepare: number,
   *   map: {width: number, height: number, values: Float32Array} | null}} the likeliest first; how long the network ran,
   *   and how long making the picture its size took before that; what each place of the picture gave to the first answer
   * @throws {Error} one line that says why not
   */
  recognize(pixels, width, height, top = 5) {
    const core = this.#core, start = performance.now();
    if (pixels.length !== 4 * width * height) throw new Error(`These are not ${width} x ${height} pixels.`);
    const place = core.place_for_picture(width, height);
    if (!place) throw new Error(`The picture: ${NO_MEMORY}`);
    new Uint8Array(core.memory.buffer).set(pixels, place);
    const status = core.prepare(width, height);
    if (status)
      throw new Error(status === -2 ? `The picture: ${NO_MEMORY}` : "The picture has a side beyond 1 to 16384 pixels.");
    const ready = performance.now();
    const found = core.run();
    const done = performance.now();
    const scores = new Float32Array(core.memory.buffer, found, this.outputs);
    if (!scores.every(Number.isFinite)) throw new Error("The network gives scores that are not finite.");
    const numbers = scores.slice(); // sorted as they are: of sure answers' probabilities the rest can all round to 0
    const best = [...numbers.keys()].sort((a, b) => numbers[b] - numbers[a] || a - b).slice(0, top);
    const map = this.hasMap ? this.#look(best[0]) : null;
    if (!this.#probabilities) core.softmax();
    const answers = best.map((index) => ({ index, ...this.labels[index], score: scores[index] }));
    return { answers, milliseconds: done - ready, prepare: ready - start, map };
  }

  #look(index) {
    const { width, height } = this.#map;
    const place = this.#core.look(index);
    return { width, height, values: new Float32Array(this.#core.memory.buffer, place, width * height).slice() };
  }
}
