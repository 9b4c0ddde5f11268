// The charts of the claim. All data come from the JSON in this page; the tables have the same.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const models = data.models;
  const families = [...new Set(data.networks.map((n) => n.family))];
  const log = (field, title) => ({ field, type: "quantitative", title, 
                                   scale: { type: "log", nice: false, padding: 10 },
                                   axis: { format: field === "macs" || field === "feature_bytes" ? "~s" : "~g", gridOpacity: 0.4, tickCount: 5 } });
  const family = { field: "family", type: "nominal", scale: { domain: families },
                   legend: { title: null, orient: "top", columns: 4, symbolType: "circle" } };
  const shape = { field: "designed", type: "nominal", legend: null,
                  scale: { domain: [false, true], range: ["circle", "triangle-up"] } };
  const network = [{ field: "network" }, { field: "family" }, { field: "varies" },
    { field: "macs", title: "MACs", format: ",d" },
    { field: "feature_bytes", title: "F (bytes)", format: ",d" },
    { field: "weight_bytes", title: "weights (bytes)", format: ",d" },
    { field: "steps", title: "operators" },
    { field: "ms", title: "measured (ms)", format: ".3f" },
    { field: "fitted", title: "fitted (ms)", format: ".3f" },
    { field: "share", title: "F's share", format: ".0%" }];
  const dots = { type: "point", filled: true, size: 70 };
  const legend = (width) => ({ ...family, legend: { ...family.legend, columns: width < 600 ? 2 : 4 } });

  const errors = (width) => ({
    description: "Mean error on held-out networks for each model and kind of operator.",
    data: { values: data.errors }, columns: width < 600 ? 1 : 3, spacing: { row: 20, column: 25 },
    facet: { field: "group", type: "nominal", title: null, sort: data.errors.map((e) => e.group) },
    spec: {
      width: Math.max(80, width < 600 ? width - 230 : (width - 290) / 3), height: { step: 18 },
      mark: "bar", encoding: {
        y: { field: "model", type: "nominal", title: null, sort: models, axis: { labelLimit: 190 } },
        x: { field: "mean", type: "quantitative", title: null, axis: { format: "%", tickCount: 4 } },
        color: { field: "model", type: "nominal", scale: { domain: models }, legend: null },
        tooltip: [{ field: "group" }, { field: "model" },
          { field: "mean", title: "mean error", format: ".1%" },
          { field: "median", title: "median error", format: ".1%" }],
      },
    },
    resolve: { scale: { x: "independent" } },
  });

  function terms(width) {
    const named = data.terms.map((t) => ({ ...t, title: `${t.term}, ${t.unit}` }));
    const value = { type: "quantitative", title: null, axis: { format: ".3~g", tickCount: 3 } };
    const model = { field: "model", type: "nominal", title: null, sort: models, axis: { labelLimit: 190 } };
    return {
      description: "Coefficients with 95 % intervals, one chart per column of the models.",
      data: { values: named }, columns: width < 600 ? 1 : 3, spacing: { row: 20, column: 25 },
      facet: { field: "title", type: "nominal", title: null, sort: named.map((t) => t.title) },
      spec: {
        width: Math.max(80, width < 600 ? width - 230 : (width - 320) / 3), height: { step: 18 },
        encoding: { y: model, tooltip: [{ field: "model" }, { field: "title", title: "column" },
          ...["value", "low", "high"].map((field) => ({ field, format: ".4~g" }))] },
        layer: [
          { mark: { type: "rule", strokeDash: [3, 3] }, encoding: { x: { datum: 0 }, y: null } },
          { mark: { type: "rule", strokeWidth: 3 }, encoding: {
            x: { ...value, field: "low" }, x2: { field: "high" },
            color: { field: "model", type: "nominal", scale: { domain: models }, legend: null } } },
          { mark: { ...dots }, encoding: { x: { ...value, field: "value" },
            color: { field: "model", type: "nominal", scale: { domain: models }, legend: null } } },
        ],
      },
      resolve: { scale: { x: "independent" } },
    };
  }

  function fitted(width) {
    const times = data.networks.map((n) => n.ms);
    const ends = [0.7 * Math.min(...times), 1.4 * Math.max(...times)];
    return {
      description: "Fitted against measured time of every network.",
      width: width - 75, height: width < 600 ? 300 : 420,
      layer: [
        { data: { values: ends.map((v) => ({ x: v, y: v })) }, mark: { type: "line", strokeWidth: 1 },
          encoding: { x: log("x", "measured (ms)"), y: log("y", "fitted (ms)") } },
        { data: { values: data.networks }, mark: { ...dots, clip: true }, encoding: {
          x: log("ms", "measured (ms)"), y: log("fitted", "fitted (ms)"), color: legend(width), shape,
          tooltip: network } },
      ],
    };
  }

  function shares(width) {
    const real = data.networks.filter((n) => !n.designed).sort((a, b) => b.share - a.share);
    return real.length ? {
      description: "F's share of the fitted time of real networks.",
      data: { values: real }, width: width - 190, height: { step: 15 }, mark: "bar",
      encoding: {
        y: { field: "network", type: "nominal", title: null, sort: null, axis: { labelLimit: 170 } },
        x: { field: "share", type: "quantitative", title: "F's share of the fitted time",
             axis: { format: "%" } },
        color: { ...legend(width), scale: { domain: families } }, tooltip: network,
      },
    } : null;
  }

  const design = (width) => ({
    description: "MACs against F of every network.",
    data: { values: data.networks }, width: width - 75, height: width < 600 ? 300 : 420, mark: dots,
    encoding: { x: log("macs", "MACs"), y: log("feature_bytes", "F (bytes)"), color: legend(width), shape,
                tooltip: network },
  });

  charts.start(() => Promise.all([
    charts.draw("errors-chart", errors), charts.draw("terms-chart", terms),
    charts.draw("fitted-chart", fitted), charts.draw("share-chart", shares),
    charts.draw("design-chart", design)]));
})();
