"use strict";
// Tables that sort by a click on a title, filter, and show all rows where asked.
(() => {
  const FILTER_FROM = 8;

  const make = (name, properties) => Object.assign(document.createElement(name), properties);

  // The number of a cell: NaN where it has none, as in "-".
  const numberOf = (cell) => {
    const text = cell.dataset.v ?? cell.textContent.trim();
    return text === "" ? NaN : Number(text);
  };

  const compare = (numeric, falling) => (a, b) => {
    if (!numeric) {
      const order = a.text.localeCompare(b.text, "en", { numeric: true });
      return falling ? -order : order;
    }
    // What has no number comes last, whatever the direction.
    if (Number.isNaN(a.number) || Number.isNaN(b.number)) return Number.isNaN(a.number) - Number.isNaN(b.number);
    const order = a.number < b.number ? -1 : a.number > b.number ? 1 : 0;
    return falling ? -order : order;
  };

  const enhance = (box) => {
    const body = box.querySelector("tbody");
    const titles = [...box.querySelectorAll("th")];
    const rows = [...body.rows];
    const of = box.dataset.of || "rows";
    const most = box.dataset.of ? Number(box.dataset.most) : rows.length;
    const state = { all: rows.length <= most, words: [] };
    const count = make("span", { className: "count" });
    const more = make("button", { type: "button", className: "more" });

    const show = () => {
      let matching = 0;
      for (const row of body.rows) {
        const text = state.words.length ? row.textContent.toLowerCase() : "";
        const matches = state.words.every((word) => text.includes(word));
        matching += matches;
        row.hidden = !matches || (!state.all && matching > most);
      }
      count.textContent = state.words.length ? `${matching} of ${rows.length} ${of}` : "";
      more.textContent = `Show all ${matching} ${of}`;
      more.hidden = state.all || matching <= most;
    };

    const sortBy = (column) => {
      const title = titles[column];
      const numeric = title.classList.contains("n");
      const now = title.getAttribute("aria-sort");
      // Numbers begin with the largest.
      const falling = now ? now === "ascending" : numeric;
      for (const each of titles) each.removeAttribute("aria-sort");
      title.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const keyed = [...body.rows].map((row) => {
        const cell = row.cells[column];
        return { row, text: cell.textContent, number: numeric ? numberOf(cell) : NaN };
      });
      keyed.sort(compare(numeric, falling));
      body.append(...keyed.map((each) => each.row));
      show();
    };

    if (rows.length > 1) {
      titles.forEach((title, column) => {
        const button = make("button", { type: "button", textContent: title.textContent });
        title.replaceChildren(button);
        button.addEventListener("click", () => sortBy(column));
      });
    }
    if (rows.length >= FILTER_FROM) {
      const bar = make("div", { className: "filter" });
      const input = make("input", { type: "search", placeholder: `Filter ${of}`, spellcheck: false });
      input.setAttribute("aria-label", `Filter ${of}`);
      input.addEventListener("input", () => {
        state.words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
        show();
      });
      bar.append(input, count);
      box.prepend(bar);
    }
    more.addEventListener("click", () => {
      state.all = true;
      show();
    });
    box.append(more);
    show();
  };

  document.querySelectorAll(".table").forEach(enhance);
})();
