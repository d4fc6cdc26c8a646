/** Short messages at the edge of the map, which screen readers read out. */

import { ICONS, iconButton, make } from "./dom.js";

const SHOWN_MS = 6000;

export class Messages {
  constructor() {
    this.node = make("div.messages", { role: "status", "aria-live": "polite" });
  }

  /** Say something for a while; once, if it is being said already. */
  say(text, { kind = "note" } = {}) {
    const known = [...this.node.children].find((child) => child.dataset.text === text);
    known?.remove();
    const message = make(`div.message.${kind}`, { data: { text } }, make("span", {}, text));
    const remove = () => message.remove();
    message.append(iconButton(ICONS.close, "Close this message", remove));
    this.node.append(message);
    if (kind === "note") setTimeout(remove, SHOWN_MS);
  }

  /** Say what went wrong, until somebody closes it. */
  fail(error) {
    this.say(error.message || String(error), { kind: "error" });
  }
}
