/** Requests to the server (or to a folder of the same files). */

const PATIENCE = 60; // retries while the queue is full

export class Unauthorised extends Error {}

/** JSON of a path relative to the page; throws an Error with the server's message. */
export async function getJSON(path, signal) {
  const answer = await fetch(path, { signal, credentials: "same-origin" });
  if (answer.status === 401) throw new Unauthorised("a token is required");
  if (!answer.ok) throw new Error(await reasonOf(answer));
  return answer.json();
}

/** A tile as a Blob. Retries while the queue is full (503); `urgency` as in RFC 9218, 0 is highest. */
export async function getTile(path, urgency, signal) {
  for (let tries = 0; ; tries++) {
    const answer = await fetch(path, {
      signal,
      credentials: "same-origin",
      headers: { Priority: `u=${urgency}` },
    });
    if (answer.ok) return answer.blob();
    if (answer.status !== 503 || tries >= PATIENCE) throw new Error(await reasonOf(answer));
    await pause(1000 * (Number(answer.headers.get("Retry-After")) || 1), signal);
  }
}

/** Have the server store the token in a cookie; false if the token is wrong. */
export async function openSession(token) {
  const answer = await fetch("api/session", {
    method: "POST",
    credentials: "same-origin",
    headers: { Authorization: `Bearer ${token}` },
  });
  return answer.ok;
}

export function tilePath(slide, seed, level, col, row, format) {
  return `tiles/${slide.id}/${slide.version}/${seed}/${level}/${col}_${row}.${format}`;
}

async function reasonOf(answer) {
  try {
    return (await answer.json()).error;
  } catch {
    return `the server answered ${answer.status}`;
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("left", "AbortError"));
    });
  });
}
