"use strict";
for (const table of document.querySelectorAll("table.layers")) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const controls = table.closest("section").querySelector(".controls");
  const filter = controls.querySelector(".filter");
  const verdicts = controls.querySelector(".verdicts");
  const shown = controls.querySelector(".shown");
  const show = () => {
    const wanted = filter.value.toLowerCase();
    let n = 0;
    for (const row of rows) {
      const isNamed = row.cells[1].textContent.toLowerCase().includes(wanted);
      row.hidden = !(isNamed && (!verdicts.value || row.cells[2].textContent.trim() === verdicts.value));
      n += row.hidden ? 0 : 1;
    }
    shown.textContent = `${n} of ${rows.length} layers`;
  };
  const keyOf = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = Number(text);
    return text !== "" && !Number.isNaN(number) ? number : text === "–" ? Number.NEGATIVE_INFINITY : text;
  };
  const compare = (one, other) =>
    typeof one === "number" && typeof other === "number" ? one - other : String(one).localeCompare(String(other));
  Array.from(table.tHead.rows[0].cells).forEach((cell, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = cell.textContent;
    cell.replaceChildren(button);
    button.addEventListener("click", () => {
      const isDescending = cell.getAttribute("aria-sort") === "ascending";
      for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", isDescending ? "descending" : "ascending");
      rows.sort((one, other) => (isDescending ? -1 : 1) * compare(keyOf(one, column), keyOf(other, column)));
      body.append(...rows);
    });
  });
  filter.addEventListener("input", show);
  verdicts.addEventListener("change", show);
  controls.hidden = false;
  show();
}
addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details")) each.open = true;
});
