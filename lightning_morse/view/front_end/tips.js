// The tip beside what is pointed at or focused and has one in data-tip. It goes with Escape.

import { html } from "./elements.js";

const GAP = 6, MARGIN = 8; // pixels to what it explains, and to the edge of the window

// Adds the tip to a root, and shows it for all that is within.
export function addTips(root) {
  const tip = html("div", { class: "tip", role: "tooltip", id: "morse-tip" });
  let shown = null;
  const hide = () => {
    shown?.removeAttribute("aria-describedby");
    shown = null;
    tip.hidden = true;
  };
  const show = (e) => {
    const of = e.target.closest?.("[data-tip]");
    if (of === shown) return;
    hide();
    if (!of) return;
    shown = of;
    tip.textContent = of.dataset.tip;
    tip.hidden = false;
    of.setAttribute("aria-describedby", tip.id);
    place(tip, of.getBoundingClientRect());
  };
  hide();
  root.append(tip);
  for (const name of ["pointerover", "focusin"]) root.addEventListener(name, show);
  for (const name of ["pointerleave", "focusout"]) root.addEventListener(name, hide);
  window.addEventListener("scroll", hide, { passive: true, capture: true });
  root.ownerDocument.addEventListener("keydown", (e) => {
    if (e.key === "Escape") hide();
  });
}

// Below what it explains, or above where there is no room, and always in the window.
function place(tip, { left, top, bottom }) {
  const { width, height } = tip.getBoundingClientRect();
  const most = window.innerWidth - width - MARGIN;
  const below = bottom + GAP + height <= window.innerHeight;
  tip.style.left = `${Math.max(MARGIN, Math.min(left, most))}px`;
  tip.style.top = `${below ? bottom + GAP : Math.max(MARGIN, top - GAP - height)}px`;
}
