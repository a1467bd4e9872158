// Browsers start no workers for pages opened from a folder. There, run the search in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inside = frame.contentWindow;
      const deliver = (target, data) => target.dispatchEvent(new MessageEvent("message", { data }));
      inside.postMessage = (data) => deliver(this, data);
      inside.__index = window.__index;
      inside.importScripts = (...urls) => urls.reduce((last, url) => last.then(() => load(url)), started);
      const load = (url) =>
        new Promise((resolve, reject) => {
          const script = inside.document.createElement("script");
          Object.assign(script, { src: url, onload: resolve, onerror: reject });
          inside.document.body.append(script);
        });
      const started = load(url);
      this.postMessage = (data) => started.then(() => deliver(inside, data));
    }
    terminate() {}
  };
}
