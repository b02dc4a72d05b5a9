"use strict";
// Filters and folding. Without it all is there to read, and each tile still leads to its detail.
(() => {
  const form = document.querySelector(".toolbar");
  if (!form) return;
  const rows = [...document.querySelectorAll("[data-verdict]")];
  const details = rows.filter((row) => row.matches("details"));

  const show = () => {
    const verdicts = [...form.querySelectorAll("[name=verdict]:checked")].map((box) => box.value);
    const { level, area } = form.elements;
    for (const row of rows) {
      const { dataset } = row;
      row.hidden =
        (verdicts.length > 0 && !verdicts.includes(dataset.verdict)) ||
        (level.value !== "all" && level.value !== dataset.level) ||
        (area.value !== "all" && area.value !== dataset.area);
    }
    const shown = details.filter((row) => !row.hidden).length;
    form.querySelector("output").textContent = `${shown} of ${details.length}`;
  };

  const fold = (open) => {
    for (const row of details.filter((row) => !row.hidden)) {
      for (const each of [row, ...row.querySelectorAll("details")]) each.open = open;
    }
  };

  // Browsers of today unfold what a link leads into; for those that don't yet.
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const row = target && target.closest("details");
    if (row && !row.open) {
      row.open = true;
      target.scrollIntoView();
    }
  };

  form.addEventListener("change", show);
  form.elements.unfold.addEventListener("click", () => fold(true));
  form.elements.fold.addEventListener("click", () => fold(false));
  addEventListener("hashchange", reveal);
  form.reset();
  form.hidden = false;
  show();
  reveal();
})();
