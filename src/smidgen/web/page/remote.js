// Recognition by the server that the page came from.

/** What the networks say of a picture; an Error says why not. */
export async function recognize(file) {
  let answer;
  try {
    answer = await fetch("recognize", { method: "POST", body: file });
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  const found = await answer.json().catch(() => ({ error: `The server answers ${answer.status}.` }));
  if (!answer.ok) throw new Error(found.error);
  return found;
}
