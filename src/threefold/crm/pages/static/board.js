// Moving a card: by drag, by the arrow keys, by its menu. Each ends in the same change, and the board is asked for anew.
(() => {
  "use strict";
  let dragged = null;

  const move = (card, to) => {
    if (!to) return;
    const focus = `card-${card.dataset.id}`;
    self.htmx
      .ajax("POST", card.dataset.move, {
        source: card, // its Idempotency-Key hangs on it
        target: "#board-lanes",
        swap: "outerHTML",
        values: { to, version: card.dataset.version },
      })
      .then(() => document.getElementById(focus)?.focus());
  };
  const moves = (card) => card.dataset.moves.split("|").filter(Boolean);
  const columns = () => [...document.querySelectorAll("[data-column]")].map((column) => column.dataset.column);

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    const link = event.target.closest?.(".board-title");
    const card = link?.closest("[data-move]");
    if (!card) return;
    event.preventDefault();
    const all = columns();
    const allowed = moves(card);
    const step = event.key === "ArrowRight" ? 1 : -1;
    // The nearest column on that side that it may go to.
    for (let at = all.indexOf(card.closest("[data-column]").dataset.column) + step; at >= 0 && at < all.length; at += step)
      if (allowed.includes(all[at])) return move(card, all[at]);
    self.threefold.toast("It cannot go further that way.");
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-to]");
    const card = button?.closest("[data-move]");
    if (card) move(card, button.dataset.to);
  });

  const over = (event) => (dragged ? event.target.closest?.("[data-column]") : null);
  const clear = () => {
    for (const column of document.querySelectorAll(".column.target")) column.classList.remove("target");
  };
  document.addEventListener("dragstart", (event) => {
    const card = event.target.closest?.("[data-move]");
    if (!card) return;
    dragged = card;
    event.dataTransfer.effectAllowed = "move";
    event.dataTransfer.setData("text/plain", card.querySelector(".board-title").textContent);
    for (const column of document.querySelectorAll("[data-column]"))
      column.classList.toggle("barred", column !== card.closest("[data-column]") && !moves(card).includes(column.dataset.column));
  });
  document.addEventListener("dragover", (event) => {
    const column = over(event);
    if (!column || !moves(dragged).includes(column.dataset.column)) return;
    event.preventDefault();
    clear();
    column.classList.add("target");
  });
  document.addEventListener("drop", (event) => {
    const column = over(event);
    if (!column || !moves(dragged).includes(column.dataset.column)) return;
    event.preventDefault();
    move(dragged, column.dataset.column);
  });
  document.addEventListener("dragend", () => {
    dragged = null;
    clear();
    for (const column of document.querySelectorAll(".column.barred")) column.classList.remove("barred");
  });
})();
