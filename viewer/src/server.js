/** Requests to where the page comes from: nothing else is ever asked. */

import { request } from "./files.js";

const RETRIES = 5;
/** While another program has the file open; verdicts that arrive twice are added once. */

/** Return parsed JSON; the error of an answer is its own text. */
export async function getJson(url) {
  return answer(await request(url), url);
}

/** Send JSON and return the answer's; again if the server asks to come back later. */
export async function postJson(url, body) {
  const message = {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Capecam": "1" },
    body: JSON.stringify(body),
  };
  let response = await fetch(url, message);
  for (let n = 0; n < RETRIES && pause(response); n++) {
    await sleep(pause(response));
    response = await fetch(url, message);
  }
  return answer(response, url);
}

/** Seconds after which a request may be made again; 0 if nothing was said. */
function pause(response) {
  return response.status === 503 ? Number(response.headers.get("Retry-After")) : 0;
}

function sleep(seconds) {
  return new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
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

/** Wait until a file is there: the server answers 503 while it makes one. */
export async function waitFor(url, waiting) {
  for (;;) {
    const response = await request(url, { headers: { Range: "bytes=0-7" } });
    if (response.ok) {
      if (response.status === 206) await response.arrayBuffer();
      else await response.body.cancel(); // the whole file
      return;
    }
    if (response.status !== 503) throw new Error(`${url}: the server answers ${response.status}`);
    waiting();
    await sleep(pause(response) || 1);
  }
}
