/** Dark or light: as the system says, or as somebody chose here. */

import { ICONS, iconButton } from "./dom.js";
import { storage } from "./storage.js";

const KEY = "capecam theme";
const system = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const chosen = storage.getItem(KEY);
  return chosen ? chosen === "dark" : system.matches;
}

/** A button that changes between dark and light; the choice is remembered in this browser. */
export function themeButton() {
  const apply = () => {
    document.documentElement.dataset.theme = isDark() ? "dark" : "light";
    node.setAttribute("aria-pressed", String(isDark()));
  };
  const node = iconButton(ICONS.half, "Dark colours", () => {
    const wanted = isDark() ? "light" : "dark";
    if ((wanted === "dark") === system.matches) storage.removeItem(KEY);
    else storage.setItem(KEY, wanted);
    apply();
  });
  system.addEventListener("change", apply);
  apply();
  return node;
}
