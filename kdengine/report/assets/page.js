// The page is complete without this script. It sorts tables by a click on a column head, and highlights single lines.
const numberIn = (text) => parseFloat(text.replaceAll(",", "").replace("\u2212", "-"));

function compare(one, other, numeric, sign) {
  if (!one || !other) return (one ? 0 : 1) - (other ? 0 : 1); // what was not measured comes last
  if (numeric) return sign * (numberIn(one) - numberIn(other));
  return sign * one.localeCompare(other, undefined, { numeric: true });
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  table.parentElement.nextElementSibling?.append(" Click a column head to sort by it.");
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const numeric = head.classList.contains("number");
      const before = head.getAttribute("aria-sort");
      const down = before ? before === "ascending" : numeric && head.dataset.first !== "ascending"; // the best number first
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const text = (row) => row.cells[column].textContent.trim();
      const rows = [...table.tBodies[0].rows];
      rows.sort((one, other) => compare(text(one), text(other), numeric, down ? -1 : 1));
      table.tBodies[0].append(...rows);
    });
  });
}

const parts = [...document.querySelectorAll("svg.plot g[id]")]
  .map((part) => [part, part.id.match(/-s(\d+)-/)?.[1]])
  .filter(([, series]) => series !== undefined);

for (const item of document.querySelectorAll(".legend [data-series]")) {
  const fade = (on) => parts.forEach(([part, series]) => part.classList.toggle("faded", on && series !== item.dataset.series));
  item.tabIndex = 0;
  for (const event of ["mouseenter", "focus"]) item.addEventListener(event, () => fade(true));
  for (const event of ["mouseleave", "blur"]) item.addEventListener(event, () => fade(false));
}
