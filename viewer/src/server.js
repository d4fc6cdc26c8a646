/** Requests to where the page comes from: nothing else is ever asked. */

/** Return parsed JSON; the error of an answer is its own text. */
export async function getJson(url, { signal } = {}) {
  return answer(await fetch(url, { signal }), url);
}

/** Send JSON and return the answer's. */
export async function postJson(url, body, { signal } = {}) {
  const response = await fetch(url, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Capecam": "1" },
    body: JSON.stringify(body),
    signal,
  });
  return answer(response, url);
}

async function answer(response, url) {
  if (response.ok) return response.json();
  let text = "";
  try {
    text = (await response.json()).error;
  } catch {
    // Not an answer of capecam's; the status says enough.
  }
  throw new Error(text || `${url}: the server answers ${response.status} ${response.statusText}`);
}

/** Wait until a file is there: the server answers 503 while it makes one. */
export async function waitFor(url, waiting) {
  for (;;) {
    const response = await fetch(url, { headers: { Range: "bytes=0-7" } });
    if (response.ok) {
      if (response.status === 206) await response.arrayBuffer();
      else await response.body.cancel(); // the whole file
      return;
    }
    if (response.status !== 503) throw new Error(`${url}: the server answers ${response.status}`);
    waiting();
    const seconds = Number(response.headers.get("Retry-After")) || 1;
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  }
}
