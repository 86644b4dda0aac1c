// Typing a GPU's memory clears its name, and a config clears the model's id, and vice versa.
// Without this script, the server refuses both together and says what to remove.
"use strict";

(() => {
  const excludes = { gpu: "memory_gib", memory_gib: "gpu", model: "config", config: "model" };
  for (const form of document.querySelectorAll("form.plan-form")) {
    form.addEventListener("input", (event) => {
      const other = form.elements.namedItem(excludes[event.target.name] ?? "");
      if (event.target.value && other) other.value = "";
    });
  }
})();
