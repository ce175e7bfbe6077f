// Keeps the page up to date. The server sends trees of elements, [tag, attributes, children]. Text is never parsed.
(() => {
  "use strict";
  const PERIOD_MS = 1000, TIMEOUT_MS = 5000;
  const live = document.getElementById("live");

  const build = tree => {
    if (typeof tree === "string") return document.createTextNode(tree);
    const node = document.createElement(tree[0]);
    return patch(node, tree);
  };

  // Changes only what differs, to keep the selection, open lists and the scroll position.
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

  const refresh = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch("page.json", { signal: AbortSignal.timeout(TIMEOUT_MS) });
      const { title, parts } = await answer.json();
      document.title = title;
      for (const [id, tree] of Object.entries(parts)) patch(document.getElementById(id), tree);
      show("live", false);
    } catch {
      show("not connected: this page is out of date", true);
    }
  };

  const poll = async () => {
    await refresh();
    setTimeout(poll, PERIOD_MS);
  };

  document.addEventListener("visibilitychange", refresh);
  poll();
})();
