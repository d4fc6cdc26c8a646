/* Say of what is wider than the screen that it goes on, and let keys scroll it. */
function tables(root) {
  const EDGE_PX = 2;
  const watch = new ResizeObserver((entries) => entries.forEach(({ target }) => cue(target)));
  for (const box of root.querySelectorAll(".scroll")) {
    const note = document.createElement("p");
    note.className = "cue";
    box.after(note);
    box.addEventListener("scroll", () => cue(box), { passive: true });
    watch.observe(box);
    if (box.firstElementChild) watch.observe(box.firstElementChild);
  }
  function cue(target) {
    const box = target.closest(".scroll"),
      note = box.nextElementSibling;
    const right = box.scrollWidth - box.clientWidth - box.scrollLeft > EDGE_PX,
      left = box.scrollLeft > EDGE_PX;
    box.classList.toggle("more-left", left);
    box.classList.toggle("more-right", right);
    note.textContent = right ? "There is more to the right →" : left ? "← There is more to the left" : "";
    if (left || right) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}
