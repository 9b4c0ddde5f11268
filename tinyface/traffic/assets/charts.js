// What the charts of all reports share: colours of the page, drawing, and drawing again.
"use strict";
const charts = (() => {
  const LIGHT = ["#3525a0", "#b9830e", "#058571", "#7681ff", "#840f00", "#ff2f85", "#2198b5", "#666f20", "#57534e"];
  const DARK = ["#4a75ff", "#ffda2e", "#4cffbe", "#e3ccff", "#a87542", "#f52b8f", "#10a8b0", "#81b300", "#bfb8b0"];
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
      title: { color: ink }, text: { color: ink }, rule: { color: ink }, line: { color: ink }, mark: { color: ink },
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
