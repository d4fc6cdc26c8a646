/**
 * The files that the page shows: beside it, or, where all of it is one file, in its own blocks of
 * base64. Whoever asks does not see the difference.
 */

const blocks = new Map(
  [...document.querySelectorAll("script[data-file]")].map((node) => [node.dataset.file, node]),
);
const decoded = new Map();
const addresses = new Map();

/** Whether the page is one file with everything in it. */
export const isSingle = blocks.size > 0;

/** Answer as fetch does, from the page itself if everything is in it. */
export async function request(url, options) {
  if (!isSingle) return fetch(url, options);
  const bytes = bytesOf(url);
  if (!bytes)
    return new Response(null, { status: 404, statusText: "this file is not in the page" });
  const range = /^bytes=(\d+)-(\d+)$/.exec(options?.headers?.Range ?? "");
  if (!range) return new Response(bytes);
  const [begin, last] = [Number(range[1]), Number(range[2])];
  return new Response(bytes.subarray(begin, last + 1), { status: 206 });
}

/** Bytes of a file that is in the page; null if it is not. */
export function bytesOf(url) {
  if (!decoded.has(url)) {
    const text = blocks.get(url)?.textContent;
    decoded.set(url, text ? Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)) : null);
  }
  return decoded.get(url);
}

/** Address of a picture or a document, for elements that load it themselves. */
export function addressOf(url) {
  if (!isSingle) return url;
  if (!addresses.has(url)) {
    const bytes = bytesOf(url);
    const type = blocks.get(url)?.dataset.type;
    addresses.set(url, bytes ? URL.createObjectURL(new Blob([bytes], { type })) : "data:,");
  }
  return addresses.get(url);
}
