/** What the page shows right now, and who wants to know when it changes. */

export class State {
  #values;
  #listeners = [];

  constructor(values) {
    this.#values = { ...values };
  }

  get(key) {
    return this.#values[key];
  }

  /** Change values; listeners of those that differ are called once, after all of them. */
  set(values) {
    const changed = Object.keys(values).filter((key) => this.#values[key] !== values[key]);
    Object.assign(this.#values, values);
    for (const { keys, listener } of [...this.#listeners]) {
      if (keys.some((key) => changed.includes(key))) listener();
    }
  }

  /** Call a listener now, and whenever one of these values changes. */
  watch(keys, listener) {
    this.#listeners.push({ keys, listener });
    listener();
  }
}
