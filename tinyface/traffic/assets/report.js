// The charts, and the order of the tables. All data come from the JSON in this page.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const paired = data.networks.length > 1;
  const TEXTS = ["name", "kernel", "shape", "bound"]; // columns that hold no numbers
  const MOST = 300; // bars of a chart; the tables have them all
  const { views } = charts;
  let order = { key: "number", descending: false };

  const points = data.networks.flatMap((network, n) =>
    network.points.map((p) => ({ ...p, id: `${n}-${p.number}`, network: network.label })));
  for (const p of points) {
    p.label = `${p.number} ${p.name}`;
    p.key = `${p.id} ${p.label}`; // two networks may have operators of one name
    p.held = p.bound || "unknown";
    p.us = p.time / 1000;
    p.percent = p.shares.time;
    p.coloured = data.coloured.includes(p.kind) ? p.kind : data.coloured.at(-1);
  }

  // ------------------------------------------------------------------------ charts

  const tooltip = [
    ...(paired ? [{ field: "network" }] : []),
    { field: "label", title: "operator" }, { field: "kind" }, { field: "kernel" },
    { field: "us", title: "time (µs)", format: ",.1f" },
    { field: "percent", title: "share of time", format: ".1%" },
    { field: "macs", title: "MACs", format: ",d" },
    { field: "maps", title: "feature-map bytes", format: ",d" },
    { field: "weights", title: "weight bytes", format: ",d" },
    { field: "intensity", title: "MAC per byte", format: ".3~g" },
    { field: "gmac", title: "GMAC/s", format: ".3~g" }, { field: "gb", title: "GB/s", format: ".3~g" },
    { field: "held", title: "bound" },
  ];
  const hot = { name: "hot", value: null };
  const faded = { condition: { test: "hot === null || datum.id === hot", value: 1 }, value: 0.25 };
  const color = (room) => ({ field: "coloured", type: "nominal", scale: { domain: data.coloured },
    legend: { title: null, orient: "top", columns: legendColumns(room), symbolType: "square" } });

  function legendColumns(room) { // as many as fit
    const widths = data.coloured.map((kind) => 7 * kind.length + 26);
    for (let n = widths.length; n > 1; n--) {
      let sum = 0;
      for (let c = 0; c < n; c++) sum += Math.max(...widths.filter((_, i) => i % n === c));
      if (sum <= room) return n;
    }
    return 1;
  }

  function sorted(rows) { // as the tables have them
    const place = new Map([...document.querySelectorAll(".sortable tbody tr")]
      .map((row, i) => [row.dataset.point, i]));
    return [...rows].sort((a, b) => place.get(a.id) - place.get(b.id));
  }

  function bars(width) {
    const narrow = width < 600;
    const chosen = document.querySelector("input[name=quantity]:checked").value;
    const shares = chosen === "all";
    const longest = Math.max(...points.map((p) => p.label.length));
    const labels = Math.min(narrow ? 95 : 190, 7 * longest);
    const shown = data.networks.flatMap((network) =>
      sorted(points.filter((p) => p.network === network.label)).slice(0, MOST));
    const keys = shares ? Object.keys(data.quantities) : [chosen];
    const values = keys.flatMap((key) => shown.map((p) => ({
      ...p, quantity: data.quantities[key],
      value: shares ? p.shares[key] : key === "time" ? p.us : p[key] })));
    const columns = paired ? (narrow ? 1 : 2) : shares ? (width < 900 ? 2 : 4) : 1;
    const axes = paired ? columns : 1; // each network names its own operators
    const each = Math.max(60, (width - axes * (labels + 20) - (columns - 1) * 25 - 10) / columns);
    const title = shares ? "share of the network's total"
      : data.quantities[chosen] + (chosen === "time" ? " (µs)" : "");
    const chart = {
      width: each, height: { step: 15 }, mark: { type: "bar", cursor: "pointer" },
      encoding: {
        y: { field: "key", type: "nominal", title: null, sort: shown.map((p) => p.key),
             axis: { labelLimit: labels, ticks: false, domain: false,
                     labelExpr: "slice(datum.label, indexof(datum.label, ' ') + 1)" } },
        x: { field: "value", type: "quantitative", title: null,
             axis: { format: shares ? "%" : "~s", tickCount: Math.max(2, Math.floor(each / 60)) } },
        color: color(width - labels), opacity: faded, tooltip,
      },
    };
    const cut = data.networks.some((network) => network.points.length > MOST);
    const common = { params: [hot], data: { values },
      ...(cut ? { title: { text: `the first ${MOST} operators in this order`, fontSize: 12 } } : {}),
      description:
      `Bars of ${title}, one per operator. The table of operators has the same figures.` };
    if (!paired && !shares) {
      chart.encoding.x.title = title;
      return { ...common, ...chart };
    }
    return {
      ...common, columns, spacing: { row: 20, column: 25 },
      facet: { field: paired ? "network" : "quantity", type: "nominal",
               sort: paired ? null : Object.values(data.quantities),
               header: { title, titleOrient: "bottom", titleFontWeight: 500 } },
      spec: chart, resolve: paired ? { scale: { y: "independent" }, axis: { x: "independent" } } : {},
    };
  }

  function roofline(width) {
    const narrow = width < 600;
    const placed = points.filter((p) => p.macs > 0 && p.time > 0);
    if (!placed.length) return null;
    const xs = placed.map((p) => p.intensity);
    const ridges = data.roofs.filter((r) => r.gb > 0 && r.gmac > 0).map((r) => r.gmac / r.gb);
    const left = Math.min(...xs, ...ridges) / 2, right = Math.max(...xs, ...ridges) * 2;
    const roofs = data.roofs.filter((r) => r.gb > 0 && r.gmac > 0).flatMap((r) =>
      [left, r.gmac / r.gb, right].map((x) => ({ ...r, x, y: Math.min(r.gmac, r.gb * x) })));
    const ys = [...placed.map((p) => p.gmac), ...roofs.map((r) => r.y)];
    const low = Math.min(...ys) / 1.5, high = Math.max(...ys) * 1.5;
    const axis = { gridOpacity: 0.4, format: "~g" };
    const x = { field: "x", type: "quantitative", scale: { type: "log", domain: [left, right] },
                axis: { ...axis, tickCount: 6 }, title: "arithmetic intensity (MAC per compulsory byte)" };
    const y = { field: "y", type: "quantitative", scale: { type: "log", domain: [low, high], nice: false },
                axis: { ...axis, tickCount: 5 }, title: "achieved GMAC/s" };
    const dots = { ...x, field: "intensity" };
    return {
      params: [hot], width: width - 75, height: narrow ? 300 : 420,
      config: { legend: { layout: { top: { direction: "vertical" } } } }, // kinds, then networks
      description: "Roofline: achieved GMAC/s over arithmetic intensity, one point per operator.",
      layer: [
        { data: { values: roofs }, mark: { type: "line", strokeWidth: 1.5 },
          encoding: { x, y, detail: { field: "label" },
            strokeDash: { field: "label", type: "nominal", scale: { domain: data.roofs.map((r) => r.label), range:
              data.roofs[0].measured ? [[1, 0], [8, 3], [4, 3], [2, 2]] : [[6, 4]] },
              legend: { title: null, orient: "bottom", direction: "vertical", labelLimit: width - 60,
                        symbolSize: 400, symbolType: "stroke" } } } },
        { data: { values: placed }, mark: { type: "point", filled: true, size: 80, cursor: "pointer" },
          encoding: { x: dots, y: { ...y, field: "gmac" }, opacity: faded, tooltip,
            color: color(width - 75),
            shape: paired ? { field: "network", type: "nominal", scale: { range: ["circle", "triangle-up"] },
              legend: { title: null, orient: "top", labelLimit: width / 2 } } : { value: "circle" } } },
      ],
    };
  }

  function strip(width) {
    const without = points.filter((p) => !(p.macs > 0) && p.gb > 0);
    if (!without.length) return null;
    const room = width - 35 - 7 * Math.max(...without.map((p) => p.kind.length));
    return {
      params: [hot], data: { values: without }, width: room, height: { step: 26 },
      description: "Achieved GB/s of the operators without MACs.",
      mark: { type: "point", filled: true, size: 80, cursor: "pointer" },
      encoding: {
        x: { field: "gb", type: "quantitative", axis: { tickCount: Math.max(3, Math.floor(room / 90)) },
             title: room < 290 ? "achieved GB/s" : "achieved GB/s (bytes that the kernel touches)" },
        y: { field: "kind", type: "nominal", title: null },
        color: { ...color(room), legend: null }, opacity: faded, tooltip,
        shape: paired ? { field: "network", type: "nominal", legend: null,
                          scale: { range: ["circle", "triangle-up"] } } : { value: "circle" },
      },
    };
  }

  async function draw(name, make) {
    const view = await charts.draw(name, make);
    if (view === null) return;
    view.addEventListener("mouseover", (_, item) => mark(item?.datum?.id ?? null, name));
    view.addEventListener("mouseout", () => mark(null, name));
    view.addEventListener("click", (_, item) => {
      if (item?.datum?.id) location.hash = `r${item.datum.id}`;
    });
  }

  const drawBars = () => draw("bars-chart", bars);
  const drawAll = () =>
    Promise.all([drawBars(), draw("roofline-chart", roofline), draw("strip-chart", strip)]);

  // ---------------------------------------------- one operator, wherever it is shown

  function mark(id, from) {
    for (const old of document.querySelectorAll(".hot")) old.classList.remove("hot");
    if (id !== null) {
      for (const row of document.querySelectorAll(`[data-point="${id}"]`)) row.classList.add("hot");
    }
    for (const [name, view] of views) if (name !== from) view.signal("hot", id).runAsync();
  }

  for (const row of document.querySelectorAll("[data-point]")) {
    for (const event of ["mouseenter", "focusin"]) row.addEventListener(event, () => mark(row.dataset.point));
    for (const event of ["mouseleave", "focusout"]) row.addEventListener(event, () => mark(null));
  }

  // ------------------------------------------------------------------------- order

  function sortTable(table) {
    const heads = [...table.tHead.rows[0].cells];
    const keys = heads.map((th) => th.firstChild.dataset.key);
    heads.forEach((th, i) => th.setAttribute("aria-sort",
      keys[i] !== order.key ? "none" : order.descending ? "descending" : "ascending"));
    const cell = (row, key) => row.cells[keys.indexOf(key)].dataset.v;
    const figure = (row) => (order.key === "maps"
      ? Number(cell(row, "read")) + Number(cell(row, "written")) : Number(cell(row, order.key)));
    const compare = TEXTS.includes(order.key)
      ? (a, b) => cell(a, order.key).localeCompare(cell(b, order.key), "en", { numeric: true })
      : (a, b) => figure(a) - figure(b);
    const sign = order.descending ? -1 : 1;
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => sign * compare(a, b) || cell(a, "number") - cell(b, "number"));
    table.tBodies[0].append(...rows);
  }

  function setOrder(key, descending) {
    order = { key, descending };
    document.getElementById("order").value = key; // nothing, for a column that it does not have
    document.querySelectorAll("table.sortable").forEach(sortTable);
    return drawBars();
  }

  for (const button of document.querySelectorAll(".sortable button")) {
    button.addEventListener("click", () => {
      const key = button.dataset.key;
      const most = key !== "number" && !TEXTS.includes(key); // of figures, the largest first
      setOrder(key, order.key === key ? !order.descending : most);
    });
  }
  document.getElementById("order").addEventListener("change", (event) =>
    setOrder(event.target.value, event.target.value !== "number"));
  for (const radio of document.querySelectorAll("input[name=quantity]")) {
    radio.addEventListener("change", drawBars);
  }

  document.getElementById("order").value = order.key;
  charts.start(drawAll);
})();
