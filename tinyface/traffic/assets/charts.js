// What the charts of all reports share: colours of the page, drawing, and drawing again.
"use strict";
const charts = (() => {
  const LIGHT = ["#0b62a4", "#c2410c", "#15803d", "#7e22ce", "#a16207", "#be185d", "#0e7490", "#4d7c0f", "#57534e"];
  const DARK = ["#6cb6ff", "#ff9e64", "#73daa0", "#c4a0ff", "#e6c34a", "#ff8fc0", "#5fd3e6", "#9ad13c", "#bfb8b0"];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const views = new Map(); // id of the element -> Vega view

  function theme() {
    const css = getComputedStyle(document.documentElement);
    const of = (name) => css.getPropertyValue(name).trim();
    const ink = of("--ink"), line = of("--line");
    return {
      background: null, font: "system-ui, DejaVu Sans, sans-serif",
      view: { stroke: line },
      range: { category: dark.matches ? DARK : LIGHT },
      axis: { labelColor: ink, titleColor: ink, gridColor: line, domainColor: line, tickColor: line,
              gridOpacity: 0.6, titleFontWeight: 500, labelFontSize: 11, titleFontSize: 12 },
      legend: { labelColor: ink, titleColor: ink, labelFontSize: 12, symbolBaseFillColor: ink,
                symbolBaseStrokeColor: ink }, header: { labelColor: ink, titleColor: ink,
              labelFontWeight: 600, labelFontSize: 12, titleFontSize: 12 },
      text: { color: ink }, rule: { color: ink }, line: { color: ink }, mark: { color: ink },
    };
  }

  // make(width) gives the chart, or null where there is nothing to draw. The view, or null.
  async function draw(name, make) {
    const place = document.getElementById(name);
    const spec = make(place.clientWidth);
    place.closest("figure").hidden = spec === null;
    if (spec === null) return null;
    const options = { mode: "vega-lite", renderer: "svg", actions: false, config: theme(),
                      tooltip: { theme: "custom" } };
    const { view } = await vegaEmbed(place, spec, options);
    views.get(name)?.finalize();
    views.set(name, view);
    return view;
  }

  // Draws now, and again when the colours or the width of the page change.
  function start(drawAll) {
    const again = async () => {
      const night = dark.matches;
      await drawAll();
      document.documentElement.classList.toggle("night", night); // on paper they are inverted
    };
    let width = innerWidth, timer;
    dark.addEventListener("change", again);
    addEventListener("resize", () => {
      if (innerWidth === width) return;
      width = innerWidth;
      clearTimeout(timer);
      timer = setTimeout(again, 150);
    });
    again().then(() => document.documentElement.classList.add("drawn"));
  }

  return { views, draw, start };
})();
