// What each term of the view means, in the words of docs/glossary.md: a test holds them together.

import { html } from "./elements.js";

const TERMS = {
  "mu": "How sure the number of attractors is: a lower bound on the probability that it is right, "
    + "in this slice, of attractors wider than the finest.",
  "given the model": "The same bound if the model of the loss were beyond doubt. It never is: mu "
    + "also counts how often the model was surprised by a loss.",
  "finest": "Width of the narrowest attractor that the samples would most likely have shown, as a "
    + "share of the box: how wide it is below the lowest pass out of it. Nothing is claimed of "
    + "narrower ones.",
  "undecided": "Starting points of which it is not known where they lead. More samples would tell.",
  "escapes": "Starting points from which training certainly leaves the box.",
  "loss now": "The loss of the current weights on the probe set.",
  "basin now": "The attractor in whose basin the current weights certainly are.",
  "barrier": "How much the loss must rise, in this slice, to get from the current minimum into "
    + "another basin. It is high if the loss changes by much less from batch to batch.",
  "headroom": "Loss still to gain in this slice: the loss now minus that at the attractor of the "
    + "current basin.",
  "sharpness": "How strongly the loss certainly curves at the current weights, along directions of "
    + "this slice; no more than the sharpest direction of all. Above the sharpness limit, such as "
    + "2 / learning rate, plain gradient descent is not stable.",
  "switches": "How often training has certainly changed basins.",
  "forks": "How often two basins have been found where there was one before.",
  "explained": "Share of the training so far that can be seen in this slice.",
  "calibration": "How well the model fits the loss: 1 is good, from 2 on ignore the picture.",
  "flow_length": "How much further the optimiser moved, in this slice, than gradient descent would "
    + "have in the same time: 1 is as far.",
  "flow_angle": "Angle between the way the optimiser moved, in this slice, and the way gradient "
    + "descent would have: 0 is the same way.",
  "attractor": "A minimum, or a connected valley floor, in which training can settle.",
  "saddle": "A pass between basins: the loss falls away on two sides and rises on the others. "
    + "Marked wherever one cannot be ruled out.",
  "repeller": "A top, from which the loss falls away on all sides. Marked likewise.",
  "may hide a minimum": "A place that is not resolved: it may hide a minimum, or nothing. As long "
    + "as there is one, the number of attractors is “at least”.",
  "index": "Number of directions in which the loss falls away: 0 at a minimum, 1 at a saddle.",
  "volume": "Share of the box in which the set may lie: how closely it is located.",
  "basin": "The starting points that certainly end in an attractor; a share of the box.",
};

// What a name means; null for one that is no term.
export const tipOf = (key) => TERMS[key] ?? null;

// A name that says what it means where it is pointed at or focused, see tips.js. A name that is no
// term stays text.
export function term(name, key = name) {
  const tip = tipOf(key);
  return tip ? html("span", { class: "term", tabindex: 0, "data-tip": tip }, name) : name;
}
