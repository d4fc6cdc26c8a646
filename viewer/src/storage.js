/** What the page keeps in this browser: until it is closed only, where the browser forbids more. */

const forgotten = new Map();
const memory = {
  getItem: (key) => forgotten.get(key) ?? null,
  setItem: (key, value) => forgotten.set(key, value),
  removeItem: (key) => forgotten.delete(key),
};

/** Some browsers throw already when a page in a sandbox, such as an e-mail's, looks at it. */
function ofBrowser() {
  try {
    return localStorage;
  } catch {
    return null;
  }
}

export const storage = ofBrowser() ?? memory;
export const isKept = storage !== memory;
