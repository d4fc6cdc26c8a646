const $ = (id) => document.getElementById(id);
const read = (id) => JSON.parse($(id).textContent);
const make = (name, attributes = {}, text = "") => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text) node.textContent = text;
  return node;
};

/* What is called when the page is there. */
const rows = [...document.querySelectorAll(".queue tbody tr")];
const closer = rows.length ? dialogOf(rows, read("queue-data")) : null;
if (closer) queueOf(rows, closer);
mapOf(read("map-data"), rows, closer);
printing();

/* On paper everything that can be opened is open. */
function printing() {
  const closed = () => [...document.querySelectorAll("details:not([open])")];
  let opened = [];
  addEventListener("beforeprint", () =>
    (opened = closed()).forEach((details) => (details.open = true)),
  );
  addEventListener("afterprint", () => opened.forEach((details) => (details.open = false)));
}
