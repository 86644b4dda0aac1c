// Recalculates an example while its numbers change. Without this script its form submits as usual.
"use strict";

(() => {
  const TYPING_PAUSE = 250;
  let running = null;
  let timer = 0;

  const showAnswer = (answered) => {
    for (const fresh of answered.querySelectorAll("[data-live]")) {
      const shown = document.querySelector(`[data-live="${fresh.dataset.live}"]`);
      if (shown) shown.replaceChildren(...fresh.childNodes);
    }
    for (const shown of document.querySelectorAll("form.try [data-field]")) {
      const fresh = answered.querySelector(`[data-field="${shown.dataset.field}"]`);
      const wrong = Boolean(fresh?.classList.contains("is-wrong"));
      shown.classList.toggle("is-wrong", wrong);
      const input = document.getElementById(shown.dataset.field);
      if (wrong) input.setAttribute("aria-invalid", "true");
      else input.removeAttribute("aria-invalid");
    }
    document.title = answered.title;
    document.querySelector("[data-json]").href = answered.querySelector("[data-json]").getAttribute("href");
    history.replaceState(null, "", answered.querySelector("link[rel=canonical]").getAttribute("href"));
    document.dispatchEvent(new Event("answered"));
  };

  const update = async (form) => {
    if (running) running.abort();
    const mine = new AbortController();
    running = mine;
    const query = new URLSearchParams(new FormData(form));
    const answer = form.parentElement.querySelector(".worked-answer");
    answer.setAttribute("aria-busy", "true");
    try {
      const response = await fetch(`${location.pathname}?${query}`, { signal: mine.signal });
      const answered = new DOMParser().parseFromString(await response.text(), "text/html");
      if (mine !== running) return;
      if (!answered.querySelector("[data-live]")) throw new Error(`status ${response.status}`);
      showAnswer(answered);
      answer.removeAttribute("aria-busy");
    } catch (error) {
      if (error.name === "AbortError" || mine !== running) return;
      answer.textContent = "The server did not answer. Press the button to try again.";
    }
  };

  for (const form of document.querySelectorAll("form.try")) {
    form.addEventListener("input", (event) => {
      clearTimeout(timer);
      timer = setTimeout(update, ["text", "textarea"].includes(event.target.type) ? TYPING_PAUSE : 0, form);
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      clearTimeout(timer);
      update(form).then(() => {
        (form.parentElement.querySelector(".summary") ?? form.parentElement.querySelector(".worked-answer")).focus();
      });
    });
  }
})();
