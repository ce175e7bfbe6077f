"use strict";
(() => {
  const SKIP_SECONDS = 10;
  const LINGER_SECONDS = 0.3; // a word stays lit this long into a pause, to avoid flicker between words
  const element = (id) => document.getElementById(id);
  const [main, audio, query, follow, back] = ["transcript", "audio", "query", "follow", "back"].map(element);
  const words = [...main.querySelectorAll("p > span, p > u")];
  const indexOf = new Map(words.map((word, index) => [word, index]));
  const paragraphs = [...main.querySelectorAll("p")];

  // --- times: decode gaps and durations in milliseconds to seconds

  const numbers = JSON.parse(element("times").textContent);
  const starts = new Float64Array(words.length);
  const ends = new Float64Array(words.length);
  for (let index = 0, at = 0; index < words.length; index++) {
    at += numbers[2 * index];
    starts[index] = at / 1000;
    ends[index] = (at + numbers[2 * index + 1]) / 1000;
  }
  // Speakers may overlap, so text order can differ from time order.
  const inTime = Uint32Array.from(words.keys()).sort((a, b) => starts[a] - starts[b] || a - b);

  /** Return the index of the last word that has started at a time in seconds; -1 before the first. */
  function begunAt(seconds) {
    let low = 0;
    let high = inTime.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (starts[inTime[middle]] <= seconds) low = middle + 1;
      else high = middle;
    }
    return low ? inTime[low - 1] : -1;
  }

  // --- highlight the spoken word, and scroll along as long as the reader keeps it in view

  let lit = -1; // -1 during a pause
  let latest = -1;
  let frame = 0;

  function inView(word, share = 1) {
    const { top, bottom } = word.getBoundingClientRect();
    return top >= element("bar").getBoundingClientRect().bottom && bottom <= innerHeight * share;
  }

  function reveal(word, far) {
    if (inView(word, 0.8)) return;
    const still = far || matchMedia("(prefers-reduced-motion: reduce)").matches;
    word.scrollIntoView({ block: "center", behavior: still ? "instant" : "smooth" });
  }

  function show(seconds, far = false) {
    const time = seconds + 0.001; // players round the time that was set
    const word = begunAt(time);
    const now = time < ends[word] + LINGER_SECONDS ? word : -1;
    if (now !== lit) {
      words[lit]?.classList.remove("lit");
      words[now]?.classList.add("lit");
      lit = now;
    }
    if (word !== latest || far) {
      const following = far || latest < 0 || inView(words[latest]);
      latest = word;
      if (word >= 0 && following && follow.checked) reveal(words[word], far);
    }
    back.hidden = audio.paused || !follow.checked || latest < 0 || inView(words[latest]);
  }

  function tick() {
    show(audio.currentTime);
    cancelAnimationFrame(frame);
    if (!audio.paused) frame = requestAnimationFrame(tick);
  }

  audio.addEventListener("play", tick);
  audio.addEventListener("pause", tick);
  audio.addEventListener("seeked", () => show(audio.currentTime, true));
  back.addEventListener("click", () => reveal(words[latest], true));
  follow.addEventListener("change", () => follow.checked && latest >= 0 && reveal(words[latest], true));

  // --- the player

  const ready = () => audio.hasAttribute("src") && !audio.error;

  function say(text) {
    element("status").textContent = text;
    element("chooser").hidden = false;
  }

  function start() {
    audio.play().catch((error) => {
      if (error.name !== "AbortError" && !audio.error) say(`Cannot play the recording: ${error.message} `);
    });
  }

  function playFrom(seconds) {
    if (!ready()) return say("There is no recording to play yet. ");
    audio.currentTime = seconds;
    start();
  }

  function failed() {
    say("The recording could not be loaded; its link may have expired. ");
  }

  audio.addEventListener("error", failed);
  if (audio.error) failed();
  element("chooser").hidden = ready();
  element("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (!file) return;
    URL.revokeObjectURL(audio.src);
    audio.src = URL.createObjectURL(file);
    audio.hidden = false;
    element("status").textContent = "";
  });

  // Link to a time: transcript.html#t=62.5
  function openLink() {
    const seconds = Number(/^#t=(\d+(?:\.\d+)?)$/.exec(location.hash)?.[1] ?? NaN);
    if (!(seconds >= 0)) return;
    if (ready()) audio.currentTime = seconds;
    show(seconds, true);
  }

  addEventListener("hashchange", openLink);

  main.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey || !getSelection().isCollapsed) return;
    const link = event.target.closest("a");
    const word = indexOf.get(event.target);
    if (link) {
      event.preventDefault();
      history.replaceState(null, "", link.hash);
      playFrom(Number(link.hash.slice("#t=".length)));
    } else if (word !== undefined) playFrom(starts[word]);
  });

  // --- keyboard: the text is a single tab stop, and the arrow keys move within it

  let stop = 0;

  function stopAt(index) {
    words[stop].removeAttribute("tabindex");
    words[index].tabIndex = 0;
    stop = index;
  }

  // Runs before the browser focuses the clicked word: an element without a tab index would not get the focus.
  main.addEventListener("pointerdown", (event) => {
    const index = indexOf.get(event.target);
    if (index !== undefined) stopAt(index);
  });

  function neighbour(index, step) {
    const next = paragraphs.indexOf(words[index].parentNode) + step;
    return indexOf.get(paragraphs[next]?.querySelector("span, u")) ?? index;
  }

  main.addEventListener("keydown", (event) => {
    const index = indexOf.get(event.target);
    if (index === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    const onwards = getComputedStyle(event.target.parentNode).direction === "rtl" ? -1 : 1;
    const target = {
      ArrowRight: () => index + onwards,
      ArrowLeft: () => index - onwards,
      ArrowDown: () => neighbour(index, 1),
      ArrowUp: () => neighbour(index, -1),
      Home: () => 0,
      End: () => words.length - 1,
    }[event.key]?.();
    if (event.key === "Enter") playFrom(starts[index]);
    else if (target === undefined) return;
    else if (words[target]) {
      stopAt(target);
      words[target].focus();
    }
    event.preventDefault();
  });

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target === query || !element("shortcuts").checked) return;
    if (event.key === " " && event.target.closest("a, audio, button, input, summary")) return; // these elements handle the space key
    const key = event.key.toLowerCase();
    if (key === "/") {
      query.focus();
      query.select();
    } else if (!ready()) return;
    else if (key === " " || key === "k") audio.paused ? start() : audio.pause();
    else if (key === "j") audio.currentTime -= SKIP_SECONDS;
    else if (key === "l") audio.currentTime += SKIP_SECONDS;
    else return;
    event.preventDefault();
  });

  // --- search: highlight matches with the CSS Custom Highlight API, without changing the document

  const texts = paragraphs.map((paragraph) => paragraph.textContent);
  let hits = []; // [paragraph index, start, end], offsets in characters
  let hit = -1;
  let typing = 0;

  /** Return the range of a match. */
  function rangeOf([paragraph, from, to]) {
    const walker = document.createTreeWalker(paragraphs[paragraph], NodeFilter.SHOW_TEXT);
    const range = {};
    for (let passed = 0, node; (node = walker.nextNode()); passed += node.length) {
      if (!range.startContainer && from < passed + node.length) {
        [range.startContainer, range.startOffset] = [node, from - passed];
      }
      if (to <= passed + node.length) {
        [range.endContainer, range.endOffset] = [node, to - passed];
        break;
      }
    }
    return new StaticRange(range);
  }

  function paint(name, found, priority) {
    if (!CSS.highlights) return;
    const highlight = new Highlight();
    for (const one of found) highlight.add(rangeOf(one));
    highlight.priority = priority;
    CSS.highlights.set(name, highlight);
  }

  function search() {
    const wanted = query.value.trim().replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&").replace(/\s+/g, " ");
    hits = [];
    hit = -1;
    if (wanted) {
      const pattern = new RegExp(wanted, "giu");
      texts.forEach((text, paragraph) => {
        for (const match of text.matchAll(pattern)) hits.push([paragraph, match.index, match.index + match[0].length]);
      });
    }
    paint("hit", hits, 0);
    element("previous").disabled = element("next").disabled = !hits.length;
    step(1);
  }

  function step(by) {
    if (hits.length) hit = (hit + by + hits.length) % hits.length;
    main.querySelector(".found")?.classList.remove("found");
    paint("hit-now", hits.slice(hit, hit + 1), 1);
    if (hits.length) {
      const paragraph = paragraphs[hits[hit][0]];
      paragraph.parentNode.classList.add("found");
      paragraph.scrollIntoView({ block: "center", behavior: "instant" });
    }
    element("count").value = query.value.trim() ? (hits.length ? `${hit + 1} of ${hits.length}` : "no match") : "";
  }

  query.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(search, 150);
  });
  query.addEventListener("keydown", (event) => {
    if (event.key === "Enter") step(event.shiftKey ? -1 : 1);
    if (event.key !== "Escape") return;
    query.value = "";
    search();
    query.blur();
  });
  element("next").addEventListener("click", () => step(1));
  element("previous").addEventListener("click", () => step(-1));

  // --- start

  element("uncertain")?.addEventListener("change", (event) => {
    document.body.classList.toggle("calm", !event.target.checked);
  });
  document.body.classList.add("live");
  element("tools").hidden = element("help").hidden = false;
  if (words.length) words[0].tabIndex = 0;
  openLink();
})();
