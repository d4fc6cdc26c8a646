/* Enlarged view of one object; previous and next follow the queue as sorted and filtered. */
class Closer {
  constructor(queue, data) {
    Object.assign(this, { queue, data, current: 0, dialog: $("closer") });
    const texts = [...document.querySelectorAll("[data-word]")];
    this.words = Object.fromEntries(texts.map((node) => [node.dataset.word, node.textContent]));
    $("closer-previous").addEventListener("click", () => this.step(-1));
    $("closer-next").addEventListener("click", () => this.step(1));
    $("closer-close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("keydown", ({ key }) => {
      if (key === "ArrowLeft") this.step(-1);
      else if (key === "ArrowRight") this.step(1);
    });
    this.dialog.addEventListener(
      "click",
      ({ target }) => target === this.dialog && this.dialog.close(),
    );
    this.dialog.addEventListener("close", () => this.opener.focus());
    queue.rows.forEach((row, n) =>
      row.querySelector(".open").addEventListener("click", () => this.show(n)),
    );
  }

  get opener() {
    return this.queue.rows[this.current].querySelector(".open");
  }

  show(n) {
    this.current = n;
    this.fill();
    this.dialog.showModal();
    $("closer-close").focus();
  }

  step(by) {
    const order = this.queue.shown,
      next = order[order.indexOf(this.current) + by];
    if (next === undefined) return;
    this.current = next;
    this.fill();
  }

  fill() {
    const item = this.data[this.current],
      page = $("closer-template").content.cloneNode(true);
    $("closer-title").textContent = `${item.class}, rank ${item.review}`;
    this.pictures(item, page);
    this.facts(item, page.querySelector("dl"));
    if (item.methods.length) Closer.measures(item, page.querySelector("tbody"));
    else page.querySelector("table").parentElement.remove();
    const [panel, view] = page.querySelectorAll("[data-command]"),
      { out } = this.queue.body.parentElement.dataset;
    if (item.panel) panel.remove();
    else panel.querySelector("code").textContent = `capecam panel ${out} --detection ${item.id}`;
    const [command, link] = view.querySelectorAll("code");
    command.textContent = `capecam view ${out}`;
    link.textContent = `#id=${item.id}`;
    tables(page);
    $("closer-body").replaceChildren(page);
    const order = this.queue.shown,
      at = order.indexOf(this.current);
    $("closer-previous").disabled = at <= 0;
    $("closer-next").disabled = at < 0 || at >= order.length - 1;
    this.dialog.scrollTop = 0;
  }

  pictures(item, page) {
    const panel = page.querySelector(".panel"),
      shown = this.opener.querySelectorAll("img");
    if (item.panel) {
      panel.firstElementChild.src = item.panel;
      panel.firstElementChild.alt = `Panel of ${item.class} ${item.id}: prediction and heatmaps`;
    } else panel.remove();
    page.querySelectorAll(".pair figure").forEach((figure, n) => {
      if (!shown[n]) return figure.remove();
      figure.querySelector("img").src = shown[n].src;
      const title = n ? `${item.heatTitle}, ` : "";
      figure.querySelector("figcaption").textContent = `${title}${item.across[n]} m across`;
    });
    page.querySelector(".problem").textContent = item.problems.join("; ");
  }

  facts(item, list) {
    const add = (name, text) => {
      const row = document.createElement("div");
      row.append(document.createElement("dt"), document.createElement("dd"));
      row.firstElementChild.textContent = name;
      row.lastElementChild.textContent = text;
      list.append(row);
    };
    add("Id", item.id);
    add("Size", item.area);
    add("Confidence", item.confidence);
    const word = item.evidence;
    add("Evidence", word ? `${word}: ${this.words[word]}` : "not explained");
    for (const [name, text] of item.own) add(name, text);
    if (item.rival) add("Rival class", item.rival);
    add("Lat, lon", item.latlon);
    add("Image", item.images.join(", "));
  }

  static measures(item, body) {
    for (const [method, ...values] of item.methods) {
      const row = body.insertRow(),
        head = row.appendChild(document.createElement("th"));
      head.textContent = method;
      for (const value of values) row.insertCell().textContent = value;
    }
  }
}
