/** Search from a disk, where pages may not start workers: the script of the worker runs in a frame. */

if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inside = frame.contentWindow;
      this.inside.postMessage = (data) => this.#tell(this, data);
      this.loaded = new Promise((resolve) => {
        const script = this.inside.document.createElement("script");
        script.src = url;
        script.addEventListener("load", resolve);
        this.inside.document.body.append(script);
      });
    }

    async postMessage(data) {
      await this.loaded;
      this.#tell(this.inside, data);
    }

    #tell(target, data) {
      const message = new MessageEvent("message", { data });
      target.dispatchEvent(message);
      target.onmessage?.(message);
    }
  };
}
