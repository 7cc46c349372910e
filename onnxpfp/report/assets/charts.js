"use strict";
// Charts, from the block of JSON that the page carries. A bar with charts of its own shows them on a click; so does its
// row in a table of the same section, and a list of all names, which works without a mouse.
(() => {
  const NAMED = 28; // Most bars that lie on their sides, with their names.
  const NARROW = 560; // Pixels below which a chart is for a phone.
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const drawn = new Map();

  const make = (name, properties) => Object.assign(document.createElement(name), properties);
  // The style has light and dark colours in one; which of them holds is known of an element that has it.
  const probe = document.body.appendChild(make("span", { hidden: true }));
  const colour = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };

  const letters = [[1e12, " T"], [1e9, " G"], [1e6, " M"], [1e3, " k"]];
  const compact = (value) => {
    const [size, letter] = letters.find(([each]) => Math.abs(value) >= each) ?? [1, ""];
    return `${Number((value / size).toPrecision(3))}${letter}`;
  };
  const digits = (value, count) => {
    const size = Math.abs(value);
    return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(count - 1) : String(Number(value.toPrecision(count)));
  };
  const write = {
    count: compact,
    share: (value) => `${digits(100 * value, 3)} %`,
    number: (value) => digits(value, 3),
  };
  const exact = { ...write, count: (value) => value.toLocaleString("en") };

  // Names of nodes begin and end alike: what all share goes first where they are too long, then the middle.
  const shortened = (labels, most) => {
    const shared = (words) => {
      const length = Math.min(...words.map((each) => each.length)) - 1;
      let count = 0;
      while (count < length && words.every((each) => each[count] === words[0][count])) count += 1;
      return count;
    };
    const long = labels.length > 1 && labels.some((label) => label.length > most);
    const parts = labels.map((label) => label.match(/[^./:_]*[./:_]*/g).filter(Boolean));
    const before = long ? shared(parts) : 0;
    const after = long ? shared(parts.map((each) => each.slice(before).reverse())) : 0;
    return parts.map((each) => {
      const text = each.slice(before, each.length - after).join("").replace(/[./:_]+$/, "");
      const head = Math.floor(most / 3);
      return text.length <= most ? text : `${text.slice(0, head)}…${text.slice(head + 1 - most)}`;
    });
  };

  const scale = (title, format, more = {}) => ({
    border: { display: false },
    grid: { color: colour("grid") },
    ticks: { color: colour("soft"), callback: (value) => format(Number(value)), maxTicksLimit: 7, maxRotation: 0 },
    title: { display: Boolean(title), text: title, color: colour("soft"), font: { size: 12 } },
    ...more,
  });

  const options = (legend, tooltip, more) => ({
    animation: false,
    responsive: true,
    maintainAspectRatio: false,
    ...more,
    plugins: {
      legend: {
        display: legend,
        align: "start",
        onClick: null,
        labels: {
          color: colour("text"),
          boxWidth: 10,
          boxHeight: 10,
          // Full squares, for dashed lines too.
          generateLabels: (drawing) =>
            Chart.defaults.plugins.legend.labels.generateLabels(drawing).map((label) => ({ ...label, lineWidth: 0 })),
        },
      },
      tooltip: {
        backgroundColor: colour("tip"),
        titleColor: colour("tip-text"),
        bodyColor: colour("tip-text"),
        displayColors: false,
        ...tooltip,
      },
    },
  });

  const bars = (chart, width, choose) => {
    const upright = chart.labels.length > NAMED;
    const short = shortened(chart.labels, width < NARROW ? 20 : 40);
    const colours = chart.series.length > 2 ? ["main", "second", "third"] : ["main", "second"];
    const datasets = chart.series.map((series, number) => ({
      label: series.name,
      data: series.values,
      backgroundColor: colour(series.faint ? "faint" : colours[chart.series.slice(0, number).filter((each) => !each.faint).length]),
      borderRadius: upright || chart.stacked ? 0 : 2,
      categoryPercentage: upright ? 0.9 : 0.78,
      barPercentage: upright ? 1 : 0.94,
    }));
    const names = {
      border: { display: false },
      grid: { display: false },
      stacked: chart.stacked,
      ticks: upright
        ? { display: false }
        : { color: colour("text"), autoSkip: false, callback: (value) => short[value] },
      title: { display: upright, text: `${chart.labels.length} ${chart.of}s, ${chart.order}`, color: colour("soft") },
    };
    const numbers = scale(chart.axis, write[chart.unit], { stacked: chart.stacked, beginAtZero: true });
    const perLabel = chart.stacked ? 1 : datasets.length;
    return {
      height: upright ? 280 : chart.labels.length * (12 + 13 * perLabel) + 76,
      config: {
        type: "bar",
        data: { labels: chart.labels, datasets },
        options: options(
          datasets.length > 1,
          { callbacks: { label: (item) => `${item.dataset.label}: ${exact[chart.unit](item.raw)}` } },
          {
            indexAxis: upright ? "x" : "y",
            interaction: { mode: "index", axis: upright ? "x" : "y", intersect: false },
            scales: upright ? { x: names, y: numbers } : { x: numbers, y: names },
            onClick: (event, found) => found.length && choose(chart.labels[found[0].index]),
            onHover: (event, found, drawing) => {
              drawing.canvas.style.cursor = found.length && Object.keys(chart.details).length ? "pointer" : "";
            },
          },
        ),
      },
    };
  };

  const profile = (chart) => {
    const gone = new Set(chart.gone);
    const order = chart.values.map((value, channel) => channel).filter((channel) => chart.values[channel] !== null);
    order.sort((a, b) => chart.values[b] - chart.values[a]);
    const side = (name, faint) => ({
      label: name,
      data: order.map((channel) => (gone.has(channel) === faint ? chart.values[channel] : null)),
      backgroundColor: colour(faint ? "faint" : "main"),
      categoryPercentage: order.length > 60 ? 1 : 0.9,
      barPercentage: 1,
      stack: "one",
    });
    const datasets = [side("stays", false), ...(gone.size ? [side("goes", true)] : [])];
    return {
      height: 250,
      config: {
        type: "bar",
        data: { labels: order.map((channel) => `channel ${channel}`), datasets },
        options: options(
          datasets.length > 1,
          {
            filter: (item) => item.raw !== null,
            callbacks: { label: (item) => `${item.dataset.label}: ${exact.number(item.raw)}` },
          },
          {
            interaction: { mode: "index", intersect: false },
            scales: {
              x: {
                stacked: true,
                border: { display: false },
                grid: { display: false },
                ticks: { display: false },
                title: { display: true, text: "channels, the largest first", color: colour("soft") },
              },
              y: scale(chart.axis, write.number, { beginAtZero: true }),
            },
          },
        ),
      },
    };
  };

  const curves = (chart) => {
    const colours = ["main", "second", "third"];
    let used = 0;
    const datasets = chart.curves.map((curve) => {
      const own = colour(curve.faint ? "faint" : colours[used++ % colours.length]);
      return {
        label: curve.name,
        data: curve.points.map(([x, y], number) => ({ x, y, name: curve.labels[number] ?? "" })),
        showLine: curve.joined,
        borderColor: own,
        backgroundColor: own,
        borderWidth: 2,
        // One point on a curve lies on top of it.
        order: curve.joined ? 1 : 0,
        pointRadius: curve.points.length > 60 ? 0 : curve.joined ? 3 : 4.5,
        pointHitRadius: 8,
        clip: 6,
      };
    });
    if (chart.limit !== null) {
      const ends = chart.curves.flatMap((curve) => curve.points.map((point) => point[0]));
      datasets.push({
        label: chart.limit_name,
        data: [Math.min(...ends), Math.max(...ends)].map((x) => ({ x, y: chart.limit })),
        showLine: true,
        borderColor: colour("limit"),
        backgroundColor: colour("limit"),
        borderDash: [5, 4],
        borderWidth: 1.5,
        pointRadius: 0,
        pointHitRadius: 0,
      });
    }
    const [across, up] = chart.units;
    return {
      height: chart.small ? 250 : 300,
      config: {
        type: "scatter",
        data: { datasets },
        options: options(
          datasets.length > 1,
          {
            callbacks: {
              title: (items) => items[0].raw.name || items[0].dataset.label,
              label: (item) => [`${chart.across}: ${exact[across](item.raw.x)}`, `${chart.up}: ${exact[up](item.raw.y)}`],
            },
          },
          {
            interaction: { mode: "nearest", intersect: false },
            scales: { x: scale(chart.across, write[across]), y: scale(chart.up, write[up], up === "share" ? { max: 1 } : { beginAtZero: true }) },
          },
        ),
      },
    };
  };

  const kinds = { bars, profile, curves };

  const draw = (box, chart, choose) => {
    drawn.get(box)?.destroy();
    const { height, config } = kinds[chart.kind](chart, box.clientWidth, choose);
    box.style.height = `${height}px`;
    const canvas = make("canvas", {});
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", chart.title);
    box.replaceChildren(canvas);
    drawn.set(box, new Chart(canvas, config));
  };

  const canvasBox = (figure, chart, choose) => {
    const box = make("div", { className: "canvas" });
    figure.append(box);
    draw(box, chart, choose);
    return () => box.isConnected && draw(box, chart, choose);
  };

  // The charts of one label below the bars, with a list to choose by; returns what chooses.
  const detail = (figure, chart) => {
    const names = Object.keys(chart.details);
    const panel = make("div", { className: "detail" });
    const list = make("select", {});
    list.setAttribute("aria-label", `Choose a ${chart.of}`);
    list.append(...names.map((name) => make("option", { value: name, textContent: name })));
    const shown = make("div", { className: "chosen" });
    panel.append(list, shown);
    figure.append(panel);
    const rows = new Map();
    for (const row of figure.closest("section").querySelectorAll("tbody tr")) {
      const name = row.cells[0].textContent;
      if (!(name in chart.details)) continue;
      rows.set(name, row);
      row.classList.add("choosable");
      row.addEventListener("click", () => {
        choose(name);
        panel.scrollIntoView({ block: "nearest" });
      });
    }
    let redraw = [];
    const choose = (name) => {
      if (!(name in chart.details)) return;
      list.value = name;
      for (const box of shown.querySelectorAll(".canvas")) {
        drawn.get(box)?.destroy();
        drawn.delete(box);
      }
      shown.replaceChildren();
      redraw = chart.details[name].map((each) => {
        const inner = make("figure", {});
        inner.append(make("figcaption", { textContent: each.title }));
        shown.append(inner);
        return canvasBox(inner, { ...each, small: true }, () => {});
      });
      for (const [label, row] of rows) row.classList.toggle("now", label === name);
    };
    list.addEventListener("change", () => choose(list.value));
    // What lost most is what to begin with.
    const lost = chart.series.find((series) => series.faint)?.values ?? [];
    const first = names.reduce((best, name) => (lossOf(name) > lossOf(best) ? name : best));
    function lossOf(name) {
      return lost[chart.labels.indexOf(name)] ?? 0;
    }
    return { choose, first, redraw: () => redraw.forEach((each) => each()) };
  };

  // Chart.js leaves no room between the legend and the plot.
  Chart.register({
    id: "room",
    beforeInit: (drawing) => {
      const fit = drawing.legend.fit;
      drawing.legend.fit = function fitWithRoom() {
        fit.call(this);
        if (this.options.display) this.height += 8;
      };
    },
  });
  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  Chart.defaults.font.size = 12;
  const all = [...document.querySelectorAll("figure[data-chart]")].map((figure) => {
    const chart = charts[Number(figure.dataset.chart)];
    let own = null;
    const redraw = canvasBox(figure, chart, (label) => own?.choose(label));
    if (chart.kind === "bars" && Object.keys(chart.details).length) {
      own = detail(figure, chart);
      own.choose(own.first);
    }
    return () => {
      redraw();
      own?.redraw();
    };
  });
  document.addEventListener("theme", () => all.forEach((redraw) => redraw()));
})();
