/* Say of what is wider than the screen that it goes on, and let keys scroll it. */
function tables(root) {
  const EDGE_PX = 2;
  for (const box of root.querySelectorAll(".scroll")) {
    const note = document.createElement("p");
    note.className = "cue";
    box.after(note);
    const cue = () => {
      const right = box.scrollWidth - box.clientWidth - box.scrollLeft > EDGE_PX,
        left = box.scrollLeft > EDGE_PX;
      box.classList.toggle("more-left", left);
      box.classList.toggle("more-right", right);
      if (right) note.textContent = "There is more to the right →";
      else note.textContent = left ? "← There is more to the left" : "";
      if (left || right) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    };
    const watch = new ResizeObserver(cue);
    for (const node of [box, ...box.children]) watch.observe(node);
    box.addEventListener("scroll", cue, { passive: true });
  }
}
