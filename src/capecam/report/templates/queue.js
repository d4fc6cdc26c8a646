/* The review queue: filters, and sorting by any column. */
function queueOf(all, closer) {
  const FIRST = 12;
  const body = all[0].parentElement,
    heads = [...document.querySelectorAll(".queue [data-sort]")];
  let most = FIRST;
  function filter() {
    const kind = $("queue-class").value,
      word = $("queue-evidence").value;
    let fitting = 0;
    for (const row of body.children) {
      const fits =
        (!kind || row.dataset.class === kind) && (!word || row.dataset.evidence === word);
      fitting += fits;
      row.hidden = !fits || fitting > most;
    }
    $("queue-shown").textContent =
      fitting > most ? `${most} of ${fitting} shown` : `${fitting} shown`;
    $("queue-more").hidden = fitting <= most;
    $("queue-more").textContent = `Show all ${fitting}`;
  }
  function showAll() {
    most = all.length;
    filter();
  }
  function sort(button) {
    const key = button.dataset.sort,
      head = button.parentElement;
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of heads) other.parentElement.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const compare = (a, b) => {
      const [x, y] = [a.dataset[key], b.dataset[key]];
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return (up ? order : -order) || a.dataset.review - b.dataset.review;
    };
    body.append(...[...all].sort(compare));
    filter();
  }
  for (const button of heads) button.addEventListener("click", () => sort(button));
  $("queue-more").addEventListener("click", () => {
    const next = [...body.children].find((row) => row.hidden);
    showAll();
    next.querySelector(".open").focus();
  });
  addEventListener("beforeprint", showAll);
  $("queue-controls").addEventListener("change", filter);
  $("queue-controls").addEventListener("submit", (event) => event.preventDefault());
  for (const row of all)
    row
      .querySelector(".open")
      .addEventListener("click", () => closer.show(Number(row.dataset.index)));
  filter();
}

/* A closer look at one object; the neighbours are those of the table as it is sorted and filtered. */
function dialogOf(all, data) {
  const dialog = $("closer"),
    body = $("closer-body"),
    template = $("closer-template").content;
  let current = 0;
  const shown = () =>
    [...all[0].parentElement.children]
      .filter((row) => !row.hidden)
      .map((row) => Number(row.dataset.index));
  const evidence = Object.fromEntries(
    [...document.querySelectorAll("[data-word]")].map((said) => [
      said.dataset.word,
      said.textContent,
    ]),
  );
  function fill() {
    const item = data[current],
      page = template.cloneNode(true);
    const pictures = [...all[current].querySelectorAll("img")].map((image) => image.src);
    $("closer-title").textContent = `${item.class}, place ${item.review}`;
    const panel = page.querySelector(".panel");
    if (item.panel) {
      panel.firstElementChild.src = item.panel;
      panel.firstElementChild.alt = `Panel of ${item.class} ${item.id}: prediction and heatmaps of every class`;
    } else panel.remove();
    const pair = page.querySelector(".pair");
    pair
      .querySelectorAll("img")
      .forEach((image, n) =>
        pictures[n] ? (image.src = pictures[n]) : image.closest("figure").remove(),
      );
    pair
      .querySelectorAll("figcaption")
      .forEach((caption, n) => caption.append(`${item.across[n]} m across`));
    const problem = page.querySelector(".problem");
    problem.textContent = item.problems.join("; ");
    const facts = page.querySelector("dl");
    const say = (name, text) => {
      const row = document.createElement("div"),
        term = document.createElement("dt"),
        said = document.createElement("dd");
      term.textContent = name;
      said.textContent = text;
      row.append(term, said);
      facts.append(row);
    };
    say("Id", item.id);
    say("Size", item.area);
    say("Confidence", item.confidence);
    say("Evidence", `${item.evidence}: ${evidence[item.evidence]}`);
    if (item.rival) say("Rival", item.rival);
    say("Lat, lon", item.place);
    say("Image", item.images.join(", "));
    const table = page.querySelector("tbody");
    for (const cells of item.methods) {
      const row = table.insertRow();
      cells.forEach((text, n) => {
        const cell = n ? row.insertCell() : row.appendChild(document.createElement("th"));
        cell.textContent = text;
      });
    }
    const command = page.querySelector("code");
    item.panel
      ? command.parentElement.remove()
      : (command.textContent = `capecam panel ${all[0].closest("table").dataset.out} --detection ${item.id}`);
    body.replaceChildren(page);
    const order = shown(),
      at = order.indexOf(current);
    $("closer-previous").disabled = at <= 0;
    $("closer-next").disabled = at < 0 || at >= order.length - 1;
    dialog.scrollTop = 0;
  }
  function step(by) {
    const order = shown(),
      next = order[order.indexOf(current) + by];
    if (next === undefined) return;
    current = next;
    fill();
  }
  $("closer-previous").addEventListener("click", () => step(-1));
  $("closer-next").addEventListener("click", () => step(1));
  $("closer-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "ArrowRight") step(1);
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => all[current].querySelector(".open").focus());
  return {
    show(n) {
      current = n;
      fill();
      dialog.showModal();
      $("closer-close").focus();
    },
  };
}
