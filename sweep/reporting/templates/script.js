// Light help for reading: values at points, series that can be hidden, tables that sort and filter.
// The page is complete without it.
(() => {
  const tip = document.body.appendChild(Object.assign(document.createElement("div"), { id: "tip", hidden: true }));
  const show = (text, x, y) => {
    tip.textContent = text;
    tip.hidden = false;
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${Math.max(8, Math.min(x + 12, room)) + scrollX}px`;
    const above = y - tip.offsetHeight - 12;
    tip.style.top = `${(above > 4 ? above : y + 18) + scrollY}px`;
  };
  let marked = null;
  const hide = () => {
    tip.hidden = true;
    marked?.classList.remove("at");
    marked = null;
  };

  for (const svg of document.querySelectorAll(".panel svg")) {
    const circles = [...svg.querySelectorAll("circle[data-tooltip]")];
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("pointermove", (event) => {
      let best = null, least = 26 ** 2;
      for (const circle of circles) {
        if (circle.style.opacity === "0") continue;
        const box = circle.getBoundingClientRect();
        const far = (box.x + box.width / 2 - event.clientX) ** 2 + (box.y + box.height / 2 - event.clientY) ** 2;
        if (far < least) [best, least] = [circle, far];
      }
      if (best !== marked) hide();
      if (!best) return;
      marked = best;
      best.classList.add("at");
      show(best.dataset.tooltip, event.clientX, event.clientY);
    });
  }
  document.addEventListener("pointerover", (event) => {
    const cell = event.target.closest?.("[data-tip]");
    if (cell) show(cell.dataset.tip, event.clientX, event.clientY);
    else if (!event.target.closest?.(".panel svg")) hide();
  });

  // A click on a name of the legend hides that series in all figures; pointing at it dims the rest.
  const off = new Set();
  const paint = (only) => {
    for (const part of document.querySelectorAll('.panel svg [class^="series"]')) {
      const name = part.classList[0];
      part.style.opacity = off.has(name) ? "0" : only && only !== name ? "0.12" : "";
    }
    for (const button of document.querySelectorAll(".legend button"))
      button.setAttribute("aria-pressed", String(!off.has(button.dataset.series)));
  };
  for (const button of document.querySelectorAll(".legend button")) {
    const name = button.dataset.series;
    button.addEventListener("click", () => {
      off.has(name) ? off.delete(name) : off.add(name);
      paint();
    });
    button.addEventListener("pointerenter", () => !off.has(name) && paint(name));
    button.addEventListener("pointerleave", () => paint());
  }

  const value = (row, column) => {
    const text = row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
    const number = text === "" ? NaN : Number(text);
    return Number.isNaN(number) ? text : number;
  };
  const gap = (value) => value === "" || value === "\u2013";
  const order = (a, b, down) => {
    if (gap(a) || gap(b)) return gap(a) - gap(b); // gaps come last, whichever way it is sorted
    let by = typeof a === "number" ? -1 : 1;
    if (typeof a === typeof b)
      by = typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
    return down ? -by : by;
  };
  for (const table of document.querySelectorAll("table.sorts")) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...body.rows].sort((a, b) => order(value(a, column), value(b, column), down));
        body.append(...rows);
      });
    });
  }
  for (const input of document.querySelectorAll("input.filter")) {
    input.hidden = false;
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of document.getElementById(input.dataset.table).tBodies[0].rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
    });
  }
  if (innerWidth >= 1200) document.querySelector("nav.contents details").open = true;
  // Paper cannot be unfolded.
  addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll(".verdicts details")) folded.open = true;
  });
  // Links into folded parts open them.
  const open = () => document.getElementById(location.hash.slice(1))?.closest("details")?.setAttribute("open", "");
  addEventListener("hashchange", open);
  open();
})();
