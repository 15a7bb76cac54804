"use strict";
// Means with intervals, distributions, metric against metric. `open` is what a click on a row does.
const plots = (open) => {
  if (!document.getElementById("plots")) return;
  const { data, rows, metrics, names, headlines, several } = model;
  const { text, short, plot } = scorekit;
  const MOST_POINTS = 3000, MOST_GROUPS = 24, LEGEND = 8;
  const find = (id) => document.getElementById(id);
  const marks = ["circle", "square", "diamond", "cross", "x", "triangle-up", "star", "hexagon"];
  // Told apart by the colour-blind, and from both the light and the dark panel by a contrast of 3;
  // the marks differ as well.
  const inks = ["#3d85c6", "#d55e00", "#1f8f6a", "#c2629a", "#9a7800", "#7a6fd0", "#2e8fb0", "#808080"];

  const option = (select, value, label) => {
    const made = document.createElement("option");
    made.value = value;
    made.textContent = label;
    select.append(made);
  };
  const offer = (select, chosen) => {
    for (const [m, name] of names.entries()) option(select, m, name);
    select.value = chosen;
  };
  const pick = (end, other) => {
    const found = names.findIndex((name) => name.endsWith(end));
    return found < 0 ? other : found;
  };
  const label = (run, system) =>
    short([several && data.runs[run], system || "(no system)"].filter(Boolean).join(" · "), 28);
  const axis = (metric) =>
    text(short(names[metric], 40)) + (metrics[metric].up ? "" : " (lower is better)");

  // A group is a system of a run.
  const groups = new Map();
  for (let row = 0; row < model.n; row++) {
    const key = rows.run[row] * data.systems.length + rows.system[row];
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(row);
  }
  const shown = [...groups.values()].slice(0, MOST_GROUPS);
  const cut = groups.size > shown.length ? ` The first ${MOST_GROUPS} systems of ${groups.size}.` : "";
  const height = (lines) => 90 + 38 * Math.max(2, lines);
  const onClick = (element) =>
    queueMicrotask(() => {
      if (element.dataset.live) return;
      element.dataset.live = "yes";
      element.on("plotly_click", ({ points }) => {
        if (points[0].customdata !== undefined) open(points[0].customdata);
      });
    });

  const metric = find("plot-metric");
  offer(metric, headlines[0]);
  const chosen = () => Number(metric.value);

  const means = plot("means", (theme) => {
    const all = data.summary.filter((line) => line[2] === names[chosen()] && line[3] !== null);
    const lines = all.slice(0, MOST_GROUPS);
    const spread = (line, end) => (line[end] === null ? 0 : Math.abs(line[end] - line[3]));
    find("means-caption").textContent =
      "Means of all rows with 95% intervals." + (lines.length < all.length ? cut : "");
    const trace = {
      type: "scatter",
      mode: "markers",
      x: lines.map((line) => line[3]),
      y: lines.map((_, i) => i),
      marker: { color: theme.accent, size: 11 },
      error_x: {
        type: "data", symmetric: false, color: theme.accent, thickness: 2,
        array: lines.map((line) => spread(line, 5)),
        arrayminus: lines.map((line) => spread(line, 4)),
      },
      text: lines.map((line) => {
        const bounds = line[4] === null ? "" : ` [${model.show(line[4])}, ${model.show(line[5])}]`;
        return `${text(label(line[0], line[1]))}<br>${model.show(line[3])}${bounds}<br>${line[6]} of ${line[7]}`;
      }),
      hoverinfo: "text",
    };
    return {
      traces: [trace],
      layout: {
        height: height(lines.length),
        xaxis: { title: { text: axis(chosen()) } },
        yaxis: {
          range: [lines.length - 0.5, -0.5], zeroline: false,
          tickvals: lines.map((_, i) => i), ticktext: lines.map((l) => text(label(l[0], l[1]))),
        },
      },
    };
  });

  const spread = plot("spread", (theme) => {
    const m = chosen();
    const traces = shown.map((group, i) => {
      const scored = group.filter((row) => model.value(m, row) !== null);
      const few = scored.length <= 300;
      const shaped = scored.length >= 10;
      return {
        type: "violin",
        orientation: "h",
        x: scored.map((row) => model.value(m, row)),
        y: scored.map(() => i),
        customdata: scored,
        text: scored.map((row) => text(short(model.title(row), 60))),
        points: few ? "all" : false, pointpos: 0, jitter: 0.6,
        box: { visible: !few }, meanline: { visible: shaped, color: theme.ink },
        spanmode: "hard", scalemode: "width", width: 0.85,
        line: { color: theme.accent, width: shaped ? 1.5 : 0 },
        fillcolor: shaped ? theme.strong : "rgba(0,0,0,0)",
        marker: { color: theme.second, size: 5, opacity: 0.75 },
        hoveron: few ? "points" : "violins", hoverinfo: few ? "x+text" : "x",
      };
    });
    find("spread-caption").textContent = `A shape is a system; its line is the mean.${cut}`;
    onClick(find("spread"));
    return {
      traces,
      layout: {
        height: height(shown.length),
        xaxis: { title: { text: axis(m) } },
        yaxis: {
          range: [shown.length - 0.5, -0.5], zeroline: false,
          tickvals: shown.map((_, i) => i),
          ticktext: shown.map(([row]) => text(label(rows.run[row], model.system(row)))),
        },
      },
    };
  });

  metric.addEventListener("change", () => {
    means();
    spread();
  });

  if (metrics.length < 2) return;
  find("against").hidden = false;
  const [across, up] = [find("cross-x"), find("cross-y")];
  offer(across, pick(".preservation", headlines[0]));
  offer(up, pick(".modification", headlines[1] ?? 1));
  const cross = plot("cross", (theme, narrow) => {
    const [x, y] = [Number(across.value), Number(up.value)];
    const all = shown.map((group) =>
      group.filter((row) => model.value(x, row) !== null && model.value(y, row) !== null),
    );
    const n = all.reduce((sum, group) => sum + group.length, 0);
    const step = Math.max(1, n / MOST_POINTS);
    const traces = all.map((group, i) => {
      const drawn = group.filter((_, k) => Math.floor(k / step) !== Math.floor((k - 1) / step));
      const [row] = shown[i];
      return {
        type: "scatter",
        mode: "markers",
        name: text(label(rows.run[row], model.system(row))),
        x: drawn.map((r) => model.value(x, r)),
        y: drawn.map((r) => model.value(y, r)),
        customdata: drawn,
        text: drawn.map((r) => text(short(model.title(r), 60))),
        hoverinfo: "x+y+text",
        marker: {
          color: shown.length > 1 ? inks[i % inks.length] : theme.accent,
          symbol: marks[i % marks.length], size: n > 500 ? 6 : 8, opacity: 0.9,
        },
      };
    });
    const every = step > 1 ? ` ${MOST_POINTS.toLocaleString("en")} of ${n.toLocaleString("en")} rows.` : "";
    find("cross-caption").textContent = `A point is a row; a click opens it.${every}${cut}`;
    onClick(find("cross"));
    return {
      traces,
      layout: {
        height: narrow ? 420 : 480, free: true,
        showlegend: traces.length > 1 && traces.length <= LEGEND,
        legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
        xaxis: { title: { text: axis(x) } },
        yaxis: { title: { text: axis(y) } },
      },
    };
  });
  across.addEventListener("change", cross);
  up.addEventListener("change", cross);
};
