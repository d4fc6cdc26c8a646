/** Elements without HTML: texts that come from files are texts, never markup. */

/**
 * Make an element.
 *
 * @param {string} name tag, optionally with classes: "button.quiet"
 * @param {object} properties `on` has listeners by event, `style` CSS properties by name (set from
 *   the script, which the content security policy allows), `data` data attributes. Everything else
 *   is an attribute; true is an attribute without value, false, null and undefined are none.
 * @param {...(Node|string|null)} children
 */
export function make(name, properties = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const node = document.createElement(tag);
  if (classes.length) node.className = classes.join(" ");
  for (const [key, value] of Object.entries(properties)) {
    if (key === "on") {
      for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    } else if (key === "style") {
      for (const [property, text] of Object.entries(value)) node.style.setProperty(property, text);
    } else if (key === "data") {
      Object.assign(node.dataset, value);
    } else if (value === true) {
      node.setAttribute(key, "");
    } else if (value !== false && value !== null && value !== undefined) {
      node.setAttribute(key, value);
    }
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Replace all children of a node. */
export function fill(node, ...children) {
  node.replaceChildren(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** A button that does one thing. */
export function button(label, action, properties = {}) {
  const { class: classes = "", ...rest } = properties;
  const name = classes ? `button.${classes.split(" ").join(".")}` : "button";
  return make(name, { type: "button", on: { click: action }, ...rest }, label);
}

/** A checkbox or radio button with its label; `change` gets the node. */
export function choice(type, label, { checked = false, change, name = null, ...rest }) {
  const input = make("input", { type, name, on: { change: () => change(input) }, ...rest });
  input.checked = checked;
  return make("label.choice", {}, input, ...[label].flat());
}

/** A labelled list of choices, [value, text] each; `change` gets the value. */
export function select(label, options, value, change, { hidden = false } = {}) {
  const node = make("select", { "aria-label": label, on: { change: () => change(node.value) } });
  for (const [key, text] of options) node.append(make("option", { value: key }, text));
  node.value = value;
  return hidden ? node : make("label.field", {}, make("span", {}, label), node);
}

/** A slider with its value as text beside it; `input` gets the number. */
export function slider(label, { min, max, step, value, text, input }) {
  const output = make("output", {}, text(value));
  const node = make("input", {
    type: "range",
    min,
    max,
    step,
    "aria-label": label,
    on: {
      input: () => {
        output.textContent = text(Number(node.value));
        node.setAttribute("aria-valuetext", output.textContent);
        input(Number(node.value));
      },
    },
  });
  node.value = String(value);
  node.setAttribute("aria-valuetext", output.textContent);
  return make("label.slider", {}, make("span", {}, label), node, output);
}

/** A patch of a colour, beside the name of what has it. */
export function swatch(color, shape = "") {
  return make(shape ? `i.swatch.${shape}` : "i.swatch", {
    "aria-hidden": "true",
    style: { "--swatch": color },
  });
}

const SVG = "http://www.w3.org/2000/svg";

/** An icon of one path in a square of 24. */
export function icon(path) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("icon");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

/** A button with an icon in place of words; the words are its name and its tooltip. */
export function iconButton(path, name, action, properties = {}) {
  const { class: classes = "", ...rest } = properties;
  const node = button("", action, { class: `icon-button ${classes}`.trim(), ...rest });
  node.setAttribute("aria-label", name);
  node.title = name;
  node.append(icon(path));
  return node;
}

export const ICONS = {
  plus: "M12 5v14M5 12h14",
  minus: "M5 12h14",
  whole: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  close: "M6 6l12 12M18 6L6 18",
  half: "M12 3a9 9 0 100 18zM12 3a9 9 0 010 18",
  help: "M9 9a3 3 0 115 2.2c-1.2.9-2 1.5-2 2.8M12 17.5v.5M12 3a9 9 0 100 18 9 9 0 000-18z",
  link: "M10 14a4 4 0 006 0l3-3a4 4 0 00-6-6l-1 1M14 10a4 4 0 00-6 0l-3 3a4 4 0 006 6l1-1",
  panel: "M4 5h16v14H4zM10 5v14",
  swipe: "M12 3v18M8 9l-4 3 4 3M16 9l4 3-4 3",
  draw: "M4 20l4-1L19 8l-3-3L5 16zM14 7l3 3",
  previous: "M15 5l-7 7 7 7",
  next: "M9 5l7 7-7 7",
  north: "M12 3l6 17-6-4-6 4z",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
};
