/* One class for the whole page: what is of another one, or of all, is hidden. */
class ClassFilter {
  constructor() {
    this.select = $("class-filter");
    this.users = [];
    if (!this.select) return;
    $("class-pick").hidden = false;
    this.select.addEventListener("change", () => this.apply());
  }

  /* Number of the class as text, "" for all. */
  get chosen() {
    return this.select ? this.select.value : "";
  }

  /* Call a function after every change. */
  tell(changed) {
    this.users.push(changed);
  }

  apply() {
    if (!this.select) return;
    const { chosen } = this;
    for (const node of document.querySelectorAll("[data-of]"))
      node.toggleAttribute("hidden", Boolean(chosen) && node.dataset.of !== chosen);
    $("class-only").hidden = !chosen;
    $("class-only").firstElementChild.textContent = this.select.selectedOptions[0].text;
    for (const changed of this.users) changed();
  }
}
