// Giving a card's size takes back its name, and a config the model's id; the other way round too.
// Without this script, giving both is refused with the way out.
"use strict";

(() => {
  const rivals = { gpu: "memory_gib", memory_gib: "gpu", model: "config", config: "model" };
  for (const form of document.querySelectorAll("form.plan-form")) {
    form.addEventListener("input", (event) => {
      const rival = form.elements.namedItem(rivals[event.target.name] ?? "");
      if (event.target.value && rival) rival.value = "";
    });
  }
})();
