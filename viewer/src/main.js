/** capecam view: the city in a browser. */

import "ol/ol.css";
import "./viewer.css";

import { App } from "./app.js";
import { readCity } from "./city.js";
import { isSingle } from "./files.js";
import { listenToKeys } from "./keys.js";
import { keepLink } from "./links.js";
import { Messages } from "./messages.js";
import { Missed } from "./missed.js";
import { layOut } from "./page.js";

async function start() {
  const [header, panel, map] = ["header", "panel", "map"].map((id) => document.getElementById(id));
  const messages = new Messages();
  map.append(messages.node);
  try {
    const city = await readCity((url, error) =>
      messages.say(`${url} cannot be read: ${error.message}`),
    );
    document.title = `${city.title} – capecam`;
    const app = new App(city, messages, map);
    app.missed = new Missed(app);
    layOut(app, { header, panel, map });
    listenToKeys(app);
    await keepLink(app);
    if (isSingle && !app.state.get("selected")) await app.reviewing.step(1);
    document.documentElement.dataset.ready = "true";
  } catch (error) {
    messages.fail(new Error(`The city cannot be shown: ${error.message}`));
    throw error;
  }
}

start();
