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
  const severity = ["error", "fail", "warn", "inconclusive", "waived", "skipped", "pass"];
  const keyOf = (row, column) => {
    const text = row.cells[column].textContent.trim();
    if (column === 2) return severity.indexOf(text);
    const numbers = text.split("×").map(Number);
    if (text === "–") return null;
    return text !== "" && !numbers.some(Number.isNaN) ? numbers.reduce((one, other) => one * other) : text;
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
      rows.sort((one, other) => {
        const [left, right] = [keyOf(one, column), keyOf(other, column)];
        // Whichever way, a layer without the number comes last.
        if (left === null || right === null) return (left === null) - (right === null);
        return (isDescending ? -1 : 1) * compare(left, right);
      });
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
