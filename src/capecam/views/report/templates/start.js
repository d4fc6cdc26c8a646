const $ = (id) => document.getElementById(id);
const read = (id) => JSON.parse($(id).textContent);
const metres = (m) => (m >= 1000 ? `${m / 1000} km` : `${m} m`);
const number = (value) => value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });
const make = (name, attributes = {}, text = "") => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text) node.textContent = text;
  return node;
};

const rows = [...document.querySelectorAll(".queue tbody tr")];
const filter = new ClassFilter();
const closer = rows.length ? new Closer(new Queue(rows, filter), read("queue-data")) : null;
gestures(new CityMap(read("map-data"), rows, filter, (n) => closer.show(n)));
tables(document);
filter.apply(); /* a browser may have kept the choice of the last visit */
printing();

/* Open all details for printing. */
function printing() {
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const details of opened) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of opened) details.open = false;
  });
}
