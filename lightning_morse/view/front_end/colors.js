// Colours, as #rrggbb and as three numbers from 0 to 255.

export const rgb = (color) => [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));

// A share t of the colour on the ground.
export function mix(color, ground, t) {
  return color.map((c, i) => Math.round(t * c + (1 - t) * ground[i]));
}

// Black or white, whichever is legible on the colour (luma of ITU-R BT.601).
export function ink(color) {
  const [r, g, b] = rgb(color);
  return 0.299 * r + 0.587 * g + 0.114 * b < 128 ? "#ffffff" : "#000000";
}
