/* The review queue: a few rows at first, filters, and sorting by any column. */
class Queue {
  static FIRST = 12;

  constructor(rows, chosen) {
    Object.assign(this, { rows, chosen, body: rows[0].parentElement, most: Queue.FIRST });
    this.heads = [...document.querySelectorAll(".queue [data-sort]")];
    for (const head of this.heads) head.addEventListener("click", () => this.sort(head));
    $("queue-controls").addEventListener("change", () => this.filter());
    $("queue-controls").addEventListener("submit", (event) => event.preventDefault());
    $("queue-more").addEventListener("click", () => {
      const next = [...this.body.children].find((row) => row.hidden);
      this.showAll();
      next.querySelector(".open").focus();
    });
    addEventListener("beforeprint", () => this.showAll());
    chosen.tell(() => this.filter());
    this.filter();
  }

  /* Indices of the visible rows, in order. */
  get shown() {
    const visible = [...this.body.children].filter((row) => !row.hidden);
    return visible.map((row) => Number(row.dataset.index));
  }

  showAll() {
    this.most = this.rows.length;
    this.filter();
  }

  filter() {
    const kind = this.chosen.chosen,
      word = $("queue-evidence").value;
    let fitting = 0;
    for (const row of this.body.children) {
      const { classId, evidence } = row.dataset;
      const fits = (!kind || classId === kind) && (!word || evidence === word);
      fitting += fits;
      row.hidden = !fits || fitting > this.most;
    }
    const more = fitting > this.most;
    $("queue-shown").textContent = more ? `${this.most} of ${fitting} shown` : `${fitting} shown`;
    $("queue-more").hidden = !more;
    $("queue-more").textContent = `Show all ${fitting}`;
  }

  sort(button) {
    const key = button.dataset.sort,
      head = button.parentElement;
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of this.heads) other.parentElement.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const order = (a, b) => {
      const [x, y] = [a.dataset[key], b.dataset[key]];
      const difference = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return (up ? difference : -difference) || a.dataset.review - b.dataset.review;
    };
    this.body.append(...[...this.rows].sort(order));
    this.filter();
  }
}
