"use strict";
// The plots of a meta-evaluation. Positions are numbers and names are labels, so that no name,
// however odd, is taken for a number, a date, or a key of an object.
(() => {
  const { data, text, short, plot, redraw } = scorekit;
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon"];
  const ROW = 26;
  const fixed = (value, digits = 3) => (value === null ? "–" : value.toFixed(digits));
  const signed = (value) => (value === null ? "–" : (value < 0 ? "" : "+") + value.toFixed(3));
  const bounds = (low, high, show = fixed) => (low === null ? "" : ` [${show(low)}, ${show(high)}]`);
  const label = (name, narrow) => text(short(name, narrow ? 17 : 40));
  const lines = (labels) => ({
    tickvals: labels.map((_, i) => i),
    ticktext: labels,
    range: [labels.length - 0.5, -0.5],
    zeroline: false,
    showgrid: false,
  });
  const named = (list, narrow) => lines(list.map((name) => label(name, narrow)));
  const numbered = (list, narrow) =>
    lines(list.map((name, i) => `${i + 1} ${label(name, narrow)}`));
  const select = (id, change) => {
    const element = document.getElementById(id);
    element?.addEventListener("change", () => change(Number(element.value)));
  };
  const errors = (rows, theme) => ({
    type: "data",
    symmetric: false,
    array: rows.map(([v, , high]) => (high === null ? 0 : high - v)),
    arrayminus: rows.map(([v, low]) => (low === null ? 0 : v - low)),
    color: theme.accent,
    thickness: 1.6,
    width: 4,
  });
  const line = (x, theme, dash, colour = theme.dim) => ({
    type: "line", xref: "x", yref: "paper", x0: x, x1: x, y0: 0, y1: 1,
    line: { color: colour, width: 1.6, dash },
  });

  // Agreement of each metric, with clusters, random and ceiling.
  const dots = (d, s, main) => (theme, narrow) => {
    const rows = d.values[s];
    const shapes = [];
    const annotations = [];
    let start = 0;
    d.ranks.forEach((rank, i) => {
      if (rank === null || rank === d.ranks[i + 1]) return;
      const edges = { y0: start - 0.5, y1: i + 0.5 };
      start = i + 1;
      if (rank % 2) {
        shapes.push({
          type: "rect", layer: "below", xref: "paper", yref: "y", x0: 0, x1: 1, ...edges,
          fillcolor: theme.band, line: { width: 0 },
        });
      }
      if (main) {
        annotations.push({
          xref: "paper", x: 1, xanchor: "left", yref: "y", y: (edges.y0 + edges.y1) / 2,
          text: narrow ? `${rank}` : `rank ${rank}`, showarrow: false,
          font: { color: theme.dim }, xshift: 4,
        });
      }
    });
    if (d.random[s] !== null) shapes.push(line(d.random[s], theme, "dot"));
    if (main && d.ceiling && d.ceiling[0] !== null) {
      const [value, low, high] = d.ceiling;
      if (low !== null) {
        shapes.push({
          type: "rect", layer: "below", xref: "x", yref: "paper", x0: low, x1: high, y0: 0, y1: 1,
          fillcolor: theme.second, opacity: 0.15, line: { width: 0 },
        });
      }
      shapes.push(line(value, theme, "dash", theme.second));
    }
    // A shape does not widen the axis; a point that nobody sees does.
    const ends = [d.random[s], ...(main && d.ceiling ? d.ceiling : [])].filter((v) => v !== null);
    return {
      traces: [
        {
          type: "scatter", mode: "markers", hoverinfo: "skip",
          x: ends, y: ends.map(() => 0), marker: { opacity: 0 },
        },
        {
          type: "scatter", mode: "markers",
          x: rows.map(([v]) => v), y: rows.map((_, i) => i), error_x: errors(rows, theme),
          marker: {
            color: theme.accent, size: 10,
            symbol: d.ranks.map((rank) => SYMBOLS[((rank ?? 1) - 1) % SYMBOLS.length]),
          },
          hovertemplate: rows.map(([v, low, high], i) =>
            `${text(d.metrics[i])}<br>${d.statistics[s]} ${fixed(v)}${bounds(low, high)}` +
            `${d.ranks[i] === null ? "" : `<br>rank ${d.ranks[i]}`}<extra></extra>`),
        },
      ],
      layout: {
        height: rows.length * ROW + 60, shapes, annotations,
        margin: { l: 8, r: main && d.ranks.some((r) => r !== null) ? (narrow ? 24 : 64) : 12, t: 8, b: 8 },
        xaxis: { title: main ? { text: d.statistics[s] } : undefined, zeroline: false },
        yaxis: named(d.metrics, narrow),
      },
    };
  };

  // Rows, or their distribution where there are too many.
  const spread = (levels) => {
    const steps = levels.slice(1).map((level, i) => level - levels[i]);
    const step = steps.length ? Math.min(...steps) : 1;
    return (i) => (((i * 0.61803398875) % 1) - 0.5) * 0.6 * step;
  };
  const look = (n) =>
    n > 1000 ? { opacity: 0.35, size: 5 } : n > 50 ? { opacity: 0.55, size: 7 } : { opacity: 1, size: 11 };
  const scatter = (d, m) => (theme) => {
    const s = d.scatter;
    const x = { title: { text: label(d.metrics[m], true) + (d.flipped[m] ? " (sign turned)" : "") } };
    const layout = { height: 420, xaxis: { ...x, zeroline: false }, free: true };
    const y = { title: { text: "rating" }, zeroline: false };
    if (s.levels && s.levels.length > 1) Object.assign(y, { tickvals: s.levels });
    if (s.kind === "points") {
      const ratings = s.ratings[m] ?? s.ratings[0];
      const jitter = s.levels ? spread(s.levels) : () => 0;
      return {
        traces: [{
          type: "scatter", mode: "markers",
          x: s.values[m], y: ratings.map((v, i) => (v === null ? null : v + jitter(i))),
          marker: { color: theme.accent, ...look(s.n) },
          hovertemplate: s.items.map((item, i) =>
            `${item && `item ${text(short(item, 60))}<br>`}system ${text(short(s.systems[s.system[i]], 60))}` +
            `<br>score ${s.values[m][i]}<br>rating ${ratings[i]}<extra></extra>`),
        }],
        layout: { ...layout, yaxis: y },
      };
    }
    if (s.kind === "boxes") {
      const boxes = s.boxes[m];
      const part = (k) => boxes.map((box) => box[k]);
      return {
        traces: [{
          type: "box", orientation: "h", y: s.levels, lowerfence: part(0), q1: part(1),
          median: part(2), q3: part(3), upperfence: part(4),
          marker: { color: theme.accent }, fillcolor: theme.strong,
        }],
        layout: {
          ...layout, free: false,
          yaxis: { ...y, ticktext: boxes.map((box, i) => `${s.levels[i]} (n ${box[5]})`) },
        },
      };
    }
    const bins = s.bins[m];
    return {
      traces: [{
        type: "heatmap", ...bins, colorscale: [[0, theme.panel], [1, theme.accent]],
        hovertemplate: "score %{x}<br>rating %{y}<br>%{z} rows<extra></extra>",
        colorbar: { thickness: 10, title: { text: "rows" } },
      }],
      layout: { ...layout, yaxis: y },
    };
  };

  // One metric by the values of a tag, and all metrics.
  const byTag = (d, t, m, s) => (theme, narrow) => {
    const rows = [d.values[s][m], ...t.values.map((values) => values[s][m])];
    const heads = ["all rows", ...t.skills.map((skill, i) => `${label(skill || "(none)", narrow)} (${t.n[i]})`)];
    return {
      traces: [
        {
          type: "scatter", mode: "markers", hoverinfo: "skip",
          x: [d.random[s], ...t.random.map((random) => random[s])], y: heads.map((_, i) => i),
          marker: { symbol: "line-ns-open", size: 16, color: theme.dim, line: { width: 2 } },
        },
        {
          type: "scatter", mode: "markers", x: rows.map(([v]) => v), y: rows.map((_, i) => i),
          error_x: errors(rows, theme),
          marker: { color: theme.accent, size: 10, symbol: heads.map((_, i) => (i ? "circle" : "diamond")) },
          hovertemplate: rows.map(([v, low, high], i) =>
            `${heads[i]}<br>${d.statistics[s]} ${fixed(v)}${bounds(low, high)}<extra></extra>`),
        },
      ],
      layout: {
        height: heads.length * ROW + 60,
        xaxis: { title: { text: d.statistics[s] }, zeroline: false },
        yaxis: lines(heads),
      },
    };
  };

  // A table of colours and numbers.
  const heat = (yaxis, columns, cells, theme, narrow, { show, hover, range }) => {
    const z = cells.map((row) => row.map((cell) => (Array.isArray(cell) ? cell[0] : cell)));
    const flat = z.flat().filter((v) => v !== null);
    const [low, high] = range ?? [Math.min(...flat), Math.max(...flat)];
    const most = Math.max(Math.abs(low), Math.abs(high)) || 1;
    const [from, to] = low < 0 ? [-most, most] : [low, high];
    const room = columns.length <= (narrow ? 6 : 12);
    // Numbers are read on soft colours; without them the colours must say it.
    const [less, more] = room ? [theme.warm, theme.strong] : [theme.second, theme.accent];
    const scale = low < 0
      ? [[0, less], [0.5, theme.panel], [1, more]]
      : [[0, theme.panel], [1, more]];
    return {
      traces: [{
        type: "heatmap", z, xgap: 1, ygap: 1, zmin: from, zmax: to, colorscale: scale,
        x: columns.map((_, i) => i), y: yaxis.tickvals, hoverongaps: false,
        text: z.map((row) => row.map((v) => (v === null ? "" : show(v)))),
        texttemplate: room ? "%{text}" : "", textfont: { color: theme.ink },
        hovertext: cells.map((row, i) => row.map((cell, j) => (cell === null ? "" : hover(cell, i, j)))),
        hovertemplate: "%{hovertext}<extra></extra>",
        showscale: !room, colorbar: { thickness: 10 },
      }],
      layout: {
        height: cells.length * ROW + 80 + 4 * Math.max(...columns.map((column) => column.length)),
        xaxis: {
          tickvals: columns.map((_, i) => i), ticktext: columns, side: "top", showgrid: false,
          zeroline: false, tickfont: { size: room ? 13 : 9 },
        },
        yaxis,
      },
    };
  };
  const between = (d) => (theme, narrow) =>
    heat(numbered(d.metrics, narrow), d.metrics.map((_, i) => `${i + 1}`), d.pairs.correlations, theme, narrow, {
      show: (v) => v.toFixed(2).replace("0.", "."),
      range: [Math.min(0, ...d.pairs.correlations.flat().filter((v) => v !== null)), 1],
      hover: (v, i, j) =>
        `${text(d.metrics[i])}<br>${text(d.metrics[j])}<br>${d.pairs.between} ${fixed(v)}`,
    });
  const gains = (d) => (theme, narrow) =>
    heat(numbered(d.metrics, narrow), d.metrics.map((_, i) => `${i + 1}`), d.pairs.gains, theme, narrow, {
      show: (v) => signed(v).replace("0.", "."),
      hover: ([gain, low, high, combined, best], i, j) =>
        `${text(d.metrics[i])}<br>with ${text(d.metrics[j])}<br>${d.pairs.statistic} ${fixed(combined)}` +
        `<br>${signed(gain)}${bounds(low, high, signed)} over the better of the two` +
        `<br>${signed(best)} over the best metric`,
    });
  const allByTag = (d, t, s) => (theme, narrow) =>
    heat(named(d.metrics, narrow), t.skills.map((skill) => text(short(skill || "(none)", narrow ? 12 : 20))),
      d.metrics.map((_, m) => t.values.map((values) => values[s][m])), theme, narrow, {
        show: (v) => v.toFixed(2).replace("0.", "."),
        hover: ([v, low, high], i, j) =>
          v === null ? "" : `${text(d.metrics[i])}<br>${text(t.skills[j])}<br>${d.statistics[s]} ${fixed(v)}${bounds(low, high)}`,
      });

  const best = (d) => (theme, narrow) => {
    const s = d.selection;
    const most = s.oracle - s.random;
    return {
      traces: [
        {
          type: "bar", orientation: "h", x: s.gains.map(([v]) => v), y: s.gains.map((_, i) => i),
          marker: { color: theme.strong, line: { color: theme.accent, width: 1 } },
          error_x: { ...errors(s.gains, theme), color: theme.ink },
          hovertemplate: s.gains.map(([v, low, high], i) =>
            `${text(s.metrics[i])}<br>mean rating ${fixed(s.means[i])}` +
            `<br>gain ${signed(v)}${bounds(low, high, signed)}<extra></extra>`),
        },
        {
          type: "scatter", mode: "text", hoverinfo: "skip", textposition: "middle right",
          cliponaxis: false,
          x: s.gains.map(([v, , high]) => high ?? v), y: s.gains.map((_, i) => i),
          text: s.shares.map((share) => (share === null ? "" : ` ${Math.round(100 * share)}%`)),
        },
        {
          type: "scatter", mode: "markers", hoverinfo: "skip", x: [0, most], y: [0, 0],
          marker: { opacity: 0 },
        },
      ],
      layout: {
        height: s.metrics.length * ROW + 60, bargap: 0.35, margin: { l: 8, r: 44, t: 8, b: 8 },
        shapes: [line(most, theme, "dash", theme.second)],
        xaxis: { title: { text: "mean rating gained" } },
        yaxis: named(s.metrics, narrow),
      },
    };
  };

  data.dimensions.forEach((d, i) => {
    const id = `d${i}`;
    d.statistics.forEach((_, s) => {
      const main = s === d.statistic;
      plot(`${id}-dots${main ? "" : `-${s}`}`, dots(d, s, main));
    });
    if (d.scatter) {
      let chosen = 0;
      const again = plot(`${id}-scatter`, (...how) => scatter(d, chosen)(...how));
      select(`${id}-metric`, (m) => { chosen = m; again(); });
    }
    d.tags.forEach((t, k) => {
      let [m, s] = [0, d.statistic];
      const one = plot(`${id}-tag${k}`, (...how) => byTag(d, t, m, s)(...how));
      const all = plot(`${id}-tag${k}-all`, (...how) => allByTag(d, t, s)(...how));
      select(`${id}-tag${k}-metric`, (value) => { m = value; one(); });
      select(`${id}-tag${k}-statistic`, (value) => { s = value; one(); all(); });
    });
    if (d.pairs) {
      plot(`${id}-between`, between(d));
      if (d.pairs.gains) plot(`${id}-gains`, gains(d));
    }
    if (d.selection) plot(`${id}-best`, best(d));
  });

  // Several dimensions: one at a time.
  const sections = [...document.querySelectorAll("section.dimension")];
  const show = (chosen) => {
    sections.forEach((section, i) => { section.hidden = i !== chosen; });
    redraw();
  };
  if (sections.length > 1) {
    show(0);
    select("dimension", show);
  }
})();
