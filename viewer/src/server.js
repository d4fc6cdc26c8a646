/** Requests to where the page comes from: nothing else is ever asked. */

import { request } from "./files.js";

const RETRIES = 5;
/** While another program has the file open; verdicts that arrive twice are added once. */

/**
 * Ask for something, and again as long as the server says to come back later: it does while it
 * reads the detections.
 */
export async function ask(url, options, { retries = Infinity, waiting } = {}) {
  for (let n = 0; ; n++) {
    const response = await request(url, options);
    const seconds = response.status === 503 ? Number(response.headers.get("Retry-After")) : 0;
    if (!seconds || n >= retries) return response;
    waiting?.();
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  }
}

/** Return parsed JSON; the error of an answer is its own text. */
export async function getJson(url) {
  return answer(await ask(url), url);
}

/** Send JSON and return the answer's. */
export async function postJson(url, body) {
  const message = {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Capecam": "1" },
    body: JSON.stringify(body),
  };
  return answer(await ask(url, message, { retries: RETRIES }), url);
}

async function answer(response, url) {
  if (response.ok) return response.json();
  let text = "";
  try {
    text = (await response.json()).error;
  } catch {
    // Not an answer of capecam's; the status says enough.
  }
  const error = new Error(
    text || `${url}: the server answers ${response.status} ${response.statusText}`,
  );
  error.status = response.status;
  throw error;
}

/** Wait until a file is there. */
export async function waitFor(url, waiting) {
  const response = await ask(url, { headers: { Range: "bytes=0-7" } }, { waiting });
  if (!response.ok) throw new Error(`${url}: the server answers ${response.status}`);
  if (response.status === 206) await response.arrayBuffer();
  else await response.body.cancel(); // the whole file
}
