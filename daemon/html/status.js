// Keeps the page up to date. The server sends trees of elements, [tag, attributes, children]; text stays text.
(() => {
  "use strict";
  const RETRY_MS = 10000, SILENCE_MS = 5000;
  const live = document.getElementById("live");
  let source = null, heard = 0;

  const build = tree => {
    if (typeof tree === "string") return document.createTextNode(tree);
    const node = document.createElement(tree[0]);
    return patch(node, tree);
  };

  // Changes only what differs, so that a selection, an open list and the place on the page stay.
  const patch = (node, tree) => {
    const [, attributes, children] = tree;
    for (const { name } of [...node.attributes]) {
      if (!(name in attributes) && !(name === "open" && node.tagName === "DETAILS")) node.removeAttribute(name);
    }
    for (const [name, value] of Object.entries(attributes)) {
      if (node.getAttribute(name) !== value) node.setAttribute(name, value);
    }
    while (node.childNodes.length > children.length) node.lastChild.remove();
    children.forEach((child, index) => {
      const old = node.childNodes[index];
      if (!old) node.append(build(child));
      else if (typeof child === "string" && old.nodeType === Node.TEXT_NODE) {
        if (old.data !== child) old.data = child;
      } else if (old.nodeType === Node.ELEMENT_NODE && old.localName === child[0]) patch(old, child);
      else old.replaceWith(build(child));
    });
    return node;
  };

  const show = (text, stale) => {
    if (live.textContent !== text) live.textContent = text;
    document.body.classList.toggle("stale", stale);
  };

  const receive = event => {
    const { title, parts } = JSON.parse(event.data);
    heard = Date.now();
    document.title = title;
    for (const [id, tree] of Object.entries(parts)) patch(document.getElementById(id), tree);
    show("live", false);
  };

  const close = () => {
    if (source) source.close();
    source = null;
  };

  const connect = () => {
    if (source || document.hidden) return;
    const opened = source = new EventSource("events");
    source.onmessage = receive;
    source.onerror = () => {
      show("not connected: what you see is old", true);
      // Refused for good, as with too many pages open. After a mere interruption the browser tries again by itself.
      if (opened.readyState === EventSource.CLOSED && opened === source) {
        close();
        setTimeout(connect, RETRY_MS);
      }
    };
  };

  document.addEventListener("visibilitychange", () => (document.hidden ? close() : connect()));
  setInterval(() => {
    if (source && heard && Date.now() - heard > SILENCE_MS) show("not connected: what you see is old", true);
  }, 1000);
  connect();
})();
