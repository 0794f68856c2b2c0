// Runs a program for WASI in Node: node run_wasm.mjs PROGRAM.wasm FOLDER ARGUMENT...; FOLDER is called /files inside.
import { readFile } from "node:fs/promises";
import { WASI } from "node:wasi";

const [program, folder, ...given] = process.argv.slice(2);
const wasi = new WASI({ version: "preview1", args: ["program", ...given], preopens: { "/files": folder } });
const module = await WebAssembly.compile(await readFile(program));
process.exit(wasi.start(await WebAssembly.instantiate(module, wasi.getImportObject())));
