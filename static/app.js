// Updates the answer next to the form while the form changes. Without this script the form submits as usual.
"use strict";

(() => {
  const form = document.getElementById("plan");
  if (!form) return;

  const LONGEST_ADDRESS = 8000;
  const TYPING_PAUSE = 250;
  const LIMITS_DELAY = 300;
  const WAIT_SHOWN = 5;
  let running = null;
  let timer = 0;
  let loadingLimits = null;
  let limitsTimer = 0;
  let lastChanged = "";
  const home = form.getAttribute("action");
  let shownAddress = location.pathname + location.search;
  const ownAddress = document.querySelector("[data-live-address]")?.getAttribute("href");

  const field = (name) => form.elements.namedItem(name);

  const clear = (name) => {
    if (field(name)) field(name).value = "";
  };

  const unfoldMethod = () => {
    const typed = new FormData(form);
    const chosen = typed.get("method");
    const shown = [chosen, ...typed.getAll("compared")];
    for (const group of form.querySelectorAll("[data-methods]")) {
      const methods = group.dataset.methods.split(" ");
      group.open = methods.includes(chosen);
      group.hidden = "further" in group.dataset && !methods.some((name) => shown.includes(name));
    }
  };

  const request = (signal) => {
    const typed = new FormData(form);
    typed.delete("");
    typed.delete("content");
    const query = new URLSearchParams(typed).toString();
    return query.length < LONGEST_ADDRESS
      ? fetch(`${home}?${query}`, { signal })
      : fetch(home, { method: "POST", body: new URLSearchParams(typed), signal });
  };

  const openFolds = () => [...document.querySelectorAll("#answer details[open]")].map((fold) => fold.dataset.fold);

  const unfold = (names) => {
    for (const fold of document.querySelectorAll("#answer details")) {
      if (names.includes(fold.dataset.fold)) fold.open = true;
    }
  };

  const limitsSection = () => document.querySelector("#answer [data-limits]");

  // A page in parts states at its end what its form and title had no answer for.
  const completeParts = (page) => {
    const late = page.querySelector("template[data-late]");
    if (!late) return;
    for (const fresh of late.content.querySelectorAll("[data-live]")) {
      page.querySelector(`[data-live="${fresh.dataset.live}"]`)?.replaceChildren(...fresh.childNodes);
    }
    page.title = late.dataset.title;
    for (const shown of page.querySelectorAll(".pending, template[data-late]")) shown.remove();
  };

  // The limits need dozens of estimates, so they load after the answer; until then the previous ones are dimmed.
  const loadLimits = async () => {
    const shown = limitsSection();
    if (loadingLimits) loadingLimits.abort();
    if (!shown) return;
    const mine = new AbortController();
    loadingLimits = mine;
    shown.setAttribute("aria-busy", "true");
    try {
      const response = await fetch(shown.dataset.limits, { signal: mine.signal });
      const answered = new DOMParser().parseFromString(await response.text(), "text/html");
      completeParts(answered);
      const found = answered.querySelector("[data-limits]");
      if (mine !== loadingLimits) return;
      if (!found) throw new Error(`status ${response.status}`);
      const unfolded = openFolds();
      shown.replaceChildren(...found.childNodes);
      unfold(unfolded);
      shown.removeAttribute("aria-busy");
    } catch (error) {
      if (error.name === "AbortError" || mine !== loadingLimits) return;
      shown.replaceChildren(...unloadedLimits);
      shown.removeAttribute("aria-busy");
    }
  };

  let unloadedLimits = [];

  const showAnswer = (answered) => {
    const unfolded = openFolds();
    const drawn = [...document.querySelectorAll("#answer .chart-canvas")];
    const previous = limitsSection() ? [...limitsSection().childNodes] : [];
    for (const fresh of answered.querySelectorAll("[data-live]")) {
      const shown = document.querySelector(`[data-live="${fresh.dataset.live}"]`);
      if (shown) shown.replaceChildren(...fresh.childNodes);
    }
    for (const canvas of drawn) {
      document.querySelector(`#answer .chart-canvas[data-figure="${canvas.dataset.figure}"]`)?.replaceWith(canvas);
    }
    if (limitsSection()) {
      unloadedLimits = [...limitsSection().childNodes];
      if (previous.length) limitsSection().replaceChildren(...previous);
      limitsSection().setAttribute("aria-busy", "true");
    }
    unfold(unfolded);
    document.title = answered.title;
  };

  const markWrong = (answered) => {
    for (const shown of document.querySelectorAll(".plan-inputs [data-field]")) {
      const fresh = answered.querySelector(`[data-field="${shown.dataset.field}"]`);
      const wrong = Boolean(fresh && fresh.classList.contains("is-wrong"));
      shown.classList.toggle("is-wrong", wrong);
      if (fresh) shown.hidden = fresh.hidden;
      const input = document.getElementById(shown.dataset.field);
      if (input && wrong) input.setAttribute("aria-invalid", "true");
      else if (input) input.removeAttribute("aria-invalid");
    }
  };

  // The choice of a tool sets other fields, which the server's form shows.
  const adopt = (answered) => {
    for (const shown of form.elements) {
      const fresh = shown.id && answered.getElementById(shown.id);
      if (!fresh || shown.type === "file") continue;
      if (["radio", "checkbox"].includes(shown.type)) shown.checked = fresh.checked;
      else shown.value = fresh.value;
    }
  };

  const remember = (answered, name) => {
    const link = answered.querySelector("[data-live-address]");
    if (!link) return;
    const address = link.getAttribute("href");
    if (address === shownAddress || address.length > LONGEST_ADDRESS) return;
    // A plan from a long file has no address that Back could lead to; its settings have one.
    if (shownAddress === `${home}import` && ownAddress) history.replaceState(null, "", ownAddress);
    if (name === lastChanged) history.replaceState(null, "", address);
    else history.pushState(null, "", address);
    lastChanged = name;
    shownAddress = address;
  };

  const detailOf = (text, page) => {
    try {
      return JSON.parse(text).detail;
    } catch {
      return page.querySelector("[data-detail]")?.textContent;
    }
  };

  // Returns the page that answers the form, or the reason why there is none.
  const fetchAnswer = async (signal) => {
    let response, text;
    try {
      response = await request(signal);
      text = await response.text();
    } catch {
      return { why: "The server can't be reached." };
    }
    const page = new DOMParser().parseFromString(text, "text/html");
    completeParts(page);
    if (page.getElementById("answer")) return { page };
    const detail = detailOf(text, page);
    const status = `The server did not answer this form (status ${response.status})`;
    return { why: detail ? `${status}: ${detail.replace(/\.$/, "")}.` : `${status}.` };
  };

  const unanswered = document.getElementById("unanswered");
  const strip = document.querySelector("[data-live=strip]");

  // Marks everything that still shows the previous plan: the answer, the title, the status and the strip.
  const withhold = (why) => {
    unanswered.hidden = false;
    unanswered.querySelector("[role=alert]").textContent =
      `${why} The figures below are still those of the run before this change. Change the form or try again.`;
    document.querySelector("[data-live=status]").textContent = "";
    document.title = `${unanswered.querySelector("h2").textContent} · Headroom`;
    strip.replaceChildren(document.getElementById("strip-unanswered").content.cloneNode(true));
    strip.hash = "#unanswered";
  };

  const waiting = document.getElementById("waiting");
  let waitTimer = 0;

  // States that the server still works, and for how long; a trace of the real modules takes minutes.
  const wait = () => {
    const start = Date.now();
    clearInterval(waitTimer);
    waiting.hidden = true;
    waitTimer = setInterval(() => {
      const seconds = Math.round((Date.now() - start) / 1000);
      if (seconds < WAIT_SHOWN) return;
      waiting.hidden = false;
      if (seconds % WAIT_SHOWN === 0) waiting.textContent = `Computing for ${seconds} s. A trace of the real modules can take some minutes; changing the form ends it.`;
    }, 1000);
  };

  const endWait = () => {
    clearInterval(waitTimer);
    waiting.hidden = true;
  };

  const update = async (name) => {
    if (running) running.abort();
    const mine = new AbortController();
    running = mine;
    const answer = document.getElementById("answer");
    answer.setAttribute("aria-busy", "true");
    wait();
    const { page: answered, why } = await fetchAnswer(mine.signal);
    if (mine !== running) return;
    endWait();
    if (!answered) {
      withhold(why);
      return;
    }
    showAnswer(answered);
    if (name === "tool") adopt(answered);
    unanswered.hidden = true;
    strip.hash = "#verdict";
    markWrong(answered);
    remember(answered, name);
    document.dispatchEvent(new Event("answered"));
    answer.removeAttribute("aria-busy");
    clearTimeout(limitsTimer);
    limitsTimer = setTimeout(loadLimits, LIMITS_DELAY);
  };

  form.addEventListener("input", (event) => {
    if (!event.target.name || event.target.type === "file") return;
    if (event.target.name === "method") unfoldMethod();
    clearTimeout(timer);
    const typing = ["text", "textarea"].includes(event.target.type);
    timer = setTimeout(update, typing ? TYPING_PAUSE : 0, event.target.name);
  });

  // Applies the changes of a button that replaces a link.
  const change = (query) => {
    for (const [name, value] of new URLSearchParams(query)) {
      for (const input of form.querySelectorAll(`[name="${name}"]:not([type="hidden"])`)) {
        if (["radio", "checkbox"].includes(input.type)) input.checked = input.value === value;
        else input.value = value;
      }
    }
    unfoldMethod();
  };

  form.addEventListener("submit", (event) => {
    // A button with its own address opens a page of its own.
    if (event.submitter?.hasAttribute("formaction")) return;
    event.preventDefault();
    if (event.submitter?.name === "change") change(event.submitter.value);
    clearTimeout(timer);
    update("submit").then(() => (unanswered.hidden ? document.getElementById("verdict") : unanswered).focus());
  });

  const plan = async (file) => {
    field("config").value = await file.text();
    field("config").closest("details").open = true;
    clear("model");
    update("config");
  };

  const chooser = document.getElementById("config-file");
  chooser.addEventListener("change", () => {
    if (chooser.files.length) plan(chooser.files[0]);
  });

  // A config.json may be dropped anywhere on the form.
  const carriesFile = (event) => event.dataTransfer.types.includes("Files");
  form.addEventListener("dragover", (event) => {
    if (carriesFile(event)) event.preventDefault();
  });
  form.addEventListener("drop", (event) => {
    if (!carriesFile(event)) return;
    event.preventDefault();
    plan(event.dataTransfer.files[0]);
  });

  // Opens the fold around a field before an error links to it.
  document.getElementById("answer").addEventListener("click", (event) => {
    const link = event.target.closest(".refusal a[href^='#']");
    const fold = link && document.getElementById(link.hash.slice(1))?.closest("details");
    if (fold) fold.open = true;
  });

  completeParts(document);
  if (limitsSection()) unloadedLimits = [...limitsSection().childNodes];
  // Slow parts are requested after the page is painted.
  requestAnimationFrame(() => setTimeout(loadLimits));

  window.addEventListener("popstate", () => {
    if (shownAddress !== location.pathname + location.search) location.reload();
  });
})();
