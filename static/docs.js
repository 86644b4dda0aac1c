// Shows the OpenAPI document by Swagger UI. Without this script the page lists the operations.
"use strict";

(() => {
  const place = document.getElementById("swagger-ui");
  if (!place) return;

  // Swagger UI has a class for its dark colors. The site follows the system's setting.
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
  dark.addEventListener("change", follow);
  follow();

  place.hidden = false;
  SwaggerUIBundle({
    url: place.dataset.document,
    domNode: place,
    deepLinking: true,
    defaultModelsExpandDepth: 0,
    docExpansion: "list",
    onComplete: () => {
      // A page has one main landmark, and Swagger UI adds another.
      place.querySelector("main")?.setAttribute("role", "presentation");
      place.removeAttribute("aria-busy");
    },
  });
})();
