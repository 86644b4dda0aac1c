// Draws the page's figures with the bundled plotly.js, in the style sheet's colors.
"use strict";

(() => {
  const source = document.currentScript.dataset.plotly;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let loading = null;

  const library = () => {
    loading ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = source;
      script.onload = resolve;
      script.onerror = reject;
      document.head.append(script);
    });
    return loading;
  };

  const painted = (figure, styles) => {
    const color = (name) => styles.getPropertyValue(`--${name}`).trim();
    const ink = color("ink");
    for (const trace of figure.data) {
      const tint = color(trace.meta);
      if (trace.error_y) trace.error_y.color = trace.type === "bar" ? ink : tint;
      if (trace.mode?.includes("lines")) trace.line = { ...trace.line, color: tint };
      if (trace.mode !== "lines") trace.marker = { ...trace.marker, color: tint, line: { color: color("surface"), width: 1 } };
    }
    const layout = figure.layout;
    Object.assign(layout, { paper_bgcolor: "transparent", plot_bgcolor: "transparent" });
    layout.font = { color: ink, family: styles.fontFamily, size: 14 };
    layout.hoverlabel = { bgcolor: color("surface"), bordercolor: color("line"), font: { color: ink } };
    for (const axis of [layout.xaxis, layout.yaxis]) {
      Object.assign(axis, { gridcolor: color("line"), zerolinecolor: color("line"), fixedrange: true });
    }
    for (const shape of layout.shapes ?? []) shape.line.color = ink;
    return figure;
  };

  // A chart is as wide as its box, whatever changes the box: the window, a scroll bar, a fold that opens.
  const boxes = new ResizeObserver((entries) => {
    for (const { target: canvas } of entries) {
      const width = canvas.clientWidth;
      if (width && width !== canvas.querySelector(".main-svg")?.clientWidth) Plotly.Plots.resize(canvas);
    }
  });

  const draw = async () => {
    for (const canvas of document.querySelectorAll(".chart-canvas")) {
      await library();
      const element = document.getElementById(canvas.dataset.figure);
      if (!element || !canvas.isConnected) continue;
      const figure = painted(JSON.parse(element.textContent), getComputedStyle(canvas));
      await Plotly.react(canvas, figure.data, figure.layout, { displayModeBar: false });
      canvas.dataset.drawn = "true";
      boxes.observe(canvas);
    }
  };

  document.addEventListener("answered", draw);
  dark.addEventListener("change", draw);
  // The library takes a while to read: the page is painted first.
  requestAnimationFrame(() => setTimeout(draw));
})();
