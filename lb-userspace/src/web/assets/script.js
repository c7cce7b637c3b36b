// Follows what happens: asks for the part of the page that changes each second, and changes only what differs, so that
// the focus stays where it is. Without this script the page loads itself again each ten seconds.
"use strict";
(() => {
  const live = document.getElementById("live");
  if (!live) return;
  const said = document.getElementById("said");
  const stale = document.getElementById("stale");
  const staleFor = document.getElementById("stale-for");
  let answered = Date.now();

  // Makes `node` what `wanted` is.
  const become = (node, wanted) => {
    if (node.nodeType !== wanted.nodeType || node.nodeName !== wanted.nodeName) {
      node.replaceWith(wanted.cloneNode(true));
      return;
    }
    if (node.nodeType !== Node.ELEMENT_NODE) {
      if (node.nodeValue !== wanted.nodeValue) node.nodeValue = wanted.nodeValue;
      return;
    }
    for (const { name } of [...node.attributes]) {
      if (!wanted.hasAttribute(name)) node.removeAttribute(name);
    }
    for (const { name, value } of [...wanted.attributes]) {
      if (node.getAttribute(name) !== value) node.setAttribute(name, value);
    }
    children(node, wanted);
  };

  const children = (node, wanted) => {
    const [have, want] = [[...node.childNodes], [...wanted.childNodes]];
    want.forEach((child, at) => {
      if (at < have.length) become(have[at], child);
      else node.appendChild(child.cloneNode(true));
    });
    have.slice(want.length).forEach((child) => child.remove());
  };

  const sayings = () => new Set([...live.querySelectorAll("[data-say]")].map((one) => one.dataset.say));

  const show = (html) => {
    const before = sayings();
    const parsed = new DOMParser().parseFromString(html, "text/html");
    children(live, parsed.body);
    const news = [...sayings()].filter((one) => !before.has(one));
    if (news.length > 0) said.textContent = news.join(". ");
    title();
  };

  const title = () => {
    const head = live.querySelector("[data-title].problems");
    if (head && document.title !== head.dataset.title) document.title = head.dataset.title;
  };

  const look = async () => {
    try {
      const answer = await fetch(live.dataset.live, { cache: "no-store", signal: AbortSignal.timeout(8000) });
      if (answer.status === 403) {
        location.reload();
        return;
      }
      if (!answer.ok) throw new Error(String(answer.status));
      show(await answer.text());
      answered = Date.now();
      stale.hidden = true;
    } catch {
      const seconds = Math.round((Date.now() - answered) / 1000);
      staleFor.textContent = `${seconds} s`;
      stale.hidden = seconds < 3;
    }
    setTimeout(look, document.hidden ? 5000 : 1000);
  };

  title();
  setTimeout(look, 1000);
})();
