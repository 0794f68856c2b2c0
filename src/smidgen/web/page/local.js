// Recognition in this browser, by a worker; it begins to fetch the network as soon as this is loaded.

const worker = new Worker("worker.js", { type: "module" });
const waiting = new Map();
let count = 0;
let broken = null;

worker.onmessage = ({ data: { number, found, error } }) => {
  const { done, failed } = waiting.get(number);
  waiting.delete(number);
  if (error) failed(new Error(error));
  else done(found);
};
worker.onerror = (event) => {
  broken = new Error(event.message || "This browser cannot start the network.");
  for (const { failed } of waiting.values()) failed(broken);
  waiting.clear();
};

/** What the network says of a picture; an Error says why not. */
export function recognize(file) {
  return new Promise((done, failed) => {
    if (broken) {
      failed(broken);
      return;
    }
    count += 1;
    waiting.set(count, { done, failed });
    worker.postMessage({ number: count, file });
  });
}
